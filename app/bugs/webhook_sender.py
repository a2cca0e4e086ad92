"""Sends what waits in the outbox, at least once and in no promised order: a receiver knows a repetition by its
`webhook-id`. One delivery at a time for each webhook, so that a slow receiver keeps only its own waiting.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import asyncpg
import httpx

from app.bugs import deliveries
from app.bugs.webhook_post import Poster, RefusedAddressError
from app.bugs.webhooks import signed_headers
from app.core.errors import AppError
from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from app.bugs.deliveries import Claimed
    from app.core.clock import Clock
    from app.core.database import Connection, Database
    from app.core.metrics import Metrics

POLL_S: Final = 2.0
COUNT_EVERY_S: Final = 10.0
PURGE_EVERY_S: Final = 300.0
LEASE_BEYOND_S: Final = 20.0
"""After the time that an attempt may take: whoever has not said by then what became of it is dead."""
GONE: Final = 410
log = get_logger("gaveurs.webhooks")


@dataclass(frozen=True, slots=True)
class SenderOptions:
    """`retry_s`: how long after a first, second, ... failed attempt the next one comes, at the latest."""

    retry_s: Sequence[float]
    allow_loopback: bool = False
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an attempt came to: a status, or why there is none."""

    status: int | None
    error: str | None

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004


def wait_s(retry_s: Sequence[float], failed: int, chance: float) -> float | None:
    """Seconds to the next attempt when one failed after `failed` others had: anywhere (`chance`, 0 to 1) between the
    step before and this one, so that not all come back at once; None when there is no next.
    """
    if failed >= len(retry_s):
        return None
    before = retry_s[failed - 1] if failed else 0.0
    return before + chance * (retry_s[failed] - before)


class WebhookSender:
    """One process's. Several work on one outbox: a delivery that one has claimed is left alone by the others."""

    def __init__(
        self, clock: Clock, metrics: Metrics, options: SenderOptions, chance: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._options = options
        self._chance = chance
        self._lease = timedelta(seconds=options.timeout_s + LEASE_BEYOND_S)
        self._woken = asyncio.Event()
        self._busy: set[UUID] = set()
        self._due_at = {"count": 0.0, "purge": 0.0}

    def wake(self) -> None:
        """Something may wait: look now, not at the next poll."""
        self._woken.set()

    async def run(self, database: Database) -> None:
        """Runs until cancelled; what is being sent then is sent again later."""
        options = self._options
        poster = Poster(timeout_s=options.timeout_s, allow_loopback=options.allow_loopback)
        async with poster, asyncio.TaskGroup() as sends:
            while True:
                self._woken.clear()
                for one in await self._claim(database):
                    self._busy.add(one.webhook_id)
                    sends.create_task(self._deliver(database, poster, one))
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._woken.wait()

    async def _claim(self, database: Database) -> list[Claimed]:
        try:
            async with database.connection() as connection:
                await self._look_after(connection)
                self._gave_up(await deliveries.withhold(connection, self._clock.now()), deliveries.WITHHELD)
                return await deliveries.claim(connection, self._clock.now(), self._lease, self._busy)
        except AppError as error:
            log.warning("webhooks wait: the outbox cannot be read", reason=error.code)
        except asyncpg.PostgresError:
            log.exception("webhooks wait: the outbox cannot be read")
        self._metrics.webhook_waiting.labels().set(None)  # not known, rather than as it was
        self._due_at["count"] = 0.0
        return []

    async def _look_after(self, connection: Connection) -> None:
        if self._is_time("purge", PURGE_EVERY_S):
            self._gave_up(await deliveries.purge(connection, self._clock.now()), "too many others wait")
        if self._is_time("count", COUNT_EVERY_S):
            self._metrics.webhook_waiting.labels().set(await deliveries.count_waiting(connection))

    def _gave_up(self, how_many: int, why: str) -> None:
        if how_many:
            self._metrics.webhook_deliveries.labels("dead").inc(how_many)
            log.warning("webhook deliveries are dead", deliveries=how_many, reason=why)

    def _is_time(self, what: str, every_s: float) -> bool:
        now = self._clock.monotonic()
        if now < self._due_at[what]:
            return False
        self._due_at[what] = now + every_s
        return True

    async def _deliver(self, database: Database, poster: Poster, one: Claimed) -> None:
        try:
            attempt = await self._attempt(poster, one)
            async with database.connection() as connection, connection.transaction():
                outcome = await self._settle(connection, one, attempt)
            self._metrics.webhook_deliveries.labels(outcome).inc()
        except AppError as error:
            log.warning("a webhook delivery will be sent again: its outcome was not kept", reason=error.code)
        except asyncpg.PostgresError:
            log.exception("a webhook delivery will be sent again: its outcome was not kept")
        finally:
            self._busy.discard(one.webhook_id)
            self._woken.set()

    async def _attempt(self, poster: Poster, one: Claimed) -> Attempt:
        body = one.body.encode()
        timestamp = int(self._clock.now().timestamp())
        headers = {"Content-Type": "application/json", "User-Agent": "gaveurs-backend", "X-Gaveurs-Event": one.kind}
        try:
            headers |= signed_headers(one.secret, str(one.id), timestamp, body)
            status = await poster.post(httpx.URL(one.url), headers, body)
        except TimeoutError:
            return Attempt(None, f"no answer within {self._options.timeout_s:g} s")
        except (RefusedAddressError, httpx.HTTPError, OSError) as error:
            return Attempt(None, _said(error))
        except Exception:
            # Whatever a receiver does ends its delivery, not our process.
            log.exception("a webhook delivery failed in a way that we do not know", delivery=str(one.id))
            return Attempt(None, "internal error; the log tells more")
        return Attempt(status, None if 200 <= status < 300 else f"HTTP status {status}")  # noqa: PLR2004

    async def _settle(self, connection: Connection, one: Claimed, attempt: Attempt) -> str:
        """`delivered`, `retried` or `dead`."""
        now = self._clock.now()
        if attempt.delivered:
            await deliveries.settle(connection, one.id, "delivered", now, attempt.status, None)
            return "delivered"
        gone = attempt.status == GONE
        again_s = None if gone else wait_s(self._options.retry_s, one.attempts, self._chance())
        if again_s is not None:
            again_at = now + timedelta(seconds=again_s)
            await deliveries.settle(connection, one.id, "waiting", again_at, attempt.status, attempt.error)
            self._wake_in(again_s)
            return "retried"
        if gone:
            await deliveries.close_webhook(connection, one.webhook_id, but=one.id)
        await deliveries.settle(connection, one.id, "dead", now, attempt.status, attempt.error)
        log.warning(
            "a webhook delivery is dead", webhook=str(one.webhook_id), delivery=str(one.id), event_kind=one.kind,
            attempts=one.attempts + 1, reason=attempt.error, webhook_disabled=gone,
        )  # fmt: skip
        return "dead"

    def _wake_in(self, seconds: float) -> None:
        if seconds < POLL_S:
            asyncio.get_running_loop().call_later(seconds, self._woken.set)


def _said(error: Exception) -> str:
    """Why, without what a database or a terminal would not take."""
    text = "".join(one if one.isprintable() else " " for one in str(error))
    return (text or type(error).__name__)[:200]
