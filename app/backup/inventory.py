"""What a database holds: rows and checksums of every table, where sequences are, how many of everything else.

The checksum of a table is the sum of a 64-bit hash of each row's text: it does not depend on the order of rows, and
notices each that is missing, doubled or changed. PostgreSQL's extended hash is the one by which it partitions, so it
is the same in all versions (of one byte order); the settings below make the text the same too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.backup.errors import BackupError, NotProvenError
from app.backup.manifest import Inventory, Sequence, Table
from app.core.migrations import REVISION

if TYPE_CHECKING:
    from app.core.database import Connection

TEXT_SETTINGS: Final = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "iso_8601",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "30s",
    "jit": "off",
}
NOT_OURS: Final = "n.nspname ~ '^(pg_|information_schema$|_?timescaledb_)'"
_OF_AN_EXTENSION: Final = (
    "EXISTS (SELECT FROM pg_depend d WHERE d.classid = '{}'::regclass AND d.objid = {}.oid AND d.deptype = 'e')"
)
_TABLES: Final = f"""
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND NOT {NOT_OURS}
        AND NOT {_OF_AN_EXTENSION.format("pg_class", "c")}
    ORDER BY 1
"""
# A hypertable's rows are in tables of the extension's own, which this backup leaves out.
_HYPERTABLES: Final = """
    SELECT DISTINCT i.inhparent::regclass::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname ~ '^_?timescaledb_'
"""
_COUNTED: Final = 'SELECT count(*), coalesce(sum(hashtextextended(t::text COLLATE "C", 0)), 0)::text FROM ONLY {} t'
_SEQUENCES: Final = f"""
    SELECT format('%I.%I', n.nspname, c.relname), s.last_value FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_sequences s ON s.schemaname = n.nspname AND s.sequencename = c.relname
    WHERE NOT {NOT_OURS} AND NOT {_OF_AN_EXTENSION.format("pg_class", "c")} ORDER BY 1
"""
_CLASSES: Final = {"pg_class": "c.relnamespace", "pg_constraint": "c.connamespace", "pg_proc": "c.pronamespace"}


def _count(catalog: str, condition: str, schema: str) -> str:
    return f"""(SELECT count(*) FROM {catalog} c JOIN pg_namespace n ON n.oid = {schema}
        WHERE {condition} AND NOT {NOT_OURS} AND NOT {_OF_AN_EXTENSION.format(catalog, "c")})"""


# NOT NULL has become a constraint of its own in version 18.
_PARTS: Final = f"""
    SELECT {_count("pg_class", "c.relkind IN ('i', 'I')", "c.relnamespace")} AS indexes,
        {_count("pg_constraint", "c.contype <> 'n' AND c.convalidated", "c.connamespace")} AS valid_constraints,
        {_count("pg_constraint", "c.contype <> 'n' AND NOT c.convalidated", "c.connamespace")} AS other_constraints,
        {_count("pg_proc", "true", "c.pronamespace")} AS functions,
        {_count("pg_ts_config", "true", "c.cfgnamespace")} AS text_searches,
        (SELECT count(*) FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace n
            ON n.oid = c.relnamespace WHERE NOT g.tgisinternal AND NOT {NOT_OURS}) AS triggers
"""


async def tables_of(connection: Connection) -> list[str]:
    """Every table with rows of its own, partitions among them, as SQL names them. BackupError for hypertables."""
    if hidden := [str(row[0]) for row in await connection.fetch(_HYPERTABLES)]:
        raise BackupError(
            f"{', '.join(hidden)}: a TimescaleDB hypertable, which this backup does not cover; use pgBackRest"
        )
    return [row[0] for row in await connection.fetch(_TABLES)]


async def take_inventory(connection: Connection) -> Inventory:
    """In the connection's transaction, whose settings are TEXT_SETTINGS. Reads every row once."""
    tables = []
    for name in await tables_of(connection):
        (row,) = await connection.fetch(_COUNTED.format(name))
        tables.append(Table(name, row[0], row[1]))
    sequences = [Sequence(row[0], row[1]) for row in await connection.fetch(_SEQUENCES)]
    (parts,) = await connection.fetch(_PARTS)
    return Inventory(await connection.fetchval(REVISION), tables, sequences, dict(parts))


def compare(expected: Inventory, found: Inventory) -> None:
    """NotProvenError with the first differences."""
    wrong = [*_tables_apart(expected, found), *_sequences_behind(expected, found)]
    if expected.revision != found.revision:
        wrong.append(f"schema {found.revision} instead of {expected.revision}")
    wrong += [
        f"{found.parts.get(name, 0)} instead of {count} {name.replace('_', ' ')}"
        for name, count in expected.parts.items()
        if found.parts.get(name, 0) != count
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""  # noqa: PLR2004 - as many as fit a line
        raise NotProvenError(f"what was restored is not what was saved: {'; '.join(wrong[:3])}{more}")


def _tables_apart(expected: Inventory, found: Inventory) -> list[str]:
    there = {table.name: table for table in found.tables}
    apart = [f"table {name} is new" for name in there.keys() - {table.name for table in expected.tables}]
    for table in expected.tables:
        other = there.get(table.name)
        if other is None:
            apart.append(f"table {table.name} is missing")
        elif other.rows != table.rows:
            apart.append(f"{table.name} has {other.rows} rows instead of {table.rows}")
        elif other.checksum != table.checksum:
            apart.append(f"{table.name} has other rows than were saved")
    return apart


def _sequences_behind(expected: Inventory, found: Inventory) -> list[str]:
    there = {one.name: one.last for one in found.sequences}
    return [
        f"sequence {one.name} is at {there.get(one.name)} instead of {one.last}"
        for one in expected.sequences
        if one.name not in there or (there[one.name] or 0) < (one.last or 0)
    ]
