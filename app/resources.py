"""What requests and sockets work with, made from the settings. What of it has a life is opened in `app/runtime.py`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.bug_resources import BugTracker, attachments_folder, make_bug_tracker
from app.core.database import Database
from app.core.disks import Disks
from app.core.errors import CannotStartError
from app.core.security import KeyRing
from app.sqal.admission import DeviceLimits
from app.sqal.alert_rules import AlertRules, AlertSettings
from app.sqal.alerts import ReadingAlerts, log_alerts
from app.sqal.cached import FLEET, CachedReads
from app.sqal.codec import MessageCodec
from app.sqal.device_counts import DeviceCounts
from app.sqal.devices import StateLimits
from app.sqal.export import Exports
from app.sqal.fleet import Fleet
from app.sqal.holdings import Holdings
from app.sqal.ingest import Ingest
from app.sqal.intake import Intake
from app.sqal.live import LiveFeed
from app.sqal.prepare import Preparer
from app.sqal.quarantine import Quarantine
from app.sqal.recipe_book import RecipeBook, recipe_book
from app.sqal.recipe_files import RecipeFileError, read_recipes
from app.sqal.retention import Housekeeper
from app.sqal.store import SampleStore
from app.sqal.watch import Watch, WatchSettings

if TYPE_CHECKING:
    from app.core.clock import Clock
    from app.core.metrics import Metrics
    from app.infrastructure import Infrastructure
    from app.settings import Settings
    from app.sqal.recorder import SampleRecorder

WATCHERS = 2  # housekeeping and the watch: each may hold a connection beside the writers'


@dataclass(frozen=True, slots=True)
class Resources:
    """Exists from the end of opening to the start of closing."""

    reads: Database
    writes: Database
    keys: KeyRing
    codec: MessageCodec
    recipes: RecipeBook
    quarantine: Quarantine
    store: SampleStore
    intake: Intake
    ingest: Ingest
    fleet: Fleet
    housekeeper: Housekeeper
    device_states: StateLimits
    watch: Watch
    live: LiveFeed
    exports: Exports
    checks: Database
    recorder: SampleRecorder
    device_counts: DeviceCounts
    holdings: Holdings
    disks: Disks
    cached: CachedReads
    bugs: BugTracker

    def report(self, metrics: Metrics) -> None:
        """What pools and queue look like, at a scrape."""
        for database in (self.reads, self.writes, self.bugs.database):
            metrics.pool_size.labels(database.name).set(database.size)
            metrics.pool_available.labels(database.name).set(database.available)
            metrics.pool_waiters.labels(database.name).set(database.waiters)
        metrics.queue_rows.labels().set(self.intake.rows)
        metrics.queue_bytes.labels().set(self.intake.bytes)


@dataclass(frozen=True, slots=True)
class Databases:
    """The pools, not opened: for reading, for writing, for the bug tracker, and one connection for the background
    check, which must not wait behind our own load.
    """

    reads: Database
    writes: Database
    bugs: Database
    checks: Database

    @property
    def all(self) -> tuple[Database, ...]:
        return (self.reads, self.writes, self.bugs, self.checks)


def make_recipes(settings: Settings) -> RecipeBook:
    """Shipped recipes and those of RECIPES_DIR. Raises CannotStartError, whose text names the file and line."""
    try:
        definitions = read_recipes(settings.recipes_dir) if settings.recipes_dir else []
    except RecipeFileError as error:
        raise CannotStartError(str(error)) from error
    try:
        return recipe_book(settings.default_recipe, settings.site_recipes, definitions)
    except ValueError as error:
        raise CannotStartError(f"DEFAULT_RECIPE or SITE_RECIPES: {error}") from error


def make_databases(dsn: str, settings: Settings, infrastructure: Infrastructure) -> Databases:
    def pool(name: str, size: int, deadline_s: float) -> Database:
        return Database(
            dsn,
            infrastructure.database,
            infrastructure.metrics,
            size=size,
            deadline_s=deadline_s,
            name=name,
            pool_wait_s=settings.database_pool_wait_s,
        )

    return Databases(
        reads=pool("reads", settings.database_reads, settings.query_deadline_s),
        writes=pool("writes", settings.database_writers + WATCHERS, settings.commit_deadline_s),
        bugs=pool("bugs", settings.database_bugs, settings.query_deadline_s),
        checks=pool("checks", 1, settings.query_deadline_s),
    )


def make_alert_rules(settings: Settings) -> AlertRules:
    return AlertRules(
        AlertSettings(
            score_critical=settings.alert_score_critical,
            score_warning=settings.alert_score_warning,
            oxidation=settings.alert_oxidation,
            freshness=settings.alert_freshness,
            hysteresis=settings.alert_hysteresis,
            clear_after=settings.alert_clear_after,
            late_s=settings.alert_late_s,
        )
    )


def make_store(settings: Settings, recipes: RecipeBook, codec: MessageCodec, quarantine: Quarantine) -> SampleStore:
    return SampleStore(
        recipes,
        codec,
        quarantine,
        ReadingAlerts(make_alert_rules(settings)),
        retention=timedelta(days=settings.sample_retention_days),
        sites=settings.sites,
    )


def make_quarantine(settings: Settings, codec: MessageCodec) -> Quarantine:
    return Quarantine(codec, max_rows=settings.quarantine_rows, max_bytes=settings.quarantine_bytes)


def _folders(settings: Settings) -> dict[str, Path]:
    """Ours on a disk, by the name that metrics have for them."""
    folders = {"data": settings.data_dir}
    if settings.bug_attachments_url is None:
        folders["attachments"] = attachments_folder(settings)
    if settings.backup_to is not None and "://" not in settings.backup_to:
        folders["backup"] = Path(settings.backup_to)
    return folders


def _ingest(settings: Settings, clock: Clock, infrastructure: Infrastructure, intake: Intake, fleet: Fleet) -> Ingest:
    limits = infrastructure.limits
    return Ingest(
        intake=intake,
        preparer=Preparer(clock),
        fleet=fleet,
        storage=infrastructure.database,
        clock=clock,
        recorder=infrastructure.recorder,
        limits=DeviceLimits(limits.messages, limits.message_bytes, settings.ws_devices_per_connection),
        metrics=infrastructure.metrics,
        max_message_bytes=settings.ws_max_message_bytes,
        max_batch=settings.ws_max_batch,
        patience=infrastructure.patience,
    )


def _watch(settings: Settings, clock: Clock, states: StateLimits, live: LiveFeed) -> Watch:
    def tell(changed: list[dict[str, Any]]) -> None:
        log_alerts(changed)
        live.note(alerts=changed)

    watched = WatchSettings(
        clock_off_s=settings.alert_clock_off_s,
        quarantine_rows=settings.alert_quarantine_rows,
        quarantine_window_s=settings.alert_quarantine_window_s,
    )
    return Watch(clock, states, watched, tell)


def _housekeeper(settings: Settings, clock: Clock, quarantine: Quarantine) -> Housekeeper:
    return Housekeeper(
        clock,
        quarantine,
        sample_retention=timedelta(days=settings.sample_retention_days),
        message_retention=timedelta(days=settings.message_retention_days),
        message_bytes=settings.message_retention_bytes,
    )


def assemble(settings: Settings, clock: Clock, infrastructure: Infrastructure, databases: Databases) -> Resources:
    """Everything, knowing each other; nothing runs yet."""
    codec = MessageCodec()
    recipes = make_recipes(settings)
    quarantine = make_quarantine(settings, codec)
    intake = Intake(settings.ingest_queue_rows, settings.ingest_queue_bytes)
    reads, metrics = databases.reads, infrastructure.metrics
    fleet = Fleet(reads, infrastructure.database, clock, retention=timedelta(days=settings.sample_retention_days))
    live = LiveFeed(clock)
    cached = CachedReads(infrastructure.cache, reads)
    states = StateLimits(settings.device_stale_after_s, settings.device_offline_after_s)
    return Resources(
        reads=reads,
        writes=databases.writes,
        checks=databases.checks,
        keys=KeyRing(reads, clock),
        codec=codec,
        recipes=recipes,
        quarantine=quarantine,
        store=make_store(settings, recipes, codec, quarantine),
        intake=intake,
        ingest=_ingest(settings, clock, infrastructure, intake, fleet),
        fleet=fleet,
        housekeeper=_housekeeper(settings, clock, quarantine),
        device_states=states,
        watch=_watch(settings, clock, states, live),
        live=live,
        exports=Exports(reads),
        recorder=infrastructure.recorder,
        device_counts=DeviceCounts(metrics, clock, states, lambda: cached.changed([FLEET])),
        holdings=Holdings(metrics),
        disks=Disks(metrics, _folders(settings)),
        cached=cached,
        bugs=make_bug_tracker(settings, clock, infrastructure, databases.bugs, make_alert_rules(settings)),
    )
