from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.ids import uuid7
from app.sqal.intake import Intake, Verdict, Work
from app.sqal.wire import Encoding


class Recorder:
    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []

    def deliver(self, work: Work, verdict: Verdict) -> None:
        self.verdicts.append(verdict)


def work(lane: str = "d", size: int = 100, origin: Recorder | None = None) -> Work:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Work(origin or Recorder(), uuid7(), lane, now, 0.0, Encoding.JSON, None, size)


async def take(intake: Intake, rows: int = 100) -> list[Work]:
    return await intake.take_group(rows, 10**9, 0)


async def test_a_long_backlog_of_one_device_does_not_delay_another() -> None:
    intake = Intake(1_000, 10**9)
    for _ in range(200):
        assert intake.offer(work("long"))
    assert intake.offer(work("short"))
    assert [w.lane for w in await take(intake, 4)] == ["long", "short", "long", "long"]


async def test_one_device_can_hold_a_quarter_of_the_queue_at_most() -> None:
    intake = Intake(100, 10**9)
    assert [intake.offer(work("a")) for _ in range(26)].count(True) == 25
    assert intake.offer(work("b"))


async def test_rows_and_bytes_are_bounded() -> None:
    intake = Intake(4, 10**9)
    assert [intake.offer(work(str(n))) for n in range(5)] == [True] * 4 + [False]
    small = Intake(1_000, 5_000)
    assert small.offer(work("a", 3_000))
    assert not small.offer(work("b", 3_000))


async def test_a_group_is_bounded_in_rows_and_bytes_and_never_empty() -> None:
    intake = Intake(1_000, 10**9)
    for n in range(10):
        intake.offer(work(str(n), 5_000))
    assert len(await intake.take_group(3, 10**9, 0)) == 3
    assert len(await intake.take_group(100, 13_000, 0)) == 2
    assert len(await intake.take_group(100, 1, 0)) == 1


async def test_a_writer_that_lingered_in_vain_waits_for_the_next_work() -> None:
    intake = Intake(100, 10**9)
    writers = [asyncio.create_task(intake.take_group(100, 10**9, 0.001)) for _ in range(3)]
    while writers:
        intake.offer(work())
        ended, pending = await asyncio.wait(writers, return_when=asyncio.FIRST_COMPLETED)
        assert [len(task.result()) for task in ended] == [1]
        writers = list(pending)


@given(st.lists(st.sampled_from("abcd"), max_size=60), st.integers(1, 7))
def test_nothing_is_lost_or_reordered_within_a_device(lanes: list[str], rows: int) -> None:
    async def run() -> None:
        intake = Intake(1_000, 10**9)
        put = [work(lane) for lane in lanes]
        assert all(intake.offer(w) for w in put)
        intake.close()
        taken: list[Work] = []
        while group := await take(intake, rows):
            taken += group
        assert sorted(map(id, taken)) == sorted(map(id, put))
        for lane in "abcd":
            assert [w for w in taken if w.lane == lane] == [w for w in put if w.lane == lane]
        assert (intake.rows, intake.bytes) == (0, 0)

    asyncio.run(run())


async def test_waiting_for_room_ends_when_a_group_is_taken() -> None:
    intake = Intake(1, 10**9)
    assert intake.offer(work("a"))
    waiting = asyncio.create_task(intake.offer_within(work("b"), 60))
    await asyncio.sleep(0)
    await take(intake)
    assert await waiting


async def test_waiting_for_room_gives_up() -> None:
    intake = Intake(1, 10**9)
    intake.offer(work("a"))
    assert not await intake.offer_within(work("b"), 0.01)


async def test_a_closed_intake_takes_nothing_and_ends_its_takers() -> None:
    intake = Intake(10, 10**9)
    taker = asyncio.create_task(take(intake))
    await asyncio.sleep(0)
    intake.close()
    assert await taker == []
    assert not intake.offer(work())
    assert not await intake.offer_within(work(), 5)


def test_a_work_is_answered_once() -> None:
    origin = Recorder()
    one = work(origin=origin)
    one.answer(Verdict("saved"))
    one.answer(Verdict("error"))
    assert [verdict.status for verdict in origin.verdicts] == ["saved"]


@pytest.mark.parametrize(("rows", "full"), [(7, False), (8, True)])
async def test_nearly_full_begins_at_four_fifths(rows: int, full: bool) -> None:
    intake = Intake(10, 10**9)
    for n in range(rows):
        intake.offer(work(str(n)))
    assert intake.nearly_full is full
