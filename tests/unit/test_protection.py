"""The protecting middleware by itself: the gate of a shutdown, deadlines, limits."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from starlette.exceptions import HTTPException

from app.core.client_address import ClientAddresses
from app.core.rate_limiter import Limiter
from app.core.rate_policy import Rate
from app.core.requests_in_hand import RequestsInHand
from app.core.security import Principal
from app.routers.protection import BodyLimit, Deadline, DrainGate, RestLimit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Client:
    """Asks an ASGI application directly."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.in_hand = RequestsInHand()
        infrastructure = SimpleNamespace(in_hand=self.in_hand, addresses=ClientAddresses(()))
        self.state = SimpleNamespace(runtime=SimpleNamespace(infrastructure=infrastructure))

    async def ask(
        self,
        path: str = "/api/x",
        *,
        who: str | None = None,
        address: str = "192.0.2.1",
        method: str = "GET",
        headers: list[tuple[bytes, bytes]] | None = None,
    ) -> Any:
        sent: list[dict[str, Any]] = []
        state = {"principal": Principal("key", who, frozenset())} if who else {}

        async def send(event: Any) -> None:
            sent.append(event)

        scope = {
            "type": "http", "path": path, "method": method, "headers": headers or [], "client": (address, 1), "state": state,
            "app": SimpleNamespace(state=self.state),
        }  # fmt: skip

        async def receive() -> Any:
            return {"type": "http.request", "body": b"x" * 100, "more_body": True}

        await self.app(scope, receive, send)
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], found, b"".join(event.get("body", b"") for event in sent)


def answering(
    before: Callable[[], Awaitable[Any]] | None = None, after: Callable[[], Awaitable[Any]] | None = None
) -> Any:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        if before:
            await before()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if after:
            await after()
        await send({"type": "http.response.body", "body": b"ok"})

    return app


async def hang() -> None:
    await asyncio.Event().wait()


async def test_an_answer_that_does_not_begin_in_time_is_503_with_a_time_to_come_back() -> None:
    status, headers, body = await Client(Deadline(answering(before=hang), 0.02)).ask()
    assert status == 503
    assert int(headers["retry-after"]) >= 1
    assert json.loads(body)["code"] == "deadline_exceeded"


async def test_an_answer_that_has_begun_may_take_longer_than_the_deadline() -> None:
    status, _, body = await Client(Deadline(answering(after=lambda: asyncio.sleep(0.05)), 0.02)).ask()
    assert (status, body) == (200, b"ok")


async def test_a_time_out_of_the_applications_own_is_not_taken_for_the_deadline() -> None:
    async def fail() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await Client(Deadline(answering(before=fail), 10)).ask()


@pytest.mark.parametrize("length", ["1001", "9" * 40])
async def test_a_body_that_says_it_is_too_large_is_not_read(length: str) -> None:
    client = Client(BodyLimit(answering(), 1_000))
    status, headers, body = await client.ask(method="POST", headers=[(b"content-length", length.encode())])
    assert (status, headers["connection"], json.loads(body)["code"]) == (413, "close", "content_too_large")
    assert (await client.ask(method="POST", headers=[(b"content-length", b"1000")]))[0] == 200


UPLOADS = ["/api/bugs/x/attachments", "/api/bugs/x/comments/y/attachments"]
NO_UPLOADS = ["/api/bugs/x/attachments/y", "/api/bugs/attachments", "/api/bugs/x/y/z/attachments", "/api/x/attachments"]


@pytest.mark.parametrize("path", UPLOADS)
async def test_an_upload_may_be_larger_and_take_longer(path: str) -> None:
    app = BodyLimit(Deadline(answering(before=lambda: asyncio.sleep(0.05)), 0.02), 1_000, upload_limit=2_000)
    length = [(b"content-length", b"2000")]
    assert (await Client(app).ask(path, method="POST", headers=length))[0] == 200
    assert (await Client(app).ask(path, method="POST", headers=[(b"content-length", b"2001")]))[0] == 413
    assert (await Client(app).ask(path, method="PUT", headers=length))[0] == 413
    assert (await Client(app).ask(path))[0] == 503


@pytest.mark.parametrize("path", NO_UPLOADS)
async def test_nothing_else_may(path: str) -> None:
    app = BodyLimit(Deadline(answering(before=lambda: asyncio.sleep(0.05)), 0.02), 1_000, upload_limit=2_000)
    assert (await Client(app).ask(path, method="POST", headers=[(b"content-length", b"2000")]))[0] == 413
    assert (await Client(app).ask(path, method="POST"))[0] == 503


async def test_a_body_that_grows_too_large_is_given_up() -> None:
    read = 0

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        nonlocal read
        while True:
            read += len((await receive())["body"])

    with pytest.raises(HTTPException) as refused:
        await Client(BodyLimit(app, 1_000)).ask(method="POST")
    assert refused.value.status_code == 413
    assert read <= 1_000


async def test_while_the_gate_is_closed_new_requests_are_refused_and_old_ones_end() -> None:
    go = asyncio.Event()
    client = Client(DrainGate(answering(before=go.wait)))
    old = asyncio.create_task(client.ask())
    await asyncio.sleep(0)
    assert client.in_hand.count == 1
    client.in_hand.closed = True
    status, headers, body = await client.ask()
    assert (status, headers["connection"], json.loads(body)["code"]) == (503, "close", "draining")
    assert int(headers["retry-after"]) >= 1
    go.set()
    assert (await old)[0] == 200
    assert client.in_hand.count == 0
    assert (await Client(DrainGate(answering())).ask("/health/ready"))[0] == 200


async def test_probes_pass_a_closed_gate_and_an_empty_budget() -> None:
    limiter = Limiter("rest", Rate(0.001, 1), monotonic=lambda: 0.0)
    client = Client(DrainGate(RestLimit(answering(), limiter)))
    client.in_hand.closed = True
    for path in ("/health", "/health/live", "/health/ready", "/health/startup", "/metrics"):
        assert [(await client.ask(path))[0] for _ in range(3)] == [200] * 3


async def test_a_failing_request_is_counted_out_too() -> None:
    async def fail() -> None:
        raise RuntimeError

    client = Client(DrainGate(answering(before=fail)))
    with pytest.raises(RuntimeError):
        await client.ask()
    assert client.in_hand.count == 0


async def test_each_principal_has_a_budget_and_is_told_what_is_left() -> None:
    now = 0.0
    limiter = Limiter("rest", Rate(2, 4), monotonic=lambda: now)
    client = Client(RestLimit(answering(), limiter))
    answers = [await client.ask(who="a") for _ in range(5)]
    assert [status for status, _, _ in answers] == [200] * 4 + [429]
    assert answers[0][1]["ratelimit-policy"] == '"rest";q=4;w=2'
    assert answers[0][1]["ratelimit"] == '"rest";r=3;t=1'
    _, headers, body = answers[4]
    assert headers["retry-after"] == "1"
    assert json.loads(body)["code"] == "too_many_requests"
    assert headers["content-type"] == "application/problem+json"
    assert (await client.ask(who="b"))[0] == 200, "another key"
    assert (await client.ask())[0] == 200, "an address"
    now = 0.5
    assert (await client.ask(who="a"))[0] == 200


@pytest.mark.parametrize(
    ("forwarded", "peer", "expected"),
    [
        ([], "10.0.0.1", "10.0.0.1"),
        (["203.0.113.9"], "10.0.0.1", "203.0.113.9"),
        (["198.51.100.1, 203.0.113.9"], "10.0.0.1", "203.0.113.9"),  # what a client writes itself is to the left
        (["203.0.113.9, 10.0.0.7"], "10.0.0.1", "203.0.113.9"),
        (["198.51.100.1", "203.0.113.9"], "10.0.0.1", "203.0.113.9"),  # two lines are one list
        (["10.0.0.8"], "10.0.0.1", "10.0.0.8"),
        (["garbage"], "10.0.0.1", "unknown"),
        (["203.0.113.9"], "192.0.2.1", "192.0.2.1"),  # a stranger says so
        (["203.0.113.9"], "not an address", "not an address"),
    ],
)
def test_only_trusted_proxies_are_believed(forwarded: list[str], peer: str, expected: str) -> None:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    assert ClientAddresses(["10.0.0.0/8"]).of({"client": (peer, 1), "headers": headers}) == expected


def test_a_peer_without_an_address_has_one_budget_with_its_like() -> None:
    assert ClientAddresses([]).of({"client": None, "headers": []}) == "unknown"
