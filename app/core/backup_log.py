"""Which backups were made, as the database knows: for the metrics of every server, and for whoever asks.

A row is written after its backup; what is restored from it knows of those before, and restoring writes its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.core.ids import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from app.core.database import Connection
    from app.core.metrics import Metrics

LOCK_KEY: Final = 0x6261_636B_7570  # "backup": one at a time of a database, on whatever machine
KEPT: Final = 1_000
LONGEST_TEXT: Final = 2_000
INSERT: Final = """
    INSERT INTO backups (id, started_at, finished_at, outcome, verified, size_bytes, place, detail)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
TRIM: Final = """
    DELETE FROM backups WHERE id IN (
        SELECT id FROM backups ORDER BY finished_at DESC, id DESC OFFSET $1
    )
"""
# By the database's clock: one whose own was ahead must not look young for years.
_PAST: Final = "started_at <= now() + interval '5 minutes' ORDER BY started_at DESC LIMIT 1"
NEWEST: Final = f"""
    (SELECT 'succeeded' AS what, b.* FROM backups b WHERE outcome = 'succeeded' AND {_PAST})
    UNION ALL
    (SELECT 'verified', b.* FROM backups b WHERE outcome = 'succeeded' AND verified AND {_PAST})
    UNION ALL
    (SELECT 'failed', b.* FROM backups b WHERE outcome = 'failed' AND {_PAST})
"""
IDENTITY: Final = "SELECT id::text FROM database_identity"


@dataclass(frozen=True, slots=True)
class BackupRecord:
    """What became of a backup. `place` holds no secret; `detail` says what failed, or nothing."""

    started_at: datetime
    finished_at: datetime
    succeeded: bool
    verified: bool
    size_bytes: int | None
    place: str
    detail: str | None = None


async def record_backup(connection: Connection, record: BackupRecord) -> None:
    """Remember it; the oldest beyond a thousand are forgotten."""
    outcome = "succeeded" if record.succeeded else "failed"
    detail = record.detail and record.detail[:LONGEST_TEXT]
    row = (record.started_at, record.finished_at, outcome, record.verified, record.size_bytes, record.place, detail)
    async with connection.transaction():
        await connection.execute(INSERT, uuid7(), *row)
        await connection.execute(TRIM, KEPT)


async def newest_backups(connection: Connection) -> Sequence[Any]:
    """The newest that `succeeded`, that was `verified`, and that `failed` (column `what`), as far as there are any."""
    return await connection.fetch(NEWEST)


def show_backups(metrics: Metrics, newest: Sequence[Any]) -> None:
    """Set the gauges; those about what never happened stay absent."""
    by_what = {record["what"]: record for record in newest}
    for what, gauge in (
        ("succeeded", metrics.backup_success),
        ("verified", metrics.backup_verified),
        ("failed", metrics.backup_failure),
    ):
        gauge.labels().set(by_what[what]["started_at"].timestamp() if what in by_what else None)
    newest_good = by_what.get("succeeded")
    metrics.backup_size.labels().set(newest_good and newest_good["size_bytes"])
    took = newest_good and (newest_good["finished_at"] - newest_good["started_at"]).total_seconds()
    metrics.backup_duration.labels().set(took)
