"""Group commit: what waits is written in one transaction, and verdicts go out only after it committed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import asyncpg

from app.core.circuit_breaker import CircuitOpenError
from app.core.errors import TryAgainError, UnavailableError, in_a_line
from app.core.logging import get_logger
from app.sqal.errors import Code
from app.sqal.intake import Refusal, Verdict
from app.sqal.retry_hint import retry_after_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.core.clock import Clock
    from app.core.database import Database
    from app.core.dependency import Dependency
    from app.sqal.intake import Intake, Work
    from app.sqal.prepare import Preparer
    from app.sqal.store import SampleStore, Written

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
# SQLSTATE classes that blame a value: data exception, integrity violation, program limit.
POISON_CLASSES: Final = ("22", "23", "54")
log = get_logger("gaveurs.committer")


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """A group ends at `rows` or `bytes`, or `linger_s` after its first work; a work waits `max_wait_s` at most."""

    rows: int
    bytes: int
    linger_s: float
    max_wait_s: float
    commit_deadline_s: float


class Committer:
    """Writers that empty an intake into the database.

    A group whose commit fails is tried again until its oldest work has waited `max_wait_s`; then each of its works is
    answered `busy` and forgotten: nothing of it was acknowledged, and its device sends it again. One unstorable work
    does not take its group down: the group is halved until it stands alone, and it goes to quarantine.
    """

    def __init__(
        self,
        intake: Intake,
        preparer: Preparer,
        store: SampleStore,
        database: Database,
        storage: Dependency,
        clock: Clock,
        limits: GroupLimits,
        on_committed: Callable[[Sequence[Work], Written], None],
    ) -> None:
        self._intake = intake
        self._preparer = preparer
        self._store = store
        self._database = database
        self._storage = storage
        self._clock = clock
        self._limits = limits
        self._on_committed = on_committed

    async def run(self) -> None:
        """One writer; start as many as groups may be under way at once. Ends when the intake is closed and empty."""
        limits = self._limits
        while group := await self._intake.take_group(limits.rows, limits.bytes, limits.linger_s):
            try:
                self._preparer.prepare(group)  # those taken before their own turn came
                await self._commit(group)
            except Exception:  # a defect in one group must not stop ingest for all; it is logged whole
                log.exception("a commit group was given up", rows=len(group))
            finally:
                self._answer_busy(group)  # only those that have no verdict yet

    async def _commit(self, group: list[Work]) -> None:
        pause = FIRST_PAUSE_S
        while True:
            try:
                async with self._database.connection(self._limits.commit_deadline_s) as connection:
                    written = await self._store.write(connection, group)
            except (CircuitOpenError, TryAgainError):
                pass  # not asked: while it half-opens, others find out whether the database is back; or it answered
            except UnavailableError as error:
                self._storage.mark_away(in_a_line(error))
            except (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError, OverflowError) as error:
                if _blames_a_value(error):
                    await self._divide(group, error)
                    return
                log.exception("a commit group failed for a reason that is not its content", rows=len(group))
                self._storage.mark_away(in_a_line(error))
            else:
                self._storage.mark_back()
                self._answer(group, written)
                return
            if self._clock.monotonic() + pause - min(work.queued_at for work in group) > self._limits.max_wait_s:
                self._answer_busy(group)
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _divide(self, group: list[Work], error: Exception) -> None:
        """Halve the group until the work that the database refuses stands alone."""
        if len(group) > 1:
            middle = len(group) // 2
            await self._commit(group[:middle])
            await self._commit(group[middle:])
            return
        (work,) = group
        if work.reading is None:
            log.error("a refused message cannot even be quarantined", code=work.refusal and work.refusal.code)
            work.answer(Verdict("error", code=Code.NOT_STORABLE, reason="the message cannot be stored"))
            return
        log.error("a sample that passed validation cannot be stored", device_id=work.lane, error=type(error).__name__)
        reading, work.reading = work.reading, None
        work.refusal = Refusal(
            Code.NOT_STORABLE,
            "the message cannot be stored",
            reading.device_id,
            reading.sample_id,
            reading.timestamp,
        )
        await self._commit(group)

    def _answer(self, group: list[Work], written: Written) -> None:
        for work, verdict in zip(group, written.verdicts, strict=True):
            work.committed = True
            work.answer(verdict)
        self._on_committed(group, written)

    def _answer_busy(self, group: list[Work]) -> None:
        for work in group:
            work.answer(busy(self._storage))


def busy(storage: Dependency) -> Verdict:
    """No room, or no database: the device keeps the sample and sends it again."""
    return busy_for(retry_after_ms(storage))


def busy_for(milliseconds: int) -> Verdict:
    reason = "the sample could not be stored now; send it again"
    return Verdict("error", code=Code.BUSY, reason=reason, retry_after_ms=milliseconds)


def _blames_a_value(error: Exception) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "")[:2] in POISON_CLASSES
    return True
