"""The first admin key: in its file and in the database, or in neither."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from app.core.admin_key import ensure_admin_key
from app.core.clock import SystemClock
from app.core.security import list_keys
from tests.process_limits import no_room_in_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[Any]:
    made = await asyncpg.connect(dsn)
    yield made
    await made.close()


async def test_a_full_disk_is_named_and_leaves_no_key_that_nobody_has(connection: Any, tmp_path: Path) -> None:
    with no_room_in_files(), capture_logs() as lines:
        await ensure_admin_key(connection, SystemClock(), tmp_path)
    (line,) = lines
    assert line["event"].startswith("no admin key was made")
    assert "File too large" in line["reason"]
    assert await list_keys(connection) == []
    assert names(tmp_path) == []
    await ensure_admin_key(connection, SystemClock(), tmp_path)
    (key,) = await list_keys(connection)
    assert (tmp_path / "admin.key").read_text().startswith(f"gvk_{key['key_id']}_")


async def test_a_folder_that_cannot_be_made_is_named(connection: Any, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where a folder should be")
    with capture_logs() as lines:
        await ensure_admin_key(connection, SystemClock(), tmp_path / "data")
    (line,) = lines
    assert line["reason"] == f"admin.key cannot be written: {tmp_path}/data: File exists"
    assert await list_keys(connection) == []
