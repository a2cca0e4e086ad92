"""A manifest that is odd is damaged, and an odd program is no program: neither ends a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.backup.errors import ContentLostError
from app.backup.manifest import decode
from app.backup.programs import NEEDED, _known
from tests.unit.test_backup_trouble import NAME, manifest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (b'"2026-11-24T02:30:00Z"', b'"2026-11-24T02:30:00"'),
        (b'"rows": 7', b'"rows": -7'),
        (b'"size_bytes": 4', b'"size_bytes": -4'),
        (b'"encrypted_for": []', b'"encrypted_for": ' + b"[" * 5_000 + b"]" * 5_000),
    ],
)
def test_what_cannot_be_is_damaged(was: bytes, now: bytes) -> None:
    assert was in manifest()
    with pytest.raises(ContentLostError, match="is damaged"):
        decode(manifest().replace(was, now), NAME)


def test_a_name_that_would_move_the_terminal_is_shown_as_text() -> None:
    with pytest.raises(ContentLostError, match=r"is of another backup, '20\\x1b\[2J'"):
        decode(manifest().replace(f'"{NAME}"'.encode(), rb'"20\u001b[2J"'), NAME)


def test_a_program_that_answers_in_another_encoding_is_taken_by_its_number(tmp_path: Path) -> None:
    for name in NEEDED:
        (tmp_path / name).write_bytes(b"#!/bin/sh\nprintf 'pg_dump (PostgreSQL) 15.1 \\351t\\351'\n")
        (tmp_path / name).chmod(0o755)
    found = _known(tmp_path)
    assert found is not None
    assert found.major == 15
