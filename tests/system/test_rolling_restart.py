"""Two replicas behind haproxy, restarted in turn under load: nobody is refused, nothing is lost, dashboards keep up.

Needs Debian's haproxy; `make check-system` runs it. Figures are printed; what must hold is asserted.
"""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import TYPE_CHECKING

import pytest

from tests.journal_check import assert_kept
from tests.system.cluster import NAMES, running_cluster, until
from tests.system.load import KEEP_UP_S, LATEST, Load, longest_lag_s, name_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.system.cluster import Cluster, Replica
    from tests.system.load import Name

ROUNDS = 5
LOAD_S = 120.0
AGREE_S = 3.0


@pytest.fixture
async def cluster(dsn: str) -> AsyncIterator[Cluster]:
    async with running_cluster(dsn) as running:
        yield running


def latest(replicas: dict[str, Replica]) -> set[Name]:
    return {name_of(replica.get("/api/sqal/latest")) for replica in replicas.values()}


def report(cluster: Cluster, load: Load) -> None:
    """Print who was served by whom."""
    answers = load.answers
    print(f"\nrequests: {len(answers)}, failed: {len(load.failed)}, by {dict(Counter(one.replica for one in answers))}")
    print(f"slowest answer: {max(answer.answered_at - answer.asked_at for answer in answers):.2f} s")
    for backend in ("requests", "sockets"):
        row = cluster.proxy.figures(backend, "BACKEND")
        print(f"haproxy, {backend}: {row['wretr']} retries, {row['wredis']} redispatched, {row['hrsp_5xx']} refused")
    print(load.journal.summary())
    for dashboard in load.dashboards:
        print(
            f"dashboard: heard {len(dashboard.heard)} of {len(load.journal.acks)}, closed {dict(dashboard.closes)},"
            f" longest gap {dashboard.longest_gap_s():.2f} s"
        )


@pytest.mark.timeout(420)
async def test_two_replicas_are_restarted_in_turn_and_nobody_notices(cluster: Cluster) -> None:
    load = Load(cluster, LOAD_S)
    restarts_s, crossings_s = [], []
    async with load.running():
        for _ in range(ROUNDS):
            for name in NAMES:
                restarts_s.append(await cluster.restart(name))
                crossings_s.append(await load.crossing(name))
    agreed_s = await until(lambda: len(latest(cluster.replicas)) == 1, AGREE_S, "both show the same latest sample")
    lag_s = longest_lag_s([answer for answer in load.answers if answer.status == 200 and answer.path == LATEST])
    receipts = [receipt for replica in cluster.replicas.values() for receipt in replica.receipts()]
    report(cluster, load)
    print(f"restarts: {len(restarts_s)}, each {min(restarts_s):.1f} to {max(restarts_s):.1f} s")
    print(f"receipts: {sum(one['acked'] for one in receipts)} acked, {sum(one['lost_acked'] for one in receipts)} lost")
    print(f"visitors: {len(load.visitors.acked)} served; heard across after {median(crossings_s):.1f} s (median),"
          f" {max(crossings_s):.1f} s at most")  # fmt: skip
    print(f"latest: at most {lag_s:.2f} s behind the other replica, the same {agreed_s:.2f} s after the end")

    assert not load.failed, load.failed[:3]
    assert {answer.replica for answer in load.answers} == set(NAMES)
    assert cluster.proxy.figures("edge", "FRONTEND")["hrsp_5xx"] == "0"  # handshakes included
    assert load.journal.unacknowledged == load.journal.refused == load.journal.dropped == 0
    assert load.journal.duplicates == 0  # whatever a replica read, it acknowledged before it closed
    assert len(receipts) == len(restarts_s) == 2 * ROUNDS
    assert all(receipt["lost_acked"] == receipt["in_hand"] == 0 for receipt in receipts)
    for dashboard in load.dashboards:
        assert dashboard.refusals == []
        assert set(dashboard.closes) == {1012}
        assert dashboard.longest_gap_s() < KEEP_UP_S
    assert lag_s < AGREE_S
    assert_kept(cluster.replicas["a"], load.journal)
