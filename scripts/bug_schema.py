"""Make scripts/bug_tracking_schema.sql, the bug tracker's tables for a DBA: python -m scripts.bug_schema

It is the migration's statements as they stand, so that neither can say anything else than the other.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Final

from app.core.migrations import LOCK_KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

FILE: Final = Path(__file__).with_name("bug_tracking_schema.sql")
STATEMENTS: Final[Sequence[str]] = import_module("app.migrations.versions.0004_bugs").STATEMENTS
COMMAND: Final = "python -m scripts.bug_schema"
HEADER: Final = f"""\
-- The bug tracker's tables, indexes, functions and triggers, for PostgreSQL 14 or later:
--
--     psql -X -d DATABASE -f scripts/bug_tracking_schema.sql
--
-- Nobody has to run it: the service brings its schema up to date at start, and so does `gaveurs migrate`. It is for who
-- wants to read the schema, or to make it with rights that the service does not have. It applies to an empty database,
-- before or after the migrations, and may be run again; all of it is done, or nothing.
--
-- Made by `{COMMAND}` from the migration: change that one.
\\set ON_ERROR_STOP on
\\encoding UTF8
BEGIN;

-- Not while a replica migrates.
DO $$ BEGIN PERFORM pg_advisory_xact_lock({LOCK_KEY}); END $$;
"""


def script() -> str:
    """The whole text of the file."""
    return "\n".join((HEADER, *(f"{_readable(one)};\n" for one in STATEMENTS), "COMMIT;\n"))


def _readable(statement: str) -> str:
    """A function keeps its spaces: its text is what the database stores."""
    return (statement if "$$" in statement else dedent(statement)).strip()


def main() -> None:
    FILE.write_text(script(), encoding="utf-8")
    sys.stdout.write(f"{FILE.name}: {len(STATEMENTS)} statements\n")


if __name__ == "__main__":
    main()
