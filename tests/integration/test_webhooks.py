"""The outbox of webhooks and its sender, on a real database and with real receivers."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from app.bugs import comments, deliveries, tracker, webhook_post, webhooks
from app.bugs.audience import Audience
from app.bugs.webhook_sender import SenderOptions, WebhookSender
from app.core.circuit_breaker import CircuitBreaker
from app.core.clock import SystemClock
from app.core.database import Database, judge
from app.core.dependency import Dependency
from app.core.errors import ConflictError
from app.core.faults import FaultSwitches
from app.core.metrics import Metrics
from app.core.migrations import migrate
from app.infrastructure import DATABASE
from tests.integration.conftest import ManualClock
from tests.webhook_receiver import receiving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

REPORT = {"title": "t", "description": "d", "severity": "high", "priority": "low", "reported_by_email": "jean@x.fr"}
LEASE = timedelta(seconds=30)


class Desk:
    """Somebody at the tracker, on a connection of his own."""

    def __init__(self, connection: Any, clock: ManualClock) -> None:
        self.connection = connection
        self.clock = clock

    async def webhook(self, url: str = "http://receiver.example/", **wanted: Any) -> dict[str, Any]:
        draft = {"url": url, "events": ["*"], "include_internal": False, "enabled": True} | wanted
        async with self.connection.transaction():
            return await webhooks.create_webhook(self.connection, draft, "admin", self.clock.now(), loopback=True)

    async def change(self, webhook: dict[str, Any], **changes: Any) -> None:
        await webhooks.change_webhook(self.connection, webhook["id"], changes, rotate_secret=False, loopback=True)

    async def report(self) -> Any:
        async with self.connection.transaction():
            return (await tracker.report_bug(self.connection, REPORT, "somebody", self.clock.now()))["id"]

    async def comment(self, bug: Any, said: str, *, is_internal: bool) -> Any:
        async with self.connection.transaction():
            return await comments.add_comment(
                self.connection, bug, said, None, "somebody", self.clock.now(), is_internal=is_internal
            )

    async def outbox(self) -> list[Any]:
        return list(await self.connection.fetch("SELECT * FROM bug_deliveries ORDER BY created_at, kind"))

    async def until(self, condition: str) -> None:
        async with asyncio.timeout(20):
            while not await self.connection.fetchval(f"SELECT {condition} FROM bug_deliveries"):
                await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def dsn(postgres_dsn: str) -> Iterator[str]:
    """One database for this file: its tables are emptied for each test, which is cheaper than making them."""
    name = f"test_{uuid4().hex[:12]}"

    async def make(statement: str) -> None:
        connection = await asyncpg.connect(postgres_dsn)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(make(f"CREATE DATABASE {name}"))
    made = urlunsplit(urlsplit(postgres_dsn)._replace(path=f"/{name}"))
    asyncio.run(migrate(made))
    yield made
    asyncio.run(make(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def desk(dsn: str) -> AsyncIterator[Desk]:
    connection = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
    # Without the triggers: one of them keeps the history, of which nothing else is ever emptied.
    await connection.execute("SET session_replication_role = replica")
    await connection.execute("TRUNCATE bug_webhooks, bugs CASCADE")
    await connection.execute("RESET session_replication_role")
    yield Desk(connection, ManualClock())
    await asyncio.wait_for(connection.close(), 20)


@asynccontextmanager
async def sending(dsn: str, clock: ManualClock, **options: Any) -> AsyncIterator[tuple[WebhookSender, Metrics]]:
    """A sender that works; its retries come at once."""
    real = SystemClock()
    breaker = CircuitBreaker(name="database", classify=judge)
    dependency = Dependency(DATABASE, breaker, FaultSwitches(real, ["database"]), real)
    metrics = Metrics()
    database = Database(dsn, dependency, metrics, size=4, deadline_s=20.0, name="bugs")
    await database.open()
    defaults: dict[str, Any] = {"retry_s": (0.0, 0.0), "allow_loopback": True, "timeout_s": 20.0}
    sender = WebhookSender(clock, metrics, SenderOptions(**defaults | options))
    task = asyncio.create_task(sender.run(database))
    yield sender, metrics
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    await database.close()


async def counted(metrics: Metrics, **outcomes: int) -> None:
    """Until so many have come to each end: what was committed is counted after it."""
    found: dict[str, float] = {}
    try:
        async with asyncio.timeout(20):
            while (found := {one: metrics.webhook_deliveries.labels(one).value for one in outcomes}) != outcomes:
                await asyncio.sleep(0.01)
    except TimeoutError:
        assert found == outcomes


async def test_what_is_done_is_written_for_whom_it_concerns_and_nothing_that_it_may_not_see(desk: Desk) -> None:
    bug = await desk.report()
    assert await desk.outbox() == []
    for events, internal, enabled in ((["*"], False, True), (["bug.commented"], True, True), (["*"], True, False)):
        await desk.webhook(events=events, include_internal=internal, enabled=enabled)
    async with desk.connection.transaction():
        await tracker.change_bug(desk.connection, bug, {"severity": "low"}, Audience.STAFF, "x", desk.clock.now())
    inside = await desk.comment(bug, "the secret", is_internal=True)
    await desk.comment(bug, "said to all", is_internal=False)
    async with desk.connection.transaction():
        await comments.edit_comment(
            desk.connection, bug, inside["id"], "a new secret", Audience.STAFF, "x", desk.clock.now(), may_edit_all=True
        )
    public, staff = [one["id"] for one in await webhooks.list_webhooks(desk.connection)][:2]
    written = await desk.outbox()
    assert [one["kind"] for one in written if one["webhook_id"] == public] == ["bug.changed", "bug.commented"]
    assert [one["kind"] for one in written if one["webhook_id"] == staff] == ["bug.commented"] * 2
    assert not any(
        "secret" in one["body"] or "jean@x.fr" in one["body"] for one in written if one["webhook_id"] == public
    )
    assert sum("the secret" in one["body"] for one in written) == 1
    assert len(written) == 4


async def test_what_is_internal_goes_nowhere_once_its_webhook_is_not_for_it(desk: Desk, dsn: str) -> None:
    with receiving() as receiver:
        hook, bug = await desk.webhook(include_internal=True), await desk.report()
        said = await desk.comment(bug, "the secret", is_internal=True)
        async with desk.connection.transaction():
            await comments.edit_comment(
                desk.connection,
                bug,
                said["id"],
                "another secret",
                Audience.STAFF,
                "x",
                desk.clock.now(),
                may_edit_all=True,
            )
        await desk.comment(bug, "for all", is_internal=False)
        *_, dead = [one for one in await desk.outbox() if "secret" in one["body"]]
        await deliveries.settle(desk.connection, dead["id"], "dead", desk.clock.now(), 500, "HTTP status 500")
        await desk.change(hook, include_internal=False, url=receiver.url)
        with pytest.raises(ConflictError, match="internal"):
            await deliveries.resend(desk.connection, hook["id"], dead["id"], desk.clock.now())
        async with sending(dsn, desk.clock) as (_, metrics):
            await desk.until("bool_and(state <> 'waiting')")
            await counted(metrics, dead=1)
        assert not any(b"secret" in one.body for one in receiver.requests)
        assert len(receiver.requests) == 2
    withheld = [one["last_error"] for one in await desk.outbox() if one["state"] == "dead"]
    assert sorted(withheld) == ["HTTP status 500", "it is internal, and the webhook is not told of that"]
    await desk.change(hook, include_internal=True)
    assert (await deliveries.resend(desk.connection, hook["id"], dead["id"], desk.clock.now()))["state"] == "waiting"


async def test_nothing_is_sent_again_to_a_webhook_that_is_disabled(desk: Desk) -> None:
    hook = await desk.webhook()
    sent = await deliveries.ping(desk.connection, hook["id"], "x", desk.clock.now())
    await deliveries.settle(desk.connection, sent["id"], "dead", desk.clock.now(), 500, "HTTP status 500")
    await desk.change(hook, enabled=False)
    with pytest.raises(ConflictError, match="disabled"):
        await deliveries.resend(desk.connection, hook["id"], sent["id"], desk.clock.now())
    assert (await desk.outbox())[0]["state"] == "dead"
    await desk.change(hook, enabled=True)
    again = await deliveries.resend(desk.connection, hook["id"], sent["id"], desk.clock.now())
    assert (again["state"], again["last_status"], again["last_error"]) == ("waiting", None, None)


async def test_what_is_rolled_back_is_not_told(desk: Desk) -> None:
    await desk.webhook()
    with pytest.raises(ZeroDivisionError):
        async with desk.connection.transaction():
            await tracker.report_bug(desk.connection, REPORT, "somebody", desk.clock.now())
            raise ZeroDivisionError
    assert await desk.outbox() == []


async def test_a_webhook_that_is_deleted_meanwhile_does_not_fail_the_change(desk: Desk, dsn: str) -> None:
    made = await desk.webhook()
    other = await asyncpg.connect(dsn)
    deleting = other.transaction()
    await deleting.start()
    await webhooks.delete_webhook(other, made["id"])  # type: ignore[arg-type]
    reporting = asyncio.create_task(desk.report())
    await waiting_for_a_lock(other)
    await deleting.commit()
    assert await asyncio.wait_for(reporting, 10)
    assert await desk.outbox() == []
    await other.close()


async def waiting_for_a_lock(connection: Any) -> None:
    async with asyncio.timeout(10):
        while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)


async def test_there_are_no_more_than_twenty_also_when_two_come_at_once(desk: Desk, dsn: str) -> None:
    for _ in range(webhooks.MOST - 1):
        await desk.webhook()
    other: Any = await asyncpg.connect(dsn)
    first = other.transaction()
    await first.start()
    await Desk(other, desk.clock).webhook()
    second = asyncio.create_task(desk.webhook())
    await waiting_for_a_lock(other)
    await first.commit()
    with pytest.raises(ConflictError):
        await second
    await other.close()


async def test_a_delivery_is_one_process_at_a_times_and_comes_back_when_that_one_dies(desk: Desk, dsn: str) -> None:
    first, second = await desk.webhook(), await desk.webhook()
    await desk.report()
    connection, now = desk.connection, desk.clock.now()
    other: Any = await asyncpg.connect(dsn)
    async with connection.transaction():  # while one claims, the other does not wait for it
        mine = await deliveries.claim(connection, now, LEASE, [second["id"]])
        theirs = await asyncio.wait_for(deliveries.claim(other, now, LEASE, []), 5)
    assert [one.webhook_id for one in mine] == [first["id"]]
    assert [one.webhook_id for one in theirs] == [second["id"]]
    assert await deliveries.claim(connection, now + LEASE / 2, LEASE, []) == []
    again = await deliveries.claim(connection, now + LEASE, LEASE, [])
    assert {one.id for one in again} == {one.id for one in mine + theirs}
    await desk.change(first, enabled=False)
    assert [one.webhook_id for one in await deliveries.claim(connection, now + 2 * LEASE, LEASE, [])] == [second["id"]]
    await other.close()


async def test_old_deliveries_go_and_of_too_many_that_wait_the_oldest_are_dead(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "GIVE_UP", deliveries.GIVE_UP.replace(str(deliveries.MOST_WAITING), "2"))
    made, now, day = await desk.webhook(), desk.clock.now(), timedelta(days=1)
    for state, age in (("delivered", 8), ("delivered", 6), ("dead", 31), ("dead", 29), ("waiting", 3), ("waiting", 2),
                       ("waiting", 1)):  # fmt: skip
        at = now - age * day
        sent = await deliveries.ping(desk.connection, made["id"], "x", at)
        if state != "waiting":
            await deliveries.settle(desk.connection, sent["id"], state, at, None, None)
    assert await deliveries.purge(desk.connection, now) == 1
    left = [(one["state"], (now - one["created_at"]).days) for one in await desk.outbox()]
    assert left == [("dead", 29), ("delivered", 6), ("dead", 3), ("waiting", 2), ("waiting", 1)]


async def test_a_receiver_that_hangs_fails_in_time_and_keeps_no_other_waiting(desk: Desk, dsn: str) -> None:
    with receiving() as hanging, receiving() as well:
        hanging.answer = hanging.hang
        stuck = [await desk.webhook(hanging.url) for _ in range(6)]
        await desk.webhook(well.url)
        for _ in range(3):
            await desk.report()
        async with sending(dsn, desk.clock, timeout_s=1.0) as (_, metrics):
            await asyncio.to_thread(well.wait, 3)
            assert {one["state"] for one in await desk.outbox() if one["webhook_id"] == stuck[0]["id"]} == {"waiting"}
            await desk.until("count(*) FILTER (WHERE last_error = 'no answer within 1 s') > 0")
            await counted(metrics, delivered=3)
            hanging.released.set()


async def test_any_other_answer_is_tried_again_until_it_is_dead_and_a_redirect_leads_nowhere(
    desk: Desk, dsn: str
) -> None:
    statuses = (302, 404, 500)
    with receiving() as receiver:
        receiver.answer = lambda request: int(request.path[1:])
        receiver.more_headers = {"Location": f"{receiver.url}/200"}
        for status in statuses:
            await desk.webhook(f"{receiver.url}/{status}")
        await desk.report()
        async with sending(dsn, desk.clock) as (_, metrics):
            await desk.until("bool_and(state = 'dead')")
            await counted(metrics, delivered=0, retried=6, dead=3)
        assert sorted(one.path for one in receiver.requests) == sorted([f"/{status}" for status in statuses] * 3)
        assert len({one.headers["webhook-id"] for one in receiver.requests}) == 3
        for row in await desk.outbox():
            assert (row["attempts"], row["last_error"]) == (3, f"HTTP status {row['last_status']}")


async def test_a_receiver_that_is_gone_is_sent_nothing_more(desk: Desk, dsn: str) -> None:
    with receiving() as receiver:
        receiver.answer = lambda _request: 410
        made = await desk.webhook(receiver.url)
        for _ in range(3):
            await desk.report()
        async with sending(dsn, desk.clock):
            await desk.until("bool_and(state = 'dead')")
        assert len(receiver.requests) == 1
    assert not (await webhooks.one_webhook(desk.connection, made["id"]))["enabled"]


async def test_this_machine_is_not_sent_to_unless_that_is_allowed(desk: Desk, dsn: str) -> None:
    with receiving() as receiver:
        port = receiver.url.rsplit(":", 1)[1]
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"):
            await desk.webhook(f"http://{host}:{port}/")
        old = await desk.webhook()
        await desk.connection.execute(
            "UPDATE bug_webhooks SET url = $2 WHERE id = $1", old["id"], f"http://0.0.0.0:{port}/"
        )
        await desk.report()
        async with sending(dsn, desk.clock, allow_loopback=False):
            await desk.until("bool_and(state = 'dead')")
        assert {one["last_error"] for one in await desk.outbox()} == {"its address is this machine's own, or no host's"}
        assert receiver.requests == []


async def test_a_name_stays_what_the_receiver_is_asked_by(
    desk: Desk, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = webhook_post._look_up

    def look_up(host: str, port: int) -> list[str]:
        """Without the machine's name server, which may take its time for a name that there is not."""
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return asked(host, port)

    monkeypatch.setattr(webhook_post, "_look_up", look_up)
    with receiving() as receiver:
        port = receiver.url.rsplit(":", 1)[1]
        await desk.webhook(f"http://localhost:{port}/hook?a=1")
        await desk.webhook("http://no-such-host.invalid/")
        await desk.webhook("https://localhost:1/")
        await desk.report()
        async with sending(dsn, desk.clock):
            (request,) = await asyncio.to_thread(receiver.wait, 1)
            await desk.until("count(*) FILTER (WHERE state = 'dead') = 2")
        assert (request.headers["host"], request.path) == (f"localhost:{port}", "/hook?a=1")
