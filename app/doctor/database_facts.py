"""What a PostgreSQL tells about itself, asked in one read-only transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from app.core import backup_log
from app.core.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.core.database import Connection

SETTINGS: Final = (
    "server_version", "server_version_num", "server_encoding", "max_connections", "superuser_reserved_connections",
    "reserved_connections", "default_transaction_read_only", "synchronous_commit", "synchronous_standby_names", "fsync",
    "full_page_writes", "data_checksums", "autovacuum", "archive_mode", "archive_command", "TimeZone",
)  # fmt: skip
LONG_S: Final = 300
LONG_OF_A_BACKUP_S: Final = 21_600  # pg_dump reads everything in one transaction
# With partitions and segments, whose names begin as their parents' do.
OUR_TABLES: Final = (
    "^(alembic_version|alerts|api_keys|backups|bugs?|database_identity|devices|idempotency_keys|lots|message_segments"
    "|messages|quarantine|recipes|rollups|samples)(_|$)"
)
TABLES: Final = f"""
SELECT relname::text AS name, relowner::regrole::text AS owner, pg_has_role(relowner, 'USAGE') AS owned,
       has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
         AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE') AS writable
FROM pg_class WHERE relkind IN ('r', 'p') AND relname ~ '{OUR_TABLES}'
  AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('alembic_version'))
ORDER BY relname
"""
# Of other roles' sessions an ordinary role sees neither backend_type nor xact_start.
_SESSIONS: Final = """FROM pg_stat_activity WHERE datid IS NOT NULL AND usesysid IS NOT NULL
          AND coalesce(backend_type, 'client backend') = 'client backend'"""
_LONG: Final = f"""{_SESSIONS} AND xact_start < now()
          - CASE application_name WHEN 'gaveurs-backup' THEN interval '{LONG_OF_A_BACKUP_S} s'
            ELSE interval '{LONG_S} s' END"""
ASK: Final = f"""
SELECT pg_is_in_recovery() AS in_recovery,
       has_schema_privilege(current_schema(), 'CREATE') AS can_create,
       current_user AS role,
       current_database() AS database,
       (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS tls,
       inet_server_addr() IS NULL OR inet_server_addr() << '127.0.0.0/8' OR inet_server_addr() = '::1' AS local,
       (SELECT count(*) {_SESSIONS} AND application_name NOT LIKE 'gaveurs-%') AS others,
       pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all,
       (SELECT count(*) {_LONG}) AS long_transactions,
       (SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::float8 {_LONG}) AS oldest_transaction_s,
       (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')) AS sync_standbys,
       (SELECT coalesce(max(age(datfrozenxid)), 0) FROM pg_database) AS xid_age,
       (SELECT last_failed_time > coalesce(last_archived_time, '-infinity') FROM pg_stat_archiver) AS archiving_fails,
       pg_database_size(current_database()) AS size_bytes,
       to_regclass('alembic_version') IS NOT NULL AS has_schema
"""
SLOTS: Final = """
SELECT slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8 AS held_bytes FROM pg_replication_slots
WHERE NOT active AND restart_lsn IS NOT NULL
"""
EXTENSIONS: Final = "SELECT name, installed_version FROM pg_available_extensions WHERE name = ANY($1)"
BRINGS: Final = ("pg_trgm", "timescaledb", "pg_stat_statements")
_clock: Final = SystemClock()


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """`about` holds the columns of ASK; `offset_s` is how far its clock is ahead of ours, `trip_s` how well we know."""

    settings: Mapping[str, str]
    about: Mapping[str, Any]
    slots: Sequence[tuple[str, int]] = ()
    tables: Sequence[Mapping[str, Any]] = ()
    """Ours, by name, with their owner, and whether this role is (in) it and may write."""
    available: frozenset[str] = frozenset()
    installed: frozenset[str] = frozenset()
    revision: str | None = None
    offset_s: float = 0.0
    trip_s: float = 0.0
    backups: Mapping[str, Any] | None = field(default=None)
    """The newest by what became of it; None where there is no table of them."""


async def ask_database(connection: Connection) -> DatabaseFacts:
    offset_s, trip_s = await _clock_offset(connection)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        rows = await connection.fetch("SELECT name, setting FROM pg_settings WHERE name = ANY($1)", SETTINGS)
        about = dict((await connection.fetchrow(ASK)) or {})
        slots = [] if about["in_recovery"] else await connection.fetch(SLOTS)
        tables = await connection.fetch(TABLES)
        extensions = await connection.fetch(EXTENSIONS, BRINGS)
        revision = (
            await connection.fetchval("SELECT max(version_num) FROM alembic_version") if about["has_schema"] else None
        )
        has_backups = await connection.fetchval("SELECT to_regclass('backups') IS NOT NULL")
        backups = await backup_log.newest_backups(connection) if has_backups else None
    return DatabaseFacts(
        settings={row["name"]: row["setting"] for row in rows},
        about=about,
        slots=[(row["slot_name"], row["held_bytes"]) for row in slots],
        tables=[dict(row) for row in tables],
        available=frozenset(row["name"] for row in extensions),
        installed=frozenset(row["name"] for row in extensions if row["installed_version"]),
        revision=revision,
        offset_s=offset_s,
        trip_s=trip_s,
        backups=None if backups is None else {row["what"]: row for row in backups},
    )


async def _clock_offset(connection: Connection) -> tuple[float, float]:
    """The best of three round trips."""
    tries = []
    for _ in range(3):
        began = _clock.monotonic()
        theirs = await connection.fetchval("SELECT clock_timestamp()")
        trip_s = _clock.monotonic() - began
        tries.append((trip_s, (theirs - _clock.now()).total_seconds() + trip_s / 2))
    trip_s, offset_s = min(tries)
    return offset_s, trip_s
