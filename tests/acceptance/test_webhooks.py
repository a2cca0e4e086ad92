"""Webhooks on the real process: signed, tried again, dead, sent by hand, and for administrators alone."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from app.core.clock import SystemClock
from app.core.embedded_postgres import EmbeddedPostgres
from app.core.security import Role, create_key
from tests.bug_client import Caller
from tests.support import free_port, running_server
from tests.webhook_receiver import Receiver, receiving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import Server

NOBODY = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def teller() -> Iterator[Server]:
    with running_server(WEBHOOK_RETRY_S="0.1,0.1", WEBHOOK_ALLOW_LOOPBACK="true") as running:
        yield running


@pytest.fixture
def admin(teller: Server) -> Iterator[Caller]:
    """Open mode: a local peer is one. What they made is gone after each test."""
    caller = Caller(teller)
    yield caller
    for one in caller.get("/api/bugs/webhooks")["items"]:
        assert caller.ask("DELETE", f"/api/bugs/webhooks/{one['id']}")[0] == 204


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


async def key_of(server: Server, role: Role) -> str:
    """Made in the database: the command line would take a second."""
    connection: Any = await asyncpg.connect(EmbeddedPostgres(server.folder).dsn)
    try:
        return await create_key(connection, SystemClock(), "test", role)
    finally:
        await connection.close()


def until(caller: Caller, hook: dict[str, Any], state: str) -> list[dict[str, Any]]:
    """Its deliveries, once one is in this state."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = caller.get(f"/api/bugs/webhooks/{hook['id']}/deliveries?state={state}")["items"]
        if found:
            return list(found)
        time.sleep(0.05)
    raise AssertionError(caller.get(f"/api/bugs/webhooks/{hook['id']}/deliveries"))


def test_what_is_done_is_told_with_a_signature_that_verifies(admin: Caller, receiver: Receiver) -> None:
    hook = admin.post("/api/bugs/webhooks", {"url": f"{receiver.url}/in"})
    bug = admin.report(title="Capteur « éteint »", deviceId="ESP32_LL_01")
    (request,) = receiver.wait(1)
    headers = request.headers
    key = base64.b64decode(hook["secret"].removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["x-gaveurs-signature"] == f"sha256={hmac.new(key, request.body, hashlib.sha256).hexdigest()}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert (headers["x-gaveurs-event"], headers["content-type"]) == ("bug.created", "application/json")
    said = request.said
    assert set(said) == {"id", "event", "at", "bug", "change", "comment", "actor"}
    assert said["bug"] == {
        "id": bug, "number": admin.get(f"/api/bugs/{bug}")["number"], "title": "Capteur « éteint »", "status": "open",
        "severity": "high", "priority": "urgent", "deviceId": "ESP32_LL_01", "url": f"/api/bugs/{bug}",
    }  # fmt: skip
    assert said["at"] == admin.get(f"/api/bugs/{bug}/history")["items"][0]["at"]
    assert said["id"] == admin.get(f"/api/bugs/{bug}/history")["items"][0]["id"]
    (delivery,) = until(admin, hook, "delivered")
    assert (delivery["id"], delivery["attempts"], delivery["lastStatus"]) == (headers["webhook-id"], 1, 200)
    detail = admin.get(f"/api/bugs/webhooks/{hook['id']}/deliveries/{delivery['id']}")
    assert detail["body"] == said


def test_a_receiver_that_fails_twice_is_told_once_with_the_third_attempt(admin: Caller, receiver: Receiver) -> None:
    receiver.answer = lambda _request: 500 if len(receiver.requests) < 3 else 204
    hook = admin.post("/api/bugs/webhooks", {"url": receiver.url, "events": ["bug.created"]})
    admin.report()
    (delivery,) = until(admin, hook, "delivered")
    assert (delivery["attempts"], delivery["lastStatus"], delivery["lastError"]) == (3, 204, None)
    assert len({one.headers["webhook-id"] for one in receiver.wait(3)}) == 1
    assert len(receiver.requests) == 3


def test_what_is_dead_is_seen_and_sent_by_hand(admin: Caller, receiver: Receiver) -> None:
    receiver.answer = lambda _request: 500
    hook = admin.post("/api/bugs/webhooks", {"url": receiver.url})
    admin.report()
    (dead,) = until(admin, hook, "dead")
    assert (dead["attempts"], dead["lastStatus"], dead["lastError"]) == (3, 500, "HTTP status 500")
    assert any(one["event"] == "a webhook delivery is dead" for one in admin.server.events())
    receiver.answer = lambda _request: 200
    path = f"/api/bugs/webhooks/{hook['id']}/deliveries"
    status, again, _ = admin.ask("POST", f"{path}/{dead['id']}/resend")
    assert (status, again["state"], again["attempts"]) == (202, "waiting", 0)
    (delivered,) = until(admin, hook, "delivered")
    assert (delivered["id"], delivered["attempts"]) == (dead["id"], 1)
    assert admin.get(f"{path}?state=dead")["items"] == []
    assert admin.ask("POST", f"{path}/{NOBODY}/resend")[0] == 404
    text = admin.server.request("/metrics")[1].decode()
    assert 'webhook_deliveries_total{outcome="dead"}' in text
    assert "webhook_deliveries_waiting" in text


def test_an_internal_comment_is_told_only_to_whom_it_may_be(admin: Caller, receiver: Receiver) -> None:
    admin.post("/api/bugs/webhooks", {"url": f"{receiver.url}/all"})
    admin.post("/api/bugs/webhooks", {"url": f"{receiver.url}/staff", "includeInternal": True})
    bug = admin.report()
    admin.post(f"/api/bugs/{bug}/comments", {"comment": "between us", "isInternal": True})
    admin.post(f"/api/bugs/{bug}/comments", {"comment": "for all"})
    receiver.wait(5)
    told = {path: [one for one in receiver.requests if one.path == path] for path in ("/all", "/staff")}
    assert [one.said["event"] for one in told["/all"]] == ["bug.created", "bug.commented"]
    assert told["/all"][1].said["comment"]["comment"] == "for all"
    assert not any(b"between us" in one.body or b"nternalC" in one.body for one in told["/all"])
    assert [one.said["comment"] and one.said["comment"]["comment"] for one in told["/staff"]] == [
        None, "between us", "for all",
    ]  # fmt: skip


def test_what_was_refused_is_not_told(admin: Caller, receiver: Receiver) -> None:
    bug = admin.report()
    hook = admin.post("/api/bugs/webhooks", {"url": receiver.url})
    refused = {"title": "another", "status": "reopened"}
    assert admin.ask("PATCH", f"/api/bugs/{bug}", refused)[0] == 409
    assert admin.ask("POST", f"/api/bugs/webhooks/{hook['id']}/ping")[0] == 202
    assert [one.said["event"] for one in receiver.wait(1)] == ["ping"]
    assert len(admin.get(f"/api/bugs/webhooks/{hook['id']}/deliveries")["items"]) == 1
    assert admin.patch(f"/api/bugs/webhooks/{hook['id']}", {"enabled": False})["enabled"] is False
    assert admin.ask("POST", f"/api/bugs/webhooks/{hook['id']}/ping")[0] == 409


def test_a_webhook_is_changed_and_its_secret_rotated_and_shown_no_other_time(admin: Caller, receiver: Receiver) -> None:
    made = admin.post("/api/bugs/webhooks", {"url": receiver.url, "events": ["bug.linked"]})
    path = f"/api/bugs/webhooks/{made['id']}"
    assert "secret" not in admin.get(path)
    assert "secret" not in admin.get("/api/bugs/webhooks")["items"][0]
    changed = admin.patch(path, {"events": ["bug.created", "ping"]})
    assert (changed["events"], changed["secret"], changed["url"]) == (["bug.created", "ping"], None, receiver.url)
    rotated = admin.patch(path, {"rotateSecret": True})["secret"]
    assert rotated not in (None, made["secret"])
    assert admin.ask("POST", f"{path}/ping")[0] == 202
    (request,) = receiver.wait(1)
    key = base64.b64decode(rotated.removeprefix("whsec_"))
    assert request.headers["x-gaveurs-signature"] == f"sha256={hmac.new(key, request.body, hashlib.sha256).hexdigest()}"


def test_deliveries_come_in_pages_newest_first(admin: Caller, receiver: Receiver) -> None:
    hook = admin.post("/api/bugs/webhooks", {"url": receiver.url})
    path = f"/api/bugs/webhooks/{hook['id']}"
    ids = [admin.ask("POST", f"{path}/ping")[1]["id"] for _ in range(3)]
    first = admin.get(f"{path}/deliveries?limit=2")
    second = admin.get(f"{path}/deliveries?limit=2&cursor={first['nextCursor']}")
    assert [one["id"] for one in first["items"] + second["items"]] == ids[::-1]
    assert second["nextCursor"] is None
    receiver.wait(3)


def test_only_administrators_see_and_make_webhooks(admin: Caller) -> None:
    routes = [("GET", ""), ("POST", ""), ("GET", f"/{NOBODY}"), ("PATCH", f"/{NOBODY}"), ("DELETE", f"/{NOBODY}"),
              ("POST", f"/{NOBODY}/ping"), ("GET", f"/{NOBODY}/deliveries"), ("GET", f"/{NOBODY}/deliveries/{NOBODY}"),
              ("POST", f"/{NOBODY}/deliveries/{NOBODY}/resend")]  # fmt: skip
    bodies = {("POST", ""): {"url": "http://x.example/"}, ("PATCH", f"/{NOBODY}"): {"enabled": False}}
    for role in ("operator", "reporter"):
        caller = Caller(admin.server, asyncio.run(key_of(admin.server, Role(role))))
        for method, path in routes:
            status = caller.ask(method, f"/api/bugs/webhooks{path}", bodies.get((method, path)))[0]
            assert status == 403, (role, method, path)
    for method, path in routes[2:]:
        assert admin.ask(method, f"/api/bugs/webhooks{path}", bodies.get((method, path)))[0] == 404, (method, path)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/url"),
        ({"url": "ftp://x.example/"}, "#/url"),
        ({"url": "http://user:pass@x.example/"}, "#/url"),
        ({"url": "http://x.example/\u0000"}, "#/url"),
        ({"url": "http://\ud800.example/"}, None),
        ({"url": "http://x.example:99999/"}, "#/url"),
        ({"url": "http://169.254.169.254/latest"}, "#/url"),
        ({"url": "http://" + "x" * 3_000}, "#/url"),
        ({"url": 1}, "#/url"),
        ({"url": "http://x.example/", "events": []}, "#/events"),
        ({"url": "http://x.example/", "events": ["bug.eaten"]}, "#/events/0"),
        ({"url": "http://x.example/", "events": "*"}, "#/events"),
        ({"url": "http://x.example/", "includeInternal": "yes"}, "#/includeInternal"),
        ({"url": "http://x.example/", "secret": "mine"}, "#/secret"),
    ],
)
def test_what_cannot_be_is_refused_with_a_pointer(admin: Caller, body: Any, pointer: str | None) -> None:
    status, problem, _ = admin.ask("POST", "/api/bugs/webhooks", body)
    assert status == 422, problem
    if pointer is not None:
        assert pointer in [one.get("pointer") for one in problem["errors"]]
    if "secret" not in body and "url" in body:
        assert admin.ask("PATCH", f"/api/bugs/webhooks/{NOBODY}", body)[0] == 422


def test_what_waits_when_the_process_is_killed_is_sent_by_the_next_one(admin: Caller) -> None:
    server, port = admin.server, free_port()
    hook = admin.post("/api/bugs/webhooks", {"url": f"http://127.0.0.1:{port}/"})
    with receiving(port) as receiver:
        receiver.answer = receiver.hang
        bug = admin.report()
        receiver.wait(1)
        admin.report()
        server.kill()
    with receiving(port) as receiver:
        server.start()
        (request,) = receiver.wait(1)
        assert request.said["event"] == "bug.created"
        assert request.said["bug"]["id"] != bug  # the one that was being sent is its dead sender's for a while yet
    assert len(until(admin, hook, "delivered")) == 1
