"""How everything that has a life is opened: what others are built on first, so that it is closed last."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from app.core.admin_key import ensure_admin_key
from app.core.database import DATABASE_ERRORS, DRIVER_ERRORS, is_away
from app.core.embedded_postgres import STOP_DEADLINE_S as EMBEDDED_STOP_DEADLINE_S
from app.core.errors import AppError, CannotStartError, in_a_line
from app.core.logging import get_logger
from app.core.migrations import migrate
from app.core.rate_leases import Leases, redis_exchange
from app.core.redis_link import FAILURES
from app.core.security import CACHE_S, still_valid
from app.infrastructure import make_redis
from app.resources import Resources, assemble, make_databases
from app.sqal.alerts import log_alerts
from app.sqal.committer import Committer, GroupLimits
from app.sqal.live_bus import LiveBus
from app.sqal.session import CLOSE_REVOKED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from app.core.clock import Clock
    from app.core.dependency import Dependency
    from app.core.embedded_postgres import EmbeddedPostgres
    from app.core.sockets import Sockets
    from app.core.supervision import Supervisor
    from app.infrastructure import Infrastructure
    from app.settings import Settings
    from app.sqal.intake import Work
    from app.sqal.store import Written

RETRY_S: Final = 0.5
PREPARE_DEADLINE_S: Final = 60.0
LEASE_DEADLINE_S: Final = 0.25
log = get_logger("gaveurs.resources")


class Opening:
    """Opens things under a supervisor, which closes them in reverse."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        infrastructure: Infrastructure,
        supervisor: Supervisor,
        sensors: Sockets,
        dashboards: Sockets,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._infrastructure = infrastructure
        self._supervisor = supervisor
        self._sensors = sensors
        self._dashboards = dashboards
        self.live_bus: LiveBus | None = None

    def open_redis(self, redis: Dependency) -> None:
        """The cache's second level and the limits' leases. Connects at first use: Redis may come up after us."""
        settings, infrastructure, supervise = self._settings, self._infrastructure, self._supervisor
        link, store = make_redis(settings, self._clock, infrastructure, redis)
        supervise.closing("redis", link.close, say="Closing Redis cache")
        infrastructure.cache.share(store)
        ask = redis_exchange(link.client, f"{settings.redis_prefix}:limit:")
        leases = Leases(
            lambda requests: link.call(lambda _client: ask(requests), LEASE_DEADLINE_S), monotonic=self._clock.monotonic
        )
        for limiter in (infrastructure.limits.connects, infrastructure.limits.rest):
            leases.attach(limiter)
        supervise.background("redis check", redis.watch(link.ping, FAILURES))
        supervise.background("cache writes", store.run())
        supervise.background("cache news", store.listen())
        supervise.background("rate leases", leases.run())

    async def open_database(self, embedded: EmbeddedPostgres | None) -> Resources:
        """PostgreSQL, and everything that works on it."""
        settings, supervise = self._settings, self._supervisor
        if embedded is not None:
            supervise.closing("embedded PostgreSQL", embedded.stop, EMBEDDED_STOP_DEADLINE_S)
            await embedded.start()
            supervise.background("postgres watch", embedded.watch())
        dsn = settings.database_url.get_secret_value() if settings.database_url else _dsn_of(embedded)
        await self._until_it_serves("schema", lambda: migrate(dsn))
        databases = make_databases(dsn, settings, self._infrastructure)

        async def close() -> None:
            await asyncio.gather(*(database.close() for database in databases.all))

        for database in databases.all:
            await database.open()
        supervise.closing("database pool", close, say="Closing database pool")
        resources = assemble(settings, self._clock, self._infrastructure, databases)
        await self._until_it_serves("database preparation", lambda: self._prepare_database(resources))
        self._start_background(resources, dsn, shared=embedded is None)
        self._start_writers(resources)
        return resources

    def _start_background(self, resources: Resources, dsn: str, *, shared: bool) -> None:
        run = self._supervisor.background
        run("database check", self._infrastructure.database.watch(resources.checks.ping, DRIVER_ERRORS))
        run("housekeeping", resources.housekeeper.run(resources.writes))
        run("watch", resources.watch.run(resources.writes))
        run("live feed", resources.live.run())
        run("device counts", resources.device_counts.run(resources.reads))
        run("holdings", resources.holdings.run(resources.reads))
        run("disks", resources.disks.run())
        run("cache upkeep", self._infrastructure.cache.run())
        self._supervisor.closing("cache loads", self._infrastructure.cache.close)
        resources.bugs.start(run)
        run("access review", self._review_access(resources))
        if shared:
            self.live_bus = LiveBus(
                dsn, self._infrastructure.database, resources.live, self._clock, lambda: len(self._dashboards) > 0
            )
            run("live bus", self.live_bus.run())

    async def _review_access(self, resources: Resources) -> None:
        """Let go of open sockets whose key was revoked; runs until cancelled."""
        while True:
            await asyncio.sleep(CACHE_S)
            ids = self._sensors.keys() | self._dashboards.keys()
            if not ids:
                continue
            try:
                async with resources.reads.connection() as connection:
                    valid = await still_valid(connection, ids)
            except AppError:
                continue  # nothing is known now: the next look tells
            except asyncpg.PostgresError:
                log.exception("open sockets cannot be checked for revoked keys")
                continue
            for sockets in (self._sensors, self._dashboards):  # one that came meanwhile was not asked about
                sockets.end_keys(ids - valid, *CLOSE_REVOKED)

    async def _prepare_database(self, resources: Resources) -> None:
        async with resources.writes.connection(PREPARE_DEADLINE_S) as connection:
            await resources.store.register_recipes(connection)
            await resources.housekeeper.keep(connection, wait=True)
            await ensure_admin_key(connection, self._clock, self._settings.data_dir)

    def _start_writers(self, resources: Resources) -> None:
        settings = self._settings

        def note(group: Sequence[Work], written: Written) -> None:
            resources.fleet.note_samples(group, written.verdicts)
            resources.recorder.note(group, written)
            log_alerts(written.alerts)
            resources.cached.note(written.samples)
            resources.live.note(written.samples, written.alerts)

        committer = Committer(
            resources.intake,
            resources.ingest.preparer,
            resources.store,
            resources.writes,
            self._infrastructure.database,
            self._clock,
            GroupLimits(
                rows=settings.ingest_group_rows,
                bytes=settings.ingest_group_bytes,
                linger_s=settings.ingest_group_ms / 1_000,
                max_wait_s=settings.ingest_max_wait_s,
                commit_deadline_s=settings.commit_deadline_s,
            ),
            note,
        )
        fleet = self._supervisor.background("fleet", resources.fleet.run())
        writers = [
            self._supervisor.background(f"writer {number}", committer.run())
            for number in range(settings.database_writers)
        ]

        async def finish() -> None:
            resources.intake.close()
            await asyncio.wait(writers)
            resources.fleet.close()
            await asyncio.wait({fleet})

        self._supervisor.closing("ingest", finish, settings.shutdown_close_s / 2)

    async def _until_it_serves(self, what: str, step: Callable[[], Awaitable[Any]]) -> None:
        """Try until the database answers: it may come up after us."""
        said = False
        while True:
            try:
                await step()
            except (AppError, *DATABASE_ERRORS) as error:
                if not (isinstance(error, AppError) or is_away(error)):
                    raise CannotStartError(f"{what} failed: {in_a_line(error)}") from error
                if not said:
                    log.warning("waiting for the database", step=what, reason=in_a_line(error))
                said = True
                await asyncio.sleep(RETRY_S)
            else:
                return


def _dsn_of(embedded: EmbeddedPostgres | None) -> str:
    if embedded is None:
        raise RuntimeError("there is neither DATABASE_URL nor an embedded database")
    return embedded.dsn
