"""An outsider sees no trace of an internal comment: every route that can be read is asked before and after."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.bug_client import Caller, make_key
from tests.support import Server, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "zorglub"
# What changes by itself from one moment to the next.
VOLATILE = {"elapsedHours", "medianAgeHours", "medianHours", "median", "p90", "uptime_s", "from", "to", "per_second"}
# Read, but not about bugs; or with side effects; or not to be read by outsiders at all.
LISTS = (
    f"/api/bugs/?text={SECRET}", "/api/bugs/?sort=-updatedAt", "/api/bugs/?sort=updatedAt&limit=1", "/api/bugs/?skip=1",
    f"/api/bugs/?text=-{SECRET}", f"/api/bugs/similar?title={SECRET}", f"/api/bugs/export.csv?text={SECRET}",
    f"/api/bugs/export.json?text={SECRET}&comments=true", "/api/bugs/export.json?comments=true",
)  # fmt: skip


class World:
    """A server that knows a bug with everything on it, and the keys of who looks."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.staff = Caller(server)
        self.outsiders = [Caller(server, make_key(server, role)) for role in ("viewer", "reporter")]
        self.bug = self.staff.report(deviceId="ESP32_LL_01", firmwareVersion="v2.3.1", tags=["sensor"])
        self.other = self.staff.report(title="another one")
        self.path = f"/api/bugs/{self.bug}"
        self.comment = self.staff.post(f"{self.path}/comments", {"comment": "for everybody"})["id"]
        self.known = {"bug_id": self.bug, "comment_id": self.comment, "device_id": "ESP32_LL_01"}

    def routes(self) -> list[str]:
        """Every GET of the OpenAPI document whose path we can fill, and lists in several ways."""
        document = self.staff.get("/openapi.json")
        readable = [path for path, ways in document["paths"].items() if "get" in ways]
        filled = [path.format_map(_Known(self.known)) for path in readable]
        return [path for path in filled if "{" not in path and not path.endswith(".parquet")] + list(LISTS)

    def seen_by(self, outsider: Caller) -> dict[str, Any]:
        """What the outsider is answered on every route, without what time alone changes."""
        seen = {}
        for path in self.routes():
            status, body, headers = outsider.ask("GET", path)
            seen[path] = (status, settled(body), headers.get("etag"))
        return seen

    def say_internally(self) -> list[str]:
        """Everything that can be internal, done by staff; the ids of what came of it."""
        said = self.staff.post(
            f"{self.path}/comments", {"comment": f"{SECRET} is to blame, see #1", "isInternal": True}
        )
        self.staff.patch(f"{self.path}/comments/{said['id']}", {"comment": f"{SECRET} it was"})
        ids = [said["id"]]
        attached = self.attach(f"{self.path}/comments/{said['id']}/attachments")
        return [*ids, attached]

    def attach(self, path: str) -> str:
        boundary = "xxx"
        body = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{SECRET}.txt"\r\n'
            f"Content-Type: text/plain\r\n\r\n{SECRET}\r\n--{boundary}--\r\n"
        )
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        status, raw, _ = self.server.request_raw(path, body.encode(), headers=headers)
        assert status == 201, (status, raw)
        made: str = json.loads(raw)["id"]
        return made


class _Known(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return "{" + name + "}"


def settled(body: Any) -> Any:
    if isinstance(body, dict):
        return {name: settled(value) for name, value in body.items() if name not in VOLATILE}
    if isinstance(body, list):
        return [settled(value) for value in body]
    return re.sub(rb"\d+\.\d+", b"#", body) if isinstance(body, bytes) else body


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with running_server(REST_REQUESTS_PER_SECOND="100000", REST_BURST="100000") as server:
        yield World(server)


@pytest.mark.usefixtures("within_one_day")
def test_no_route_tells_an_outsider_of_an_internal_comment(world: World) -> None:
    before = [world.seen_by(outsider) for outsider in world.outsiders]
    assert sum(path.startswith("/api/bugs") and seen[0] == 200 for path, seen in before[0].items()) >= 12
    ids = world.say_internally()
    after = [world.seen_by(outsider) for outsider in world.outsiders]
    for was, now in zip(before, after, strict=True):
        assert {path for path in was if was[path] != now[path] and path != "/metrics"} == set()
        assert [path for path, answer in now.items() for one in (SECRET, *ids) if one in repr(answer[1])] == []
    for outsider in world.outsiders:
        comment, attachment = ids
        assert outsider.ask("GET", f"{world.path}/comments/{comment}")[0] == 404
        assert outsider.ask("GET", f"{world.path}/comments/{comment}/attachments")[0] == 404
        assert outsider.ask("GET", f"{world.path}/attachments/{attachment}")[0] == 404
    reporter = world.outsiders[1]
    assert reporter.ask("PATCH", f"{world.path}/comments/{ids[0]}", {"comment": "mine"})[0] == 404
    assert reporter.ask("DELETE", f"{world.path}/attachments/{ids[1]}")[0] == 404


def test_staff_sees_all_of_it(world: World) -> None:
    world.say_internally()
    assert SECRET in repr(world.staff.get(f"{world.path}/comments"))
    assert SECRET in repr(world.staff.get(f"{world.path}/history"))
    assert SECRET in repr(world.staff.get(f"{world.path}/attachments"))
    assert world.staff.get(f"/api/bugs/?text={SECRET}")["total"] == 1


def test_an_outsider_cannot_make_an_internal_comment_or_change_a_bug(world: World) -> None:
    for outsider, may_comment in zip(world.outsiders, (False, True), strict=True):
        internal = {"comment": "x", "isInternal": True}
        assert outsider.ask("POST", f"{world.path}/comments", internal)[0] == 403
        said = outsider.ask("POST", f"{world.path}/comments", {"comment": "x"})[0]
        assert said == (201 if may_comment else 403)
        assert outsider.ask("PATCH", world.path, {"title": "x"})[0] == 403


def test_an_outsider_does_not_see_how_to_reach_who_reported(world: World) -> None:
    bug = world.staff.report(reportedByEmail="jean@euralis.com")
    assert world.staff.get(f"/api/bugs/{bug}")["reportedByEmail"] == "jean@euralis.com"
    for outsider in world.outsiders:
        assert "euralis" not in repr([outsider.get(f"/api/bugs/{bug}"), outsider.get("/api/bugs/")])


def test_without_a_key_nobody_from_elsewhere_sees_anything(world: World) -> None:
    stranger = {"X-Forwarded-For": "203.0.113.9"}
    for path in ("/api/bugs/", world.path, f"{world.path}/comments", "/api/bugs/metrics/summary"):
        assert world.server.request(path, headers=stranger)[0] == 401
