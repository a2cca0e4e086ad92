"""The process's life: opened in a supervised task behind the listener, drained and closed at a signal."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from app.core import cache as cache_module
from app.core.circuit_breaker import cache_breaker, db_breaker
from app.core.embedded_postgres import EmbeddedPostgres
from app.core.errors import CannotStartError, StartingError
from app.core.graceful_shutdown import GracefulShutdown, ShutdownTimes
from app.core.health import Health, Phase
from app.core.logging import get_logger
from app.core.management import ManagementServer
from app.core.rate_limiter import rate_limiter
from app.core.sockets import Sockets
from app.core.supervision import Supervisor
from app.infrastructure import Infrastructure, make_infrastructure
from app.management_routes import management_routes
from app.opening import Opening
from app.resources import Resources, make_recipes
from app.sqal.live import ROUND_S
from app.sqal.session import CLOSE_RESTART

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.core.clock import Clock
    from app.core.security import Principal
    from app.settings import Settings
    from app.sqal.live_session import DashboardSession

CLOSE_LINGER_S: Final = 0.5
log = get_logger("gaveurs.resources")


@dataclass(slots=True)
class Runtime:
    """The process as probes and signals see it. `start` returns at once; opening goes on in a supervised task."""

    settings: Settings
    clock: Clock
    phase: Phase = Phase.STARTING
    infrastructure: Infrastructure = field(init=False)
    health: Health = field(init=False)
    shutdown: GracefulShutdown = field(init=False)
    sensors: Sockets = field(init=False)
    dashboards: Sockets = field(init=False)
    opening_s: float | None = None
    failed: bool = False
    _resources: Resources | None = None
    _embedded: EmbeddedPostgres | None = None
    _management: ManagementServer | None = None
    _opening: Opening | None = None
    _task: asyncio.Task[None] | None = None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _started_at: float = 0.0

    def __post_init__(self) -> None:
        settings = self.settings
        self.infrastructure = made = make_infrastructure(settings, self.clock)
        self.sensors = Sockets(settings.ws_max_sensors, settings.ws_connections_per_client)
        self.dashboards = Sockets(settings.ws_max_dashboards, settings.ws_max_dashboards)
        self.health = Health(
            phase=lambda: self.phase,
            uptime_s=lambda: self.uptime_s,
            opening_s=lambda: self.opening_s,
            overloaded=lambda: self._resources is not None and self._resources.intake.nearly_full,
            watchdog=made.watchdog,
            blocked_after_s=settings.loop_blocked_after_s,
            dependencies=made.dependencies,
        )
        times = ShutdownTimes(
            settings.shutdown_propagation_s,
            settings.shutdown_deadline_s,
            settings.shutdown_requests_s,
            settings.shutdown_close_s,
        )
        self.shutdown = GracefulShutdown(times, made.in_hand, self)
        made.metrics.registry.before_scrape(self._report)

    @property
    def resources(self) -> Resources:
        """Raises StartingError before opening has ended and after closing has begun."""
        if self._resources is None:
            raise StartingError("the service is starting or stopping; try again shortly", retry_after_s=1.0)
        return self._resources

    @property
    def is_open(self) -> bool:
        return self._resources is not None

    @property
    def uptime_s(self) -> float:
        return self.clock.monotonic() - self._started_at

    @property
    def serving(self) -> bool:
        return self.phase is Phase.STARTED

    # Life

    def prepare(self) -> None:
        """Check what only a person can mend; raises CannotStartError, whose text is one clear line. Once is enough."""
        make_recipes(self.settings)
        if self.settings.database_url is None and self._embedded is None:
            embedded = EmbeddedPostgres(self.settings.data_dir)
            embedded.prepare()
            self._embedded = embedded
        if self.settings.metrics_port is not None and self._management is None:
            routes = management_routes(self.health, self.infrastructure.metrics.registry)
            management = ManagementServer(self.settings.metrics_host, self.settings.metrics_port, routes)
            management.start()
            self._management = management
            log.info("metrics are on a port of their own", host=self.settings.metrics_host, port=management.port)

    def start(self) -> None:
        """Open in the background. Where nothing can be opened, say why in one line and end the process."""
        self._started_at = self.clock.monotonic()
        made = self.infrastructure
        made.watchdog.start()
        db_breaker.bind(made.database.breaker)
        if made.redis is not None:
            cache_breaker.bind(made.redis.breaker)
        rate_limiter.bind(made.limits.connects)
        cache_module.cache.bind(made.cache)
        try:
            self.prepare()
        except CannotStartError as error:
            log.critical("cannot start", reason=str(error))
            self._give_up()
            return
        self._task = asyncio.create_task(self._live(), name="runtime")

    async def stop(self) -> None:
        """Close everything, in reverse order of opening, if the shutdown has not done so."""
        try:
            async with asyncio.timeout(self.settings.shutdown_close_s):
                await self.close()
        except TimeoutError:
            log.error("what did not close in time is left")  # noqa: TRY400
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait({self._task}, timeout=CLOSE_LINGER_S)
        for handle in (db_breaker, cache_breaker, rate_limiter, cache_module.cache):
            handle.unbind()
        self.infrastructure.watchdog.stop()
        if self._management is not None:
            await asyncio.to_thread(self._management.stop)

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

    async def _open(self, stack: AsyncExitStack) -> Resources:
        supervisor = Supervisor(stack, lambda: self.phase is Phase.DRAINING, self._give_up)
        self._opening = opening = Opening(
            self.settings, self.clock, self.infrastructure, supervisor, self.sensors, self.dashboards
        )
        if self.infrastructure.redis is not None:
            opening.open_redis(self.infrastructure.redis)
        return await opening.open_database(self._embedded)

    def _withdraw(self) -> None:
        self._resources = None

    def _give_up(self) -> None:
        """Ask the server to end the process: whoever supervises it starts it again."""
        self.failed = True
        self._withdraw()
        self.phase = Phase.DRAINING
        os.kill(os.getpid(), signal.SIGTERM)

    # Shutdown: what GracefulShutdown drains

    def refuse_new(self) -> None:
        self.phase = Phase.DRAINING

    @property
    def open_sockets(self) -> int:
        return len(self.sensors) + len(self.dashboards)

    async def end_sockets(self) -> None:
        """On each commit and answer what was read, then say `drain` and close it with 1012."""
        any_open = self.open_sockets > 0
        self.sensors.end_all(*CLOSE_RESTART)
        while self.sensors:  # noqa: ASYNC110 - they end by themselves, many at once
            await asyncio.sleep(0.01)
        if self.dashboards:
            await asyncio.sleep(2 * ROUND_S)  # the last samples reach them too
        self.dashboards.end_all(*CLOSE_RESTART)
        while self.dashboards:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        if any_open:
            # The server would cut the sockets soon; a moment lets peers read their last acks and answer the close.
            await asyncio.sleep(CLOSE_LINGER_S)

    async def close(self) -> None:
        """Close everything, in reverse order of opening."""
        self.phase = Phase.DRAINING
        self._stop.set()
        if self._task is not None:
            if self.opening_s is None:
                self._task.cancel()
            await asyncio.wait({self._task})

    def hurry(self) -> None:
        self.infrastructure.patience.lose()

    def receipt(self) -> dict[str, Any]:
        return self.infrastructure.recorder.receipt()

    # Figures

    def _report(self) -> None:
        metrics = self.infrastructure.metrics
        metrics.draining.labels().set(int(self.phase is Phase.DRAINING))
        metrics.sockets_active.labels("sensors").set(len(self.sensors))
        metrics.sockets_active.labels("realtime").set(len(self.dashboards))
        if self._resources is not None:
            self._resources.report(metrics)

    @contextmanager
    def holding_dashboard(self, session: DashboardSession, principal: Principal, client: str) -> Iterator[None]:
        """Count a dashboard in while it lasts, and let the other processes know that this one wants their news."""
        with self.dashboards.holding(session, principal, client):
            if self._opening is not None and self._opening.live_bus is not None:
                self._opening.live_bus.announce()
            yield


def _calm_collector() -> None:
    """Leave out of every later collection what lives as long as the process, and look at the rest less often: a decoded
    message is a hundred small objects that reference counting frees by itself.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
