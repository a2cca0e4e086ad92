"""A long look at everything in the OpenAPI document, with other data every time."""

from __future__ import annotations

import time

from tests.bug_client import Caller
from tests.fuzz import fuzz
from tests.support import running_server


def test_nothing_gives_a_500_or_answers_otherwise_than_documented() -> None:
    start = time.time_ns() % 2**32
    print(f"\nseed {start}")
    with running_server(REST_REQUESTS_PER_SECOND="100000", REST_BURST="100000") as server:
        staff = Caller(server)
        bug = staff.report()
        comment = staff.post(f"/api/bugs/{bug}/comments", {"comment": "x"})["id"]
        seen = fuzz(
            server,
            {"bug_id": [bug, staff.report()], "comment_id": [comment], "device_id": ["ESP32_LL_01"]},
            examples=40,
            start=start,
        )
        print(f"{seen.total()} requests to {len({label for label, _ in seen})} operations")
        assert not [event for event in server.events() if event["level"] in ("error", "critical")]
