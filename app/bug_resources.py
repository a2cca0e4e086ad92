"""What the bug tracker works with, made from the settings, and what of it runs in the background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from app.bugs.attachment_store import AttachmentStore, S3Access
from app.bugs.attachment_sweep import AttachmentSweep
from app.bugs.export import BugExports
from app.bugs.gauges import BugGauges
from app.bugs.service_levels import Targets
from app.bugs.similar import SimilarTitles
from app.bugs.summary import CachedFigures
from app.bugs.telemetry import BugsFromTelemetry
from app.bugs.upkeep import BugUpkeep
from app.bugs.upload_places import UploadPlaces
from app.bugs.uploads import Uploads
from app.bugs.webhook_sender import SenderOptions, WebhookSender
from app.core.places import Places
from app.sqal.sightings import Sightings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from app.core.clock import Clock
    from app.core.database import Database
    from app.infrastructure import Infrastructure
    from app.settings import Settings
    from app.sqal.alert_rules import AlertRules

DOWNLOADS_AT_ONCE: Final = 32  # each holds a file open and a chunk in memory
CLOCKS_APART_S: Final = 300.0  # at most, of processes that share a database


@dataclass(frozen=True, slots=True)
class BugTracker:
    """One process's. `database` is a pool of its own: however hard somebody searches, samples find a connection."""

    database: Database
    similar: SimilarTitles
    figures: CachedFigures
    targets: Targets
    gauges: BugGauges
    upkeep: BugUpkeep
    exports: BugExports
    webhook_sender: WebhookSender
    attachments: AttachmentStore
    uploads: Uploads
    downloads: Places
    telemetry: BugsFromTelemetry | None

    def start(self, run: Callable[[str, Coroutine[Any, Any, None]], Any]) -> None:
        """Everything that goes on by itself, under the caller's supervisor (name, task)."""
        run("bug gauges", self.gauges.run(self.database))
        run("bug upkeep", self.upkeep.run(self.database))
        run("bug webhooks", self.webhook_sender.run(self.database))
        run("bug uploads", self.uploads.run())
        if self.telemetry is not None:
            run("bugs from telemetry", self.telemetry.run(self.database))


def make_bug_tracker(
    settings: Settings, clock: Clock, infrastructure: Infrastructure, database: Database, rules: AlertRules
) -> BugTracker:
    """`rules`: by which readings raise alerts. Opens nothing but the folder of attachments. CannotStartError when that
    cannot be used.
    """
    store = make_attachment_store(settings)
    figures = CachedFigures(infrastructure.cache)
    return BugTracker(
        database=database,
        similar=SimilarTitles(),
        figures=figures,
        targets=Targets.of_hours(settings.bug_sla_acknowledge_hours, settings.bug_sla_resolve_hours),
        gauges=BugGauges(infrastructure.metrics, clock, ZoneInfo(settings.timezone)),
        upkeep=BugUpkeep(clock, AttachmentSweep(clock, store, infrastructure.metrics.orphans_swept)),
        exports=BugExports(database),
        webhook_sender=_webhook_sender(settings, clock, infrastructure),
        attachments=store,
        uploads=Uploads(
            store,
            UploadPlaces(settings.bug_uploads_at_once),
            most_bytes=settings.bug_attachment_bytes,
            idle_s=settings.upload_idle_s,
        ),
        downloads=Places("downloads", DOWNLOADS_AT_ONCE, retry_after_s=5.0),
        telemetry=_telemetry(settings, clock, rules, figures.changed) if settings.bugs_from_telemetry else None,
    )


def _telemetry(settings: Settings, clock: Clock, rules: AlertRules, on_change: Callable[[], None]) -> BugsFromTelemetry:
    late_s = settings.ingest_max_wait_s + settings.commit_deadline_s + CLOCKS_APART_S
    alerts = Sightings(rules, settings.alert_late_s)
    return BugsFromTelemetry(
        clock, alerts, every_s=settings.bugs_telemetry_every_s, overlap_s=late_s, on_change=on_change
    )


def attachments_folder(settings: Settings) -> Path:
    """Where attachments are, if not in a bucket."""
    return settings.bug_attachments_dir or settings.data_dir / "attachments"


def make_attachment_store(settings: Settings) -> AttachmentStore:
    """A folder, or the bucket of BUG_ATTACHMENTS_URL."""
    if settings.bug_attachments_url is None:
        return AttachmentStore.in_folder(attachments_folder(settings))
    key, secret = settings.bug_attachments_s3_access_key, settings.bug_attachments_s3_secret_key
    access = S3Access(
        endpoint=settings.bug_attachments_s3_endpoint,
        region=settings.bug_attachments_s3_region,
        access_key=key.get_secret_value() if key else None,
        secret_key=secret.get_secret_value() if secret else None,
    )
    bucket = urlsplit(settings.bug_attachments_url)
    return AttachmentStore.in_bucket(bucket.netloc, bucket.path.strip("/"), access)


def _webhook_sender(settings: Settings, clock: Clock, infrastructure: Infrastructure) -> WebhookSender:
    options = SenderOptions(settings.webhook_retry_s, allow_loopback=settings.webhook_allow_loopback)
    return WebhookSender(clock, infrastructure.metrics, options)
