"""scripts/bug_tracking_schema.sql: what a DBA runs by hand is what the migrations make."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from app.core.migrations import migrate
from scripts.bug_schema import COMMAND, FILE, STATEMENTS, script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TABLES = sorted(name for one in STATEMENTS for name in re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", one))
FUNCTIONS = sorted(name for one in STATEMENTS for name in re.findall(r"CREATE OR REPLACE FUNCTION (\w+)", one))
TRIGGERS = sorted(name for one in STATEMENTS for name in re.findall(r"CREATE OR REPLACE TRIGGER (\w+)", one))
# Every fact of a kind as one row of text, of the script's own objects: $1 tables, $2 functions.
CATALOGS = {
    "tables": "SELECT relname, reloptions::text FROM pg_class WHERE relkind = 'r' AND relname = ANY($1) ORDER BY 1",
    "columns": """
        SELECT attrelid::regclass::text, attnum, attname, format_type(atttypid, atttypmod), attnotnull,
               attidentity::text, attgenerated::text, pg_get_expr(adbin, adrelid)
        FROM pg_attribute LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
        WHERE attrelid::regclass::text = ANY($1) AND attnum > 0 AND NOT attisdropped ORDER BY 1, 2
    """,
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE conrelid::regclass::text = ANY($1) ORDER BY 1, 2
    """,
    "indexes": """
        SELECT indrelid::regclass::text, pg_get_indexdef(indexrelid), indisvalid FROM pg_index
        WHERE indrelid::regclass::text = ANY($1) ORDER BY 1, 2
    """,
    "functions": "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = ANY($1) ORDER BY 1",
    "triggers": """
        SELECT tgname, pg_get_triggerdef(oid), tgenabled::text FROM pg_trigger
        WHERE tgrelid::regclass::text = ANY($1) AND NOT tgisinternal ORDER BY 1
    """,
}


@pytest.fixture
async def empty(empty_dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(empty_dsn, server_settings={"client_min_messages": "warning"})
    yield connection
    await asyncio.wait_for(connection.close(), 20)


async def run(connection: Any) -> None:
    """As `psql -f` sends it; lines with a backslash are psql's own."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    await connection.execute("\n".join(line for line in lines if not line.startswith("\\")))


async def catalogs(connection: Any) -> dict[str, list[tuple[Any, ...]]]:
    names = {"functions": FUNCTIONS}
    return {
        kind: [tuple(record) for record in await connection.fetch(query, names.get(kind, TABLES))]
        for kind, query in CATALOGS.items()
    }


async def migrated(dsn: str) -> dict[str, list[tuple[Any, ...]]]:
    await migrate(dsn)
    connection: Any = await asyncpg.connect(dsn)
    try:
        return await catalogs(connection)
    finally:
        await asyncio.wait_for(connection.close(), 20)


def test_the_file_is_what_the_migration_says() -> None:
    assert FILE.read_text(encoding="utf-8") == script(), f"{FILE.name} is stale: run `{COMMAND}`"


def test_every_backslash_line_is_a_command_of_psql_and_stands_before_the_transaction() -> None:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    backslashed = [number for number, line in enumerate(lines) if line.startswith("\\")]
    assert [lines[number] for number in backslashed] == [r"\set ON_ERROR_STOP on", r"\encoding UTF8"]
    assert max(backslashed) < lines.index("BEGIN;") < lines.index("COMMIT;")
    # psql puts variables in where `:name` stands outside of quotes.
    unquoted = re.sub(r"\$\$.*?\$\$|'[^']*'|--[^\n]*", "", FILE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert re.findall(r"(?<!:):[\w'\"{]", unquoted) == []


async def test_the_script_makes_what_the_migrations_make_and_may_come_before_them_and_again(
    empty: Any, empty_dsn: str
) -> None:
    await run(empty)
    by_script = await catalogs(empty)
    assert [name for name, _ in by_script["tables"]] == TABLES
    assert len(by_script["functions"]) == len(FUNCTIONS)
    assert [name for name, *_ in by_script["triggers"]] == TRIGGERS
    await run(empty)
    assert await catalogs(empty) == by_script
    by_both = await migrated(empty_dsn)
    assert by_both == by_script
    # Now there is a database that the migrations alone have made.
    name = await empty.fetchval("SELECT current_database()")
    alone = f"{name}_alone"
    await empty.execute(f"CREATE DATABASE {alone}")
    try:
        by_migrations = await migrated(empty_dsn.replace(name, alone))
    finally:
        await empty.execute(f"DROP DATABASE {alone} WITH (FORCE)")
    for kind in CATALOGS:
        assert by_script[kind] == by_migrations[kind], kind


async def test_after_the_migrations_the_script_changes_nothing_and_keeps_what_is_there(dsn: str) -> None:
    connection: Any = await asyncpg.connect(dsn, server_settings={"client_min_messages": "warning"})
    try:
        before = await catalogs(connection)
        await connection.execute("""
            INSERT INTO bugs (id, created_at, updated_at, status_changed_at, status, severity, priority, title,
                              description, reporter_id)
            SELECT gen_random_uuid(), at, at, at, 'open', 'high', 'low', 'lens', 'fogged', 'x'
            FROM (SELECT '2026-02-02T08:00:00Z'::timestamptz) AS moment (at)
        """)
        await run(connection)
        assert await catalogs(connection) == before
        assert await connection.fetchval("SELECT title FROM bugs") == "lens"
        assert await connection.fetchval("SELECT sum(bugs) FROM bug_counts") == 1
    finally:
        await asyncio.wait_for(connection.close(), 20)


async def test_where_one_statement_fails_nothing_is_left_behind(empty: Any) -> None:
    await empty.execute("CREATE VIEW bug_search AS SELECT 1 AS number")
    with pytest.raises(asyncpg.PostgresError):
        await run(empty)
    await empty.execute("ROLLBACK")
    assert (await catalogs(empty))["tables"] == []
