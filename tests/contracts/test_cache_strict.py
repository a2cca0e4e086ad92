"""A strict type: what was changed is never read as it was before, however young that is; alone and over a real Redis."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from app.core.cache_redis import WRITE_DEADLINE_S
from app.core.errors import UnavailableError
from tests.contracts.cache_bench import Replica, hears, replica, until, written
from tests.redis_server import running_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STRICT = "bug_summary"
SUBJECT = "bugs"


@pytest.fixture(params=["in_process", "redis"])
async def made(request: pytest.FixtureRequest) -> AsyncIterator[Replica]:
    if request.param == "in_process":
        async with replica(None, min_reload_s=60.0) as one:
            yield one
        return
    with running_redis() as server:
        async with replica(server, min_reload_s=60.0) as one:
            await hears(one)
            yield one


async def read(one: Replica, value: Any) -> Any:
    return await one.cached(value, "k", STRICT, tags=(SUBJECT,))


async def test_a_young_value_is_not_read_again_once_its_subject_changed(made: Replica) -> None:
    assert (await read(made, b"old")).value == b"old"
    assert (await read(made, b"new")).source == "l1"
    made.cache.mark([SUBJECT])
    assert (await read(made, b"new")).value == b"new"
    assert (await read(made, b"newer")).value == b"new", "and that is kept"
    made.cache.mark(["something else"])
    assert (await read(made, b"newer")).value == b"new"


async def test_a_load_that_began_before_the_change_is_not_joined_after_it(made: Replica) -> None:
    gate = asyncio.Event()
    slow = made.loader(b"before", gate=gate)
    early = asyncio.create_task(made.cache.get_or_load(STRICT, "k", slow, tags=(SUBJECT,)))
    await until(lambda: made.loads, "the load has begun")
    made.cache.mark([SUBJECT])
    assert (await read(made, b"after")).value == b"after"
    gate.set()
    assert (await early).value == b"before", "who asked before may be told so"
    assert (await read(made, b"later")).value == b"after", "but nobody after"


async def test_while_nothing_can_be_loaded_the_old_value_is_read_as_stale(made: Replica) -> None:
    await read(made, b"old")
    made.cache.mark([SUBJECT])
    for _ in range(2):
        told = await read(made, UnavailableError("the database is away"))
        assert (told.value, told.stale) == (b"old", True)
    made.cache.mark([SUBJECT])  # it answers again: something was written
    assert (await read(made, b"new")).value == b"new"


async def test_what_another_replica_left_in_redis_is_not_taken_after_a_change() -> None:
    with running_redis() as server:
        patient: dict[str, Any] = {"min_reload_s": 60.0, "timeout_s": 5.0}
        async with replica(server, **patient) as one, replica(server, **patient) as other:
            await hears(one, other)
            await asyncio.sleep(WRITE_DEADLINE_S + 0.1)  # it knows so late that nothing was changed since
            await read(other, b"old")
            await written(other, server)
            assert (await read(one, b"unused")).source == "l2", "without a change it is"
            one.cache.forget("k")
            changed_at = time.monotonic()
            one.cache.mark([SUBJECT])
            assert (await read(one, b"new")).value == b"new"
            await until(lambda: other.cache._marks.changed_since(changed_at, (SUBJECT,)), "the other one heard of it")
            assert (await read(other, b"new")).value == b"new"
