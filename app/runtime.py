"""The process's life: everything opened in one stack under supervision, closed in reverse, each with its deadline."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from app.core.admin_key import ensure_admin_key
from app.core.database import is_away
from app.core.embedded_postgres import EmbeddedPostgres
from app.core.errors import AppError, CannotStartError, StartingError
from app.core.logging import get_logger
from app.core.migrations import migrate
from app.core.security import CACHE_S, still_valid
from app.core.sockets import Sockets
from app.resources import Resources, assemble, make_databases, make_recipes
from app.sqal.alerts import log_alerts
from app.sqal.availability import Availability
from app.sqal.committer import Committer, GroupLimits
from app.sqal.live_bus import LiveBus
from app.sqal.session import CLOSE_RESTART, CLOSE_REVOKED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence

    from app.core.clock import Clock
    from app.core.security import Principal
    from app.settings import Settings
    from app.sqal.intake import Work
    from app.sqal.live_session import DashboardSession
    from app.sqal.store import Written

RETRY_S: Final = 0.5
CLOSE_DEADLINE_S: Final = 10.0
EMBEDDED_STOP_DEADLINE_S: Final = 35.0
CLOSE_LINGER_S: Final = 0.5
READY_HYSTERESIS_S: Final = 3.0
log = get_logger("gaveurs.resources")


class Phase(StrEnum):
    """Where the process stands in its life."""

    STARTING = "starting"
    STARTED = "started"
    DRAINING = "draining"


@dataclass(slots=True)
class Runtime:
    """The process as probes and signals see it. `start` returns at once; opening goes on in a supervised task."""

    settings: Settings
    clock: Clock
    phase: Phase = Phase.STARTING
    sensors: Sockets = field(init=False)
    dashboards: Sockets = field(init=False)
    opening_s: float | None = None
    failed: bool = False
    _resources: Resources | None = None
    _availability: Availability = field(init=False)
    _embedded: EmbeddedPostgres | None = None
    _live_bus: LiveBus | None = None
    _task: asyncio.Task[None] | None = None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _started_at: float = 0.0

    def __post_init__(self) -> None:
        self._availability = Availability(self.clock)
        self.sensors = Sockets(self.settings.ws_max_sensors)
        self.dashboards = Sockets(self.settings.ws_max_dashboards)

    @property
    def resources(self) -> Resources:
        """Raises StartingError before opening has ended and after closing has begun."""
        if self._resources is None:
            raise StartingError("the service is starting or stopping; try again shortly", retry_after_s=1.0)
        return self._resources

    @property
    def uptime_s(self) -> float:
        return self.clock.monotonic() - self._started_at

    @property
    def database_serves(self) -> bool:
        """With hysteresis: a database that fails a moment is not yet lost."""
        return self._resources is not None and self._availability.away_for_s < READY_HYSTERESIS_S

    def prepare(self) -> None:
        """Check what only a person can mend; raises CannotStartError, whose text is one clear line. Once is enough."""
        make_recipes(self.settings)
        if self.settings.database_url is None and self._embedded is None:
            embedded = EmbeddedPostgres(self.settings.data_dir)
            embedded.prepare()
            self._embedded = embedded

    def start(self) -> None:
        """Open in the background. Where nothing can be opened, say why in one line and end the process."""
        self._started_at = self.clock.monotonic()
        try:
            self.prepare()
        except CannotStartError as error:
            log.critical("cannot start", reason=str(error))
            self._give_up()
            return
        if self.settings.redis_host is not None:
            log.warning("REDIS_HOST is set, but this version uses no Redis")
        self._task = asyncio.create_task(self._live(), name="runtime")

    async def stop(self) -> None:
        """Close everything, in reverse order of opening."""
        self.phase = Phase.DRAINING
        self._stop.set()
        if self._task is not None:
            if self.opening_s is None:
                self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def drain(self) -> None:
        """Take no new sockets; on each open one commit and answer what was read, then close it with 1012."""
        self.phase = Phase.DRAINING
        sensors, dashboards = len(self.sensors), len(self.dashboards)
        log.info("closing sensor connections", active=sensors, dashboards=dashboards)
        self.sensors.end_all(*CLOSE_RESTART)
        self.dashboards.end_all(*CLOSE_RESTART)
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.shutdown_deadline_s):
                while self.sensors or self.dashboards:  # noqa: ASYNC110 - they end by themselves, many at once
                    await asyncio.sleep(0.01)
        if sensors or dashboards:
            # The server would cut the sockets now; a moment lets peers read their last acks and answer the close.
            await asyncio.sleep(CLOSE_LINGER_S)

    async def _live(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                self._resources = await self._open(stack)
                stack.callback(self._withdraw)
                self.opening_s = self.uptime_s
                if self.phase is Phase.STARTING:
                    self.phase = Phase.STARTED
                _calm_collector()
                log.info("started", duration_s=round(self.opening_s, 2))
                await self._stop.wait()
        except CannotStartError as error:
            log.critical("cannot start", reason=str(error))
            self._give_up()
        except Exception:
            log.critical("the service failed", exc_info=True)
            self._give_up()
        finally:
            if self._embedded is not None:
                self._embedded.release()
        log.info("stopped")

    @contextmanager
    def holding_dashboard(self, session: DashboardSession, principal: Principal) -> Iterator[None]:
        """Count a dashboard in while it lasts, and let the other processes know that this one wants their news."""
        with self.dashboards.holding(session, principal):
            if self._live_bus is not None:
                self._live_bus.announce()
            yield

    def _withdraw(self) -> None:
        self._resources = None

    def _give_up(self) -> None:
        """Ask the server to end the process: whoever supervises it starts it again."""
        self.failed = True
        self._withdraw()
        os.kill(os.getpid(), signal.SIGTERM)

    async def _open(self, stack: AsyncExitStack) -> Resources:
        settings = self.settings
        if self._embedded is not None:
            closing(stack, "embedded PostgreSQL", self._embedded.stop, EMBEDDED_STOP_DEADLINE_S)
            await self._embedded.start()
            self._background(stack, "postgres watch", self._embedded.watch())
        dsn = settings.database_url.get_secret_value() if settings.database_url else self._dsn()
        await self._until_it_serves("schema", lambda: migrate(dsn))
        reads, writes = make_databases(dsn, settings)
        for database in (reads, writes):
            await database.open()
            closing(stack, "database pool", database.close)
        resources = assemble(settings, self.clock, self._availability, reads, writes)
        await self._until_it_serves("database preparation", lambda: self._prepare_database(resources))
        self._background(stack, "database check", self._availability.watch(reads))
        self._background(stack, "housekeeping", resources.housekeeper.run(writes))
        self._background(stack, "watch", resources.watch.run(writes))
        self._background(stack, "live feed", resources.live.run())
        if self._embedded is None:  # else nobody shares the database
            self._live_bus = LiveBus(dsn, resources.live, self.clock, lambda: len(self.dashboards) > 0)
            self._background(stack, "live bus", self._live_bus.run())
        self._background(stack, "access review", self._review_access(resources))
        self._start_writers(stack, resources)
        return resources

    async def _review_access(self, resources: Resources) -> None:
        """Let go of open sockets whose key was revoked; runs until cancelled."""
        while True:
            await asyncio.sleep(CACHE_S)
            ids = self.sensors.keys() | self.dashboards.keys()
            if not ids:
                continue
            try:
                async with resources.reads.connection() as connection:
                    valid = await still_valid(connection, ids)
            except AppError:
                continue  # nothing is known now: the next look tells
            for sockets in (self.sensors, self.dashboards):
                sockets.end_revoked(valid, *CLOSE_REVOKED)

    def _dsn(self) -> str:
        if self._embedded is None:
            raise RuntimeError("there is neither DATABASE_URL nor an embedded database")
        return self._embedded.dsn

    async def _prepare_database(self, resources: Resources) -> None:
        async with resources.writes.connection(60.0) as connection:
            await resources.store.register_recipes(connection)
            await resources.housekeeper.keep(connection, wait=True)
            await ensure_admin_key(connection, self.clock, self.settings.data_dir)

    def _start_writers(self, stack: AsyncExitStack, resources: Resources) -> None:
        settings = self.settings

        def note(group: Sequence[Work], written: Written) -> None:
            resources.fleet.note_samples(group, written.verdicts)
            log_alerts(written.alerts)
            resources.live.note(written.samples, written.alerts)

        committer = Committer(
            resources.intake,
            resources.ingest.preparer,
            resources.store,
            resources.writes,
            self._availability,
            self.clock,
            GroupLimits(
                rows=settings.ingest_group_rows,
                bytes=settings.ingest_group_bytes,
                linger_s=settings.ingest_group_ms / 1_000,
                max_wait_s=settings.ingest_max_wait_s,
                commit_deadline_s=settings.commit_deadline_s,
            ),
            note,
        )
        fleet = self._background(stack, "fleet", resources.fleet.run())
        writers = [
            self._background(stack, f"writer {number}", committer.run()) for number in range(settings.database_writers)
        ]

        async def finish() -> None:
            resources.intake.close()
            await asyncio.wait(writers)
            resources.fleet.close()
            await asyncio.wait({fleet})

        closing(stack, "ingest", finish, settings.shutdown_deadline_s)

    async def _until_it_serves(self, what: str, step: Callable[[], Awaitable[Any]]) -> None:
        """Try until the database answers: it may come up after us."""
        said = False
        while True:
            try:
                await step()
            except (AppError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                if not (isinstance(error, AppError) or is_away(error)):
                    raise CannotStartError(f"{what} failed: {type(error).__name__}: {error}") from error
                if not said:
                    log.warning("waiting for the database", step=what, reason=type(error).__name__)
                said = True
                await asyncio.sleep(RETRY_S)
            else:
                return

    def _background(self, stack: AsyncExitStack, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task owned by the stack. One that fails, or ends unasked, takes the process down: half a service is worse
        than a restart.
        """
        task = asyncio.create_task(work, name=name)

        def watch(ended: asyncio.Task[None]) -> None:
            if ended.cancelled():
                return
            error = ended.exception()
            if error is not None or self.phase is not Phase.DRAINING:
                log.critical("a background task failed", task=name, exc_info=error)
                self._give_up()

        async def end() -> None:
            task.cancel()
            await asyncio.wait({task})

        task.add_done_callback(watch)
        closing(stack, name, end)
        return task


def _calm_collector() -> None:
    """Leave out of every later collection what lives as long as the process, and look at the rest less often: a decoded
    message is a hundred small objects that reference counting frees by itself.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def closing(
    stack: AsyncExitStack, name: str, close: Callable[[], Awaitable[None]], deadline_s: float = CLOSE_DEADLINE_S
) -> None:
    """Register a close that may take `deadline_s` and no longer; what does not end in time is logged and left."""

    async def bounded() -> None:
        try:
            await asyncio.wait_for(close(), deadline_s)
        except TimeoutError:
            log.error("closing took too long", what=name, deadline_s=deadline_s)  # noqa: TRY400

    stack.push_async_callback(bounded)
