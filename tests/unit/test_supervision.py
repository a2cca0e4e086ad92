from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from structlog.testing import capture_logs

from app.core.supervision import Supervisor


async def run_one(work, *, ending: bool) -> int:  # type: ignore[no-untyped-def]
    given_up: list[None] = []
    async with AsyncExitStack() as stack:
        supervisor = Supervisor(stack, lambda: ending, lambda: given_up.append(None))
        await asyncio.wait({supervisor.background("writer 0", work)})
        await asyncio.sleep(0)  # its callbacks
    return len(given_up)


@pytest.mark.parametrize("ending", [False, True])
async def test_a_background_task_that_ends_unasked_ends_the_process(ending: bool) -> None:
    async def nothing() -> None: ...

    assert await run_one(nothing(), ending=ending) == (0 if ending else 1)


@pytest.mark.parametrize("ending", [False, True])
async def test_a_background_task_that_fails_ends_the_process_whenever_it_does(ending: bool) -> None:
    async def fail() -> None:
        raise RuntimeError("a defect")

    assert await run_one(fail(), ending=ending) == 1


async def test_what_is_opened_last_is_closed_first_and_a_close_that_hangs_is_left() -> None:
    closed: list[str] = []

    async def hang() -> None:
        await asyncio.Event().wait()

    def close(name: str):  # type: ignore[no-untyped-def]
        async def done() -> None:
            closed.append(name)

        return done

    async with AsyncExitStack() as stack:
        supervisor = Supervisor(stack, lambda: True, lambda: None)
        supervisor.closing("first", close("first"))
        supervisor.closing("hangs", hang, 0.01)
        supervisor.closing("last", close("last"))
    assert closed == ["last", "first"]


async def test_a_close_that_fails_is_said_and_holds_up_no_other() -> None:
    closed: list[str] = []

    async def close() -> None:
        closed.append("first")

    async def fail() -> None:
        raise OSError(113, "No route to host")

    with capture_logs() as lines:
        async with AsyncExitStack() as stack:
            supervisor = Supervisor(stack, lambda: True, lambda: None)
            supervisor.closing("first", close)
            supervisor.closing("fails", fail)
    assert closed == ["first"]
    assert [(line["event"], line["what"]) for line in lines] == [("closing failed", "fails")]
