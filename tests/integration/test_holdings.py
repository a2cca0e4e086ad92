"""Gauges of what the database holds, against a real one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest

from app.core.backup_log import KEPT, BackupRecord, record_backup
from app.core.clock import SystemClock
from app.core.metrics import Metrics
from app.infrastructure import make_infrastructure
from app.resources import make_databases
from app.settings import Settings
from app.sqal.device_counts import DeviceCounts
from app.sqal.devices import StateLimits
from app.sqal.holdings import Holdings
from tests.support import data_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGAN = datetime(2026, 3, 1, 2, tzinfo=UTC)


def value(metrics: Metrics, series: str) -> float | None:
    lines = metrics.registry.render().decode().splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{series} ")), None)


def backup(days: int, *, succeeded: bool = True, verified: bool = True) -> BackupRecord:
    began = BEGAN + timedelta(days=days)
    return BackupRecord(began, began + timedelta(seconds=90), succeeded, verified, 1_000 + days, "/backups")


@pytest.fixture
def settings() -> Iterator[Settings]:
    with data_folder() as folder:
        yield Settings(data_dir=folder)


async def test_the_gauges_tell_what_is_held_and_which_backups_there_are(dsn: str, settings: Settings) -> None:
    infrastructure = make_infrastructure(settings, SystemClock())
    reads, metrics = make_databases(dsn, settings, infrastructure).reads, infrastructure.metrics
    await reads.open()
    holdings = Holdings(metrics)
    await holdings.refresh(reads)
    assert (value(metrics, "quarantine_rows"), value(metrics, 'alerts_open{severity="critical"}')) == (0, 0)
    assert value(metrics, "backup_last_success_timestamp_seconds") is None

    async with reads.connection() as connection:
        for record in (backup(0), backup(1, verified=False), backup(2, succeeded=False, verified=False)):
            await record_backup(connection, record)
        await connection.execute(
            "INSERT INTO quarantine (id, received_at, code, reason, size_bytes, stored_bytes, codec, encoding, body)"
            " VALUES ($1, now(), 'busy', '', 9, 7, 0, 0, '')",
            uuid4(),
        )
        exact = await connection.fetchval("SELECT pg_database_size(current_database())")
    await holdings.refresh(reads)
    shown = [value(metrics, f"backup_last_{name}_timestamp_seconds") for name in ("verified", "success", "failure")]
    assert shown == [(BEGAN + timedelta(days=days)).timestamp() for days in range(3)]
    assert (value(metrics, "backup_last_size_bytes"), value(metrics, "backup_last_duration_seconds")) == (1_001, 90)
    async with reads.connection() as connection:
        await record_backup(connection, backup(3_650))  # by a clock that was wrong
    await holdings.refresh(reads)
    assert value(metrics, "backup_last_success_timestamp_seconds") == (BEGAN + timedelta(days=1)).timestamp()
    assert (value(metrics, "quarantine_rows"), value(metrics, "quarantine_bytes")) == (1, 7)
    assert value(metrics, "database_size_bytes") == pytest.approx(exact, rel=0.1)

    await reads.close()
    await holdings.refresh(reads)
    assert value(metrics, "quarantine_rows") is None
    assert value(metrics, 'alerts_open{severity="critical"}') is None
    assert value(metrics, "backup_last_success_timestamp_seconds") is not None


async def test_no_more_than_a_thousand_backups_are_remembered(dsn: str) -> None:
    connection: Any = await asyncpg.connect(dsn)
    for days in range(3):
        await record_backup(connection, backup(days))
    await connection.execute(
        "INSERT INTO backups SELECT gen_random_uuid(), $1::timestamptz - make_interval(mins => n),"
        " $1::timestamptz - make_interval(mins => n), 'succeeded', true, 1, 'p', NULL FROM generate_series(1, $2) AS n",
        BEGAN, KEPT,
    )  # fmt: skip
    await record_backup(connection, backup(4))
    assert await connection.fetchval("SELECT count(*) FROM backups") == KEPT
    assert await connection.fetchval("SELECT max(size_bytes) FROM backups") == 1_004
    await connection.close()


async def test_devices_that_cannot_be_counted_have_no_figures_and_end_nothing(dsn: str, settings: Settings) -> None:
    infrastructure = make_infrastructure(settings, SystemClock())
    reads, metrics = make_databases(dsn, settings, infrastructure).reads, infrastructure.metrics
    await reads.open()
    async with reads.connection() as connection:
        await connection.execute("INSERT INTO devices (device_id, site_code) VALUES ('ESP32_LL_01', 'LL')")
    limits = StateLimits(settings.device_stale_after_s, settings.device_offline_after_s)
    counts = DeviceCounts(metrics, SystemClock(), limits, lambda: None)
    await counts.refresh(reads)
    assert value(metrics, 'devices{site="LL",state="never_seen"}') == 1
    async with reads.connection() as connection:
        await connection.execute("ALTER TABLE devices RENAME COLUMN in_service TO out_of_order")
    await counts.refresh(reads)
    assert value(metrics, 'devices{site="LL",state="never_seen"}') is None
    await reads.close()
