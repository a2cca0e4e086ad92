"""What a command was answered it tells, however its connection ends; what the database does not do is one line."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from app import admin
from app.core.embedded_postgres import EmbeddedPostgres, FolderInUseError
from app.core.errors import CannotStartError
from app.core.migrations import head, migrate
from app.core.security import Role
from app.settings import Settings
from tests.integration.stallable import Way, stallable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TERMINATE = b"X\0\0\0\x04"


def settings(dsn: str) -> Settings:
    return Settings(database_url=SecretStr(dsn))


@pytest.fixture
async def silent_at_the_end(dsn: str) -> AsyncIterator[Way]:
    """A way over which nobody answers who takes leave."""
    async with stallable(dsn) as way:

        def stall(data: bytes) -> None:
            way.stalled |= data.endswith(TERMINATE)

        way.heard = stall
        yield way


async def test_a_key_that_was_made_is_told_though_the_server_falls_silent(silent_at_the_end: Way, dsn: str) -> None:
    over_it = settings(silent_at_the_end.dsn)
    key = await admin.with_database(over_it, lambda connection: admin.make_key(connection, "k", Role.VIEWER))
    (made,) = await admin.with_database(settings(dsn), admin.all_keys)
    assert key.startswith(f"gvk_{made['key_id']}_")


async def test_a_migration_that_was_done_is_told_though_the_server_falls_silent(silent_at_the_end: Way) -> None:
    assert await migrate(silent_at_the_end.dsn) == (head(), head())


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("SELECT pg_terminate_backend(pg_backend_pid())", "(AdminShutdown|ConnectionDoesNotExist)Error"),
        ("BEGIN READ ONLY; DELETE FROM api_keys", "ReadOnlySQLTransactionError"),
    ],
)
async def test_what_the_database_does_not_do_is_one_line(dsn: str, question: str, kind: str) -> None:
    with pytest.raises(CannotStartError, match=f"^the database did not do it: {kind}: ") as caught:
        await admin.with_database(settings(dsn), lambda connection: connection.execute(question))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ECONNRESET])
async def test_a_network_that_is_lost_meanwhile_is_one_line(dsn: str, number: int) -> None:
    async def lose(_connection: Any) -> None:
        raise OSError(number, "lost")

    with pytest.raises(CannotStartError, match=r"^the database did not do it: .*lost$"):
        await admin.with_database(settings(dsn), lose)


async def test_a_file_that_is_not_there_is_not_the_databases_doing(dsn: str, tmp_path: Path) -> None:
    async def read(_connection: Any) -> None:
        (tmp_path / "nothing").read_text()

    with pytest.raises(FileNotFoundError):
        await admin.with_database(settings(dsn), read)


async def test_a_database_without_our_tables_is_one_line(empty_dsn: str) -> None:
    with pytest.raises(CannotStartError, match=r"^the database has no schema yet: run `gaveurs migrate`$"):
        await admin.with_database(settings(empty_dsn), admin.all_keys)


async def test_what_another_process_has_not_made_yet_it_is_about_to_make(
    empty_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_use(_self: EmbeddedPostgres) -> None:
        raise FolderInUseError("in use")

    monkeypatch.setattr(EmbeddedPostgres, "prepare", in_use)
    (tmp_path / "connection.json").write_text(json.dumps({"dsn": empty_dsn}))
    with pytest.raises(CannotStartError, match=f"^the server in {tmp_path} is only starting: try again"):
        await admin.with_database(Settings(data_dir=tmp_path, database_url=None), admin.all_keys)
