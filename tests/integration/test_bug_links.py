"""Links of bugs on a real database: circles, bounds, two at once, and the way back."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from app.bugs import backlinks, links
from app.bugs.audience import Audience
from app.bugs.evidence import Frozen
from app.bugs.links import Target
from app.bugs.relations import CHAIN
from app.bugs.tracker import change_bug, report_bug
from app.core.errors import ConflictError, NotFoundError, TryAgainError
from app.core.ids import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from uuid import UUID

    from app.bugs.vocabulary import Relation

NOW = datetime(2026, 2, 2, 12, tzinfo=UTC)
REPORT = {"title": "t", "description": "d", "severity": "low", "priority": "low"}
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = $1"
MANY_BUGS = """
    INSERT INTO bugs (id, created_at, updated_at, status_changed_at, status, severity, priority, title, description,
                      reporter_id)
    SELECT gen_random_uuid(), $2, $2, $2, 'open', 'low', 'low', 't', 'd', 'me' FROM generate_series(1, $1) RETURNING id
"""
MANY_LINKS = """
    INSERT INTO bug_links (id, bug_id, other_id, kind, relation, target, creator_id, created_at)
    SELECT gen_random_uuid(), bug_id, other_id, $3, $4, target, 'me', $6
    FROM unnest($1::uuid[], $2::uuid[], $5::text[]) AS made (bug_id, other_id, target)
"""


class Desk:
    """Connections of people who work at once."""

    def __init__(self, dsn: str, stack: AsyncExitStack) -> None:
        self._dsn = dsn
        self._stack = stack

    async def connection(self) -> Any:
        made = await asyncpg.connect(self._dsn, server_settings={"timezone": "UTC"})
        self._stack.push_async_callback(asyncio.wait_for, made.close(), 20)
        return made


@pytest.fixture
async def desk(dsn: str) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        yield Desk(dsn, stack)


@pytest.fixture
async def connection(desk: Desk) -> Any:
    return await desk.connection()


async def bug(connection: Any, *, now: datetime = NOW, **said: Any) -> UUID:
    async with connection.transaction():
        made: UUID = (await report_bug(connection, REPORT | said, "me", now))["id"]
    return made


async def bugs(connection: Any, count: int) -> list[UUID]:
    return [await bug(connection) for _ in range(count)]


async def add(connection: Any, bug_id: UUID, target: Target, frozen: Frozen | None = None) -> tuple[Any, bool]:
    async with connection.transaction():
        return await links.add_link(connection, bug_id, target, frozen, "me", NOW)


async def relate(connection: Any, bug_id: UUID, relation: Relation, other: UUID) -> bool:
    return (await add(connection, bug_id, Target("bug", relation=relation, other_id=other)))[1]


async def until_it_waits(connection: Any, waiter: Any, task: asyncio.Task[Any]) -> None:
    """Until the other connection waits for a lock, or is done without."""
    pid = waiter.get_server_pid()
    async with asyncio.timeout(10):
        while not task.done() and not await connection.fetchval(WAITING, pid):
            await asyncio.sleep(0.01)


async def at_once(*works: Coroutine[Any, Any, Any]) -> list[str]:
    """What became of each: its answer's or its error's name."""
    done = await asyncio.wait_for(asyncio.gather(*works, return_exceptions=True), 20)
    return sorted(type(one).__name__ if isinstance(one, BaseException) else str(one) for one in done)


async def test_of_two_that_block_each_other_at_once_one_is_refused(desk: Desk, connection: Any) -> None:
    other = await desk.connection()
    for relation in ("blocks", "duplicates") * 3:
        one, two = await bugs(connection, 2)
        gate = asyncio.Barrier(2)

        async def make(who: Any, start: UUID, end: UUID, gate: asyncio.Barrier = gate, how: Any = relation) -> bool:
            async with who.transaction():
                await gate.wait()
                target = Target("bug", relation=how, other_id=end)
                return (await links.add_link(who, start, target, None, "me", NOW))[1]

        assert await at_once(make(connection, one, two), make(other, two, one)) == ["ConflictError", "True"]
        assert await connection.fetchval("SELECT count(*) FROM bug_links WHERE bug_id IN ($1, $2)", one, two) == 1


async def test_a_circle_is_not_closed_by_two_who_have_no_bug_in_common(desk: Desk, connection: Any) -> None:
    a, b, c, d = await bugs(connection, 4)
    await relate(connection, a, "blocks", b)
    await relate(connection, c, "blocks", d)
    other = await desk.connection()
    watcher = await desk.connection()
    async with connection.transaction():
        await links.add_link(connection, b, Target("bug", relation="blocks", other_id=c), None, "me", NOW)
        closing = asyncio.create_task(relate(other, d, "blocks", a))
        await until_it_waits(watcher, other, closing)
    with pytest.raises(ConflictError, match="circle"):
        await asyncio.wait_for(closing, 10)


async def test_the_same_link_made_twice_at_once_is_one(desk: Desk, connection: Any) -> None:
    one, two = await bugs(connection, 2)
    other = await desk.connection()
    firmware = Target("firmware", "v2.3.1")
    assert await at_once(
        *(_is_new(who, one, firmware) for who in (connection, other)),
    ) == ["False", "True"]
    assert await at_once(relate(connection, one, "relates", two), relate(other, two, "relates", one)) == [
        "False",
        "True",
    ]
    assert len(await links.list_links(connection, one)) == 2


async def _is_new(connection: Any, bug_id: UUID, target: Target) -> bool:
    return (await add(connection, bug_id, target))[1]


async def test_long_ways_round_are_circles_too_and_other_relations_are_not(connection: Any) -> None:
    row = await bugs(connection, 5)
    for blocker, blocked in pairwise(row):
        assert await relate(connection, blocker, "blocks", blocked)
    for at in (4, 3, 2):
        with pytest.raises(ConflictError, match="circle"):
            await relate(connection, row[at], "blocks", row[0])
    assert await relate(connection, row[0], "blocks", row[4])  # another way to the same end
    assert await relate(connection, row[4], "duplicates", row[0])
    assert await relate(connection, row[4], "relates", row[0])
    with pytest.raises(ConflictError, match="circle"):
        await relate(connection, row[0], "duplicates", row[4])
    with pytest.raises(ConflictError, match="already"):
        await relate(connection, row[4], "duplicates", row[1])


async def test_a_chain_that_is_too_long_to_be_looked_through_is_refused(connection: Any) -> None:
    await connection.execute("ALTER TABLE bugs DISABLE TRIGGER USER")  # they fill what this does not look at
    row = [record["id"] for record in await connection.fetch(MANY_BUGS, CHAIN + 2, NOW)]
    await connection.execute(MANY_LINKS, row[2:-1], row[3:], "bug", "blocks", [], NOW)
    assert await relate(connection, row[1], "blocks", row[2])  # as long as it may be: it has 1,000
    with pytest.raises(ConflictError, match="looked through"):
        await relate(connection, row[0], "blocks", row[1])


async def test_a_bug_has_at_most_200_links_from_whichever_side(connection: Any) -> None:
    full, other = await bugs(connection, 2)
    names = [f"d{number}" for number in range(links.MOST - 1)]
    await connection.execute(MANY_LINKS, [full] * len(names), [None] * len(names), "device", None, names, NOW)
    assert await relate(connection, other, "blocks", full)
    assert len(await links.list_links(connection, full)) == links.MOST
    for refused in (add(connection, full, Target("lot", "l")), relate(connection, other, "relates", full)):
        with pytest.raises(ConflictError, match="at most 200"):
            await refused
    assert not (await add(connection, full, Target("device", "d7")))[1]  # what is there is there
    (held,) = await links.list_links(connection, other)
    async with connection.transaction():
        await links.remove_link(connection, full, held["id"], "me", NOW)
    assert (await add(connection, full, Target("lot", "l")))[1]


async def test_a_link_that_two_remove_at_once_is_removed_once(desk: Desk, connection: Any) -> None:
    one, two = await bugs(connection, 2)
    await relate(connection, one, "blocks", two)
    (made,) = await links.list_links(connection, one)
    other = await desk.connection()

    async def remove(who: Any, from_bug: UUID) -> None:
        async with who.transaction():
            await links.remove_link(who, from_bug, made["id"], "me", NOW)

    assert await at_once(remove(connection, one), remove(other, two)) == ["None", "NotFoundError"]
    kinds = await connection.fetch(
        "SELECT kind FROM bug_events WHERE bug_id = ANY($1) AND kind <> 'created'", [one, two]
    )
    assert sorted(record["kind"] for record in kinds) == ["linked", "linked", "unlinked", "unlinked"]


async def test_links_raise_updated_at_in_both_bugs_and_the_version_in_none(connection: Any) -> None:
    one, two = await bugs(connection, 2)
    later = NOW + timedelta(hours=1)
    async with connection.transaction():
        await links.add_link(connection, one, Target("bug", relation="relates", other_id=two), None, "me", later)
    told = await connection.fetch("SELECT updated_at, version FROM bugs WHERE id = ANY($1)", [one, two])
    assert [tuple(record) for record in told] == [(later, 1)] * 2


async def test_two_who_say_of_which_bug_it_is_a_duplicate_do_not_get_in_a_knot(desk: Desk, connection: Any) -> None:
    one, first, second = await bugs(connection, 3)
    other = await desk.connection()
    watcher = await desk.connection()

    async def say(who: Any, of: UUID) -> None:
        async with who.transaction():
            wanted = {"status": "duplicate", "duplicate_of": of}
            await change_bug(who, one, wanted, Audience.STAFF, "me", NOW)

    async with connection.transaction():
        await change_bug(connection, one, {"status": "duplicate", "duplicate_of": first}, Audience.STAFF, "me", NOW)
        late = asyncio.create_task(say(other, second))
        await until_it_waits(watcher, other, late)
    with pytest.raises(TryAgainError):  # it has not locked the first one, whose history it would write in
        await asyncio.wait_for(late, 10)
    await say(other, second)
    (left,) = await links.list_links(connection, one)
    assert (left["relation"], left["bug_id"]) == ("duplicates", second)
    assert await links.list_links(connection, first) == []
    told = await connection.fetch("SELECT kind FROM bug_events WHERE bug_id = $1 ORDER BY at, id", first)
    assert [record["kind"] for record in told] == ["created", "linked", "unlinked"]


async def test_a_sample_is_linked_once_by_its_time_also_when_it_is_gone(connection: Any) -> None:
    one = await bug(connection)
    frozen = Frozen(NOW, '{"score": 0.5}', b"\x01frame")
    named = Target("sample", "s/1", "ESP32_LL_01")
    first, is_new = await add(connection, one, named, frozen)
    assert (is_new, first["device_time"]) == (True, NOW)
    for again in (named, Target("sample", "s/1", "ESP32_LL_01", NOW)):
        for now_there in (frozen, None):
            assert await add(connection, one, again, now_there) == (first, False)
    assert (await add(connection, one, named, Frozen(NOW + timedelta(1), "{}", b"other")))[1]
    for absent in (Target("sample", "s/2", "ESP32_LL_01"), Target("sample", "s/1", "ESP32_LL_01", NOW - timedelta(1))):
        with pytest.raises(NotFoundError, match="no longer kept"):
            await add(connection, one, absent)
    for unknown in (Target("device", "x"), named):
        with pytest.raises(NotFoundError, match="no such bug"):
            await add(connection, uuid7(), unknown, frozen)


async def test_the_bugs_of_a_device_come_newest_first_in_pages_each_once(connection: Any) -> None:
    made = []
    for number in range(12):
        of_device = {"device_id": "box"} if number % 3 else {}
        one = await bug(connection, now=NOW + timedelta(minutes=number // 2), **of_device)
        if number % 3 == 0:
            await add(connection, one, Target("device", "box"))
        if number % 4 == 0:
            await add(connection, one, Target("sample", f"s{number}", "box"), Frozen(NOW, "{}", b"f"))
            await add(connection, one, Target("device", "box"))
        made.append((one, "device" if of_device else "link"))
    await bug(connection, device_id="other box")
    for limit in (1, 5, 50):
        seen: list[tuple[UUID, str]] = []
        after = None
        while True:
            items, after = await backlinks.bugs_of_device(connection, "box", after, limit)
            seen += [(item["id"], item["via"]) for item in items]
            if after is None:
                break
        assert seen == made[::-1]
    assert await backlinks.bugs_of_device(connection, "nobody", None, 5) == ([], None)


async def test_the_bugs_of_a_sample_and_of_a_lot_are_those_that_link_it(connection: Any) -> None:
    one, two = await bugs(connection, 2)
    for at, about in ((NOW, one), (NOW + timedelta(1), two)):
        await add(connection, about, Target("sample", "s", "box"), Frozen(at, "{}", b"f"))
    await add(connection, one, Target("lot", "l 1"))

    async def of_sample(device: str, sample: str, time: datetime | None = None) -> list[UUID]:
        items, _ = await backlinks.bugs_of_sample(connection, device, sample, time, None, 9)
        return [item["id"] for item in items]

    assert await of_sample("box", "s") == [two, one]
    assert await of_sample("box", "s", NOW) == [one]
    assert await of_sample("box", "t") == await of_sample("xob", "s") == []
    items, more = await backlinks.bugs_of_lot(connection, "l 1", None, 9)
    assert ([item["id"] for item in items], items[0]["via"], more) == ([one], "link", None)
    assert await backlinks.bugs_of_lot(connection, "s", None, 9) == ([], None)


async def test_nothing_is_left_of_a_link_that_could_not_be_made(connection: Any) -> None:
    one, two = await bugs(connection, 2)
    await relate(connection, one, "blocks", two)
    with suppress(ConflictError):
        await relate(connection, two, "blocks", one)
    assert await connection.fetchval("SELECT count(*) FROM bug_events WHERE kind = 'linked'") == 2
    assert len(await links.list_links(connection, two)) == 1
