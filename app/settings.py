"""Settings: the guide's variable names, read from the environment and from `.env`, checked once at start."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict
from urllib.parse import urlsplit

from platformdirs import user_data_path
from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from app.secret_files import SecretFiles
from app.setting_values import (
    Bucket,
    Endpoint,
    FolderOrBucket,
    HoursBySeverity,
    Networks,
    Origins,
    PostgresUrl,
    PublicKeys,
    Shifts,
    SiteRecipes,
    Waits,
    Words,
    Zone,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024
GIB = 1024 * MIB
MANY = 1e9
SHUTDOWN_MARGIN_S = 5.0
ENV_FILE = ".env"
PLACEHOLDER = "CHANGE-ME"  # what the templates of secrets in deploy/ hold
AuthMode = Literal["open", "keys"]


class LogOptions(TypedDict):
    """What `configure_logging` is told besides the level."""

    repeats: int
    repeats_every_s: float
    secrets: tuple[str, ...]


def default_data_dir() -> Path:
    """`/var/lib/gaveurs` for root, else the user's own data folder."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/gaveurs")
    return user_data_path("gaveurs")


class Settings(BaseSettings):
    """Everything that can be set. Durations end in `_s` or `_ms`, sizes in `_bytes`."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, extra="ignore", frozen=True, env_ignore_empty=True, allow_inf_nan=False
    )

    secrets_dir: Path | None = Field(default=None, description="files named like settings; /run/secrets if it exists")

    # Storage. Without DATABASE_URL an embedded PostgreSQL lives in DATA_DIR.
    database_url: PostgresUrl | None = None
    data_dir: Path = Field(default_factory=default_data_dir)
    database_reads: int = Field(default=8, ge=1, le=100, description="connections for REST reads")
    database_writers: int = Field(default=3, ge=1, le=16, description="commit groups under way at once")
    database_bugs: int = Field(default=6, ge=2, le=100, description="connections for the bug tracker")
    query_deadline_s: float = Field(default=5.0, gt=0, le=300)
    commit_deadline_s: float = Field(default=10.0, gt=0, le=300)

    database_pool_wait_s: float = Field(default=2.0, gt=0, le=60, description="then the answer is `database_busy`")

    # Redis: the cache's second level, and what replicas share of limits. Without REDIS_HOST each process has its own.
    redis_host: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.:%-]{1,253}$")
    redis_port: int = Field(default=6379, ge=1, le=65535)
    redis_db: int = Field(default=0, ge=0)
    redis_password: SecretStr | None = None
    redis_prefix: str = Field(default="gaveurs", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="of all our keys")
    redis_timeout_ms: float = Field(default=50.0, ge=10, le=250, description="for one call")

    # Cache: for how long a value is served at most, and what is held in this process.
    cache_ttl_latest_sample_s: float = Field(default=10.0, gt=0, le=86_400)
    cache_ttl_dashboard_metrics_s: float = Field(default=300.0, gt=0, le=86_400)
    cache_ttl_device_stats_s: float = Field(default=900.0, gt=0, le=86_400)
    cache_ttl_hourly_aggregates_s: float = Field(default=600.0, gt=0, le=86_400)
    cache_ttl_bug_summary_s: float = Field(default=30.0, gt=0, le=86_400)
    cache_ttl_bug_figures_s: float = Field(default=60.0, gt=0, le=86_400)
    cache_keep_stale_s: float = Field(default=3_600.0, ge=0, le=86_400, description="longer, for when loading fails")
    cache_max_entries: int = Field(default=4_096, ge=1, le=1_000_000)
    cache_max_bytes: int = Field(default=64 * MIB, ge=MIB)

    # Circuit breakers, of the database and of Redis.
    breaker_failure_threshold: int = Field(default=5, ge=1, le=1_000)
    breaker_success_threshold: int = Field(default=2, ge=1, le=1_000)
    breaker_timeout_s: float = Field(default=60.0, gt=0, le=3_600)
    breaker_half_open_max_calls: int = Field(default=3, ge=1, le=1_000)
    breaker_slow_call_s: float | None = Field(default=None, gt=0, description="database: slow calls open it too")

    # Limits. A device's unused rate fills the allowance with which it replays its backlog.
    ws_connects_per_minute: float = Field(
        default=100.0, ge=0.01, le=MANY, description="by address, and as many at once"
    )
    ws_connections_per_client: int = Field(default=500, ge=1, description="open at once, by address")
    ws_messages_per_second: float = Field(default=20.0, ge=0.001, le=MANY, description="by device")
    ws_messages_burst: float = Field(default=40.0, ge=1, le=MANY)
    ws_backlog_allowance: float = Field(default=1_000.0, ge=0, le=MANY)
    ws_message_bytes_average: int = Field(
        default=150_000, ge=1_000, le=16 * MIB, description="bytes: so many for each message above"
    )
    ws_devices_per_connection: int = Field(default=64, ge=1, le=10_000, description="others share one budget")
    rest_requests_per_second: float = Field(default=100.0, ge=0.001, le=MANY, description="by principal")
    rest_burst: float = Field(default=1_000.0, ge=1, le=MANY)
    trusted_proxies: Networks = Field(default=(), description="addresses or networks whose X-Forwarded-For is believed")

    # Edge.
    environment: Literal["development", "production"] = "development"
    fault_switches: bool = Field(default=False, description="lets an admin inject faults, for game days")
    fault_switches_in_production: bool = False
    request_deadline_s: float = Field(default=10.0, gt=0, le=600, description="until an answer begins")
    metrics_port: int | None = Field(default=None, ge=0, le=65535, description="then /metrics is there, not here")
    metrics_host: str = "127.0.0.1"
    loop_blocked_after_s: float = Field(default=2.0, ge=0.1, le=60, description="then liveness fails, and the log says")
    loop_blocked_exit_s: float | None = Field(
        default=None, ge=1, le=3_600, description="then the process ends itself, where nobody asks for its liveness"
    )
    cors_origins: Origins = ()
    auth: AuthMode = "open"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_repeats: int = Field(default=10, ge=0, description="lines of a kind that repeats, in an interval; 0: all")
    log_repeats_every_s: float = Field(default=60.0, ge=0.1, le=86_400, description="that interval")
    ws_max_sensors: int = Field(default=5_000, ge=1, description="device sockets at once; more are refused with 503")
    ws_max_dashboards: int = Field(default=200, ge=1, description="dashboards at once; more are refused with 503")

    # Shutdown, in its order. All of it, and a margin, must fit into what Kubernetes grants.
    shutdown_propagation_s: float = Field(default=3.0, ge=0, le=300, description="until nobody is sent here any more")
    shutdown_deadline_s: float = Field(default=20.0, gt=0, le=600, description="for committing what was read")
    shutdown_requests_s: float = Field(default=30.0, gt=0, le=600, description="for requests that are under way")
    shutdown_close_s: float = Field(default=20.0, gt=0, le=600, description="for closing database and cache")
    termination_grace_period_s: float = Field(default=90.0, gt=0, le=3_600)

    # Ingest.
    ws_max_message_bytes: int = Field(default=MIB, ge=64 * 1024, le=16 * MIB)
    ws_max_batch: int = Field(default=500, ge=1, le=5_000)
    ingest_queue_rows: int = Field(default=4_096, ge=16)
    ingest_queue_bytes: int = Field(default=128 * MIB, ge=MIB)
    ingest_group_rows: int = Field(default=256, ge=1, le=5_000)
    ingest_group_bytes: int = Field(default=8 * MIB, ge=64 * 1024)
    ingest_group_ms: float = Field(default=5.0, ge=0, le=1_000)
    ingest_max_wait_s: float = Field(default=5.0, gt=0, le=300, description="then a waiting sample is answered `busy`")
    sites: Words = ("LL", "LS", "MT")
    timezone: Zone = Field(default="Europe/Paris", description="in which days and shifts begin")
    shifts: Shifts = ("05:00", "13:00", "21:00")
    default_recipe: str = Field(default="sqal-1", description="what it cannot grade goes to sqal-1-reported")
    recipes_dir: Path | None = Field(default=None, description="more recipes, a TOML file each")
    site_recipes: SiteRecipes = Field(default={}, description="LL=sqal-1,MT=...")

    # Keeping.
    sample_retention_days: int = Field(default=400, ge=1, le=36_500)
    message_retention_days: int = Field(default=30, ge=1, le=36_500)
    message_retention_bytes: int = Field(default=10 * GIB, ge=64 * MIB)
    quarantine_rows: int = Field(default=10_000, ge=1)
    quarantine_bytes: int = Field(default=256 * MIB, ge=MIB)

    # Fleet: how long after its last sign of life a device counts as stale, then offline (heartbeats come every 30 s).
    device_stale_after_s: float = Field(default=75.0, gt=0)
    device_offline_after_s: float = Field(default=300.0, gt=0)

    # Alerts. Scores and indices are 0..1; an alert clears after so many readings in a row better by the hysteresis.
    alert_score_critical: float = Field(default=0.40, ge=0, le=1)
    alert_score_warning: float = Field(default=0.60, ge=0, le=1)
    alert_oxidation: float = Field(default=0.60, ge=0, le=1, description="raised above")
    alert_freshness: float = Field(default=0.50, ge=0, le=1, description="raised below")
    alert_hysteresis: float = Field(default=0.05, ge=0, le=0.5)
    alert_clear_after: int = Field(default=10, ge=1, le=10_000)
    alert_late_s: float = Field(default=300.0, gt=0, description="older readings neither open nor clear an alert")
    alert_clock_off_s: float = Field(default=300.0, gt=0)
    alert_quarantine_rows: int = Field(default=20, ge=1, le=10_000, description="refusals within the window")
    alert_quarantine_window_s: float = Field(default=600.0, gt=0, le=86_400)

    # Bugs.
    bugs_require_if_match: bool = Field(default=False, description="a change without If-Match is refused with 428")

    # Webhooks. An attempt that fails is followed by another one, at the latest so long after it; then by none.
    webhook_retry_s: Waits = (10.0, 60.0, 300.0, 1_800.0, 7_200.0, 21_600.0)
    webhook_allow_loopback: bool = Field(default=False, description="receivers on this very machine")
    bug_sla_acknowledge_hours: HoursBySeverity = Field(
        default={"critical": 1.0, "high": 8.0, "medium": 24.0, "low": 72.0}, description="critical=1,high=8,..."
    )
    bug_sla_resolve_hours: HoursBySeverity = Field(
        default={"critical": 24.0, "high": 72.0, "medium": 240.0, "low": 720.0},
        description="without the time in which a bug awaits information",
    )
    bugs_from_telemetry: bool = Field(default=True, description="alerts open bugs, by their rules")
    bugs_telemetry_every_s: float = Field(default=5.0, ge=0.1, le=3_600, description="how often alerts are looked at")

    # Attachments of bugs: in a folder (by default of DATA_DIR), or in a bucket that speaks S3.
    bug_attachment_bytes: int = Field(default=25 * MIB, ge=1_024, le=40 * GIB, description="for each file")
    bug_attachments_per_bug: int = Field(default=100, ge=1, le=10_000, description="internal ones as many again")
    bug_uploads_at_once: int = Field(default=16, ge=1, le=100, description="in this process; 4 of one principal")
    upload_idle_s: float = Field(default=30.0, gt=0, le=600, description="then a client that sends nothing is given up")
    bug_attachments_dir: Path | None = None
    bug_attachments_url: Bucket | None = Field(default=None, description="s3://bucket/prefix, of this database alone")
    bug_attachments_s3_endpoint: Endpoint | None = Field(
        default=None, description="https://..., or http:// for plain HTTP"
    )
    bug_attachments_s3_region: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]{1,64}$")
    bug_attachments_s3_access_key: SecretStr | None = None
    bug_attachments_s3_secret_key: SecretStr | None = None

    # Backups (docs/backup.md): a folder, or a bucket that speaks S3; with age's public keys, encrypted for them.
    backup_to: FolderOrBucket | None = Field(
        default=None, description="a folder, or s3://bucket/prefix, of this database alone"
    )
    backup_keep_daily: int = Field(default=7, ge=1, le=3_660, description="the newest of each of so many days")
    backup_keep_weekly: int = Field(default=4, ge=0, le=1_000)
    backup_keep_monthly: int = Field(default=12, ge=0, le=1_200)
    backup_verify: bool = Field(default=True, description="each backup is restored for proof")
    backup_verify_url: PostgresUrl | None = Field(
        default=None, description="on that server; without, on one of our own"
    )
    backup_work_dir: Path | None = Field(default=None, description="room for a dump and a restored database")
    backup_deadline_s: float = Field(default=21_600.0, gt=0, le=604_800, description="for one backup")
    backup_age_recipients: PublicKeys = Field(default=(), description="age1..., or several")
    backup_s3_endpoint: Endpoint | None = Field(default=None, description="https://..., or http:// for plain HTTP")
    backup_s3_region: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]{1,64}$")
    backup_s3_access_key: SecretStr | None = None
    backup_s3_secret_key: SecretStr | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Settings:
        if self.device_offline_after_s <= self.device_stale_after_s:
            raise ValueError("DEVICE_OFFLINE_AFTER_S must be greater than DEVICE_STALE_AFTER_S")
        if self.alert_score_warning < self.alert_score_critical:
            raise ValueError("ALERT_SCORE_WARNING must not be less than ALERT_SCORE_CRITICAL")
        if self.loop_blocked_exit_s is not None and self.loop_blocked_exit_s <= self.loop_blocked_after_s:
            raise ValueError("LOOP_BLOCKED_EXIT_S must be greater than LOOP_BLOCKED_AFTER_S")
        if self.ingest_group_rows > self.ingest_queue_rows:
            raise ValueError("INGEST_GROUP_ROWS must not exceed INGEST_QUEUE_ROWS")
        return self

    @model_validator(mode="after")
    def _deadlines_nest(self) -> Settings:
        """Whoever waits gives up after whom it waits for; and all of a shutdown fits into the time for it."""
        nested = ("database_pool_wait_s", "query_deadline_s", "request_deadline_s", "shutdown_requests_s")
        for shorter, longer in pairwise(nested):
            if getattr(self, shorter) >= getattr(self, longer):
                raise ValueError(f"{shorter.upper()} must be less than {longer.upper()}")
        room = self.ws_message_bytes_average * (self.ws_messages_burst + self.ws_backlog_allowance)
        if room < self.ws_max_message_bytes:
            raise ValueError("WS_MESSAGE_BYTES_AVERAGE leaves no room for one message of WS_MAX_MESSAGE_BYTES")
        if self.commit_deadline_s >= self.shutdown_deadline_s:
            raise ValueError("COMMIT_DEADLINE_S must be less than SHUTDOWN_DEADLINE_S")
        if self.shutdown_budget_s + SHUTDOWN_MARGIN_S > self.termination_grace_period_s:
            raise ValueError(
                f"the SHUTDOWN_* times add up to {self.shutdown_budget_s:g} s; with a margin of {SHUTDOWN_MARGIN_S:g} s"
                f" they must fit into TERMINATION_GRACE_PERIOD_S ({self.termination_grace_period_s:g} s)"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class names it
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The command line, the environment, `.env`, files of secrets: the first that says something wins."""
        return init_settings, env_settings, dotenv_settings, SecretFiles(settings_cls)

    @property
    def shutdown_budget_s(self) -> float:
        return self.shutdown_propagation_s + self.shutdown_deadline_s + self.shutdown_requests_s + self.shutdown_close_s

    @property
    def log_options(self) -> LogOptions:
        return {
            "repeats": self.log_repeats,
            "repeats_every_s": self.log_repeats_every_s,
            "secrets": tuple(self._secret_values()),
        }

    def _secret_values(self) -> Iterator[str]:
        """What must never be logged; of a URL, its password as well."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                yield (text := value.get_secret_value())
                with suppress(ValueError):
                    yield urlsplit(text).password or text

    @model_validator(mode="after")
    def _one_store_of_attachments(self) -> Settings:
        s3 = ("endpoint", "region", "access_key", "secret_key")
        given = [f"BUG_ATTACHMENTS_S3_{name.upper()}" for name in s3 if getattr(self, f"bug_attachments_s3_{name}")]
        if self.bug_attachments_url is None and given:
            raise ValueError(f"{given[0]} needs BUG_ATTACHMENTS_URL")
        if self.bug_attachments_url is not None and self.bug_attachments_dir is not None:
            raise ValueError("BUG_ATTACHMENTS_URL and BUG_ATTACHMENTS_DIR do not go together")
        if (self.bug_attachments_s3_access_key is None) != (self.bug_attachments_s3_secret_key is None):
            raise ValueError("BUG_ATTACHMENTS_S3_ACCESS_KEY and BUG_ATTACHMENTS_S3_SECRET_KEY go together")
        return self

    @model_validator(mode="after")
    def _keys_of_backups(self) -> Settings:
        if (self.backup_s3_access_key is None) != (self.backup_s3_secret_key is None):
            raise ValueError("BACKUP_S3_ACCESS_KEY and BACKUP_S3_SECRET_KEY go together")
        return self

    @model_validator(mode="after")
    def _no_placeholders(self) -> Settings:
        for name, value in self:
            if isinstance(value, SecretStr) and PLACEHOLDER in value.get_secret_value():
                raise ValueError(f"{name.upper()} still holds its template's {PLACEHOLDER}")
        return self

    @model_validator(mode="after")
    def _safe_in_production(self) -> Settings:
        if self.environment == "production" and self.fault_switches and not self.fault_switches_in_production:
            raise ValueError("FAULT_SWITCHES is refused in production unless FAULT_SWITCHES_IN_PRODUCTION allows it")
        return self


class BadSettings(SystemExit):
    """A wrong value: one clear line on standard error and exit code 2."""

    def __init__(self, line: str) -> None:
        super().__init__(2)
        self.line = line


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment and `.env`; `overrides` (from the command line) win. Raises `BadSettings`."""
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"]).upper()
        reason = first["msg"].removeprefix("Value error, ")
        raise BadSettings(f"{name}: {reason}" if name else reason) from error
    except SettingsError as error:
        raise BadSettings(str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(unreadable(error)) from error


def unreadable(error: OSError | UnicodeDecodeError) -> str:
    """Of a file with settings. Files of secrets say it by themselves: what has no name here is `.env`."""
    if isinstance(error, OSError):
        return f"{error.filename or ENV_FILE} cannot be read: {error.strerror or type(error).__name__}"
    return f"{ENV_FILE} is not UTF-8 text"
