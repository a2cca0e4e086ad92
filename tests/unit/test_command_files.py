"""Files that a command is told to write, where they cannot be written."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from app import bug_admin, cli
from app.core.errors import BadRequestError, CannotStartError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("grading", "--write", "/dev/full"), "--write: No space left on device"),
        (("grading", "--write", "/dev/null/x"), "--write: /dev/null/x: Not a directory"),
        (("simulate", "--journal", "/dev/null/x"), "--journal: /dev/null/x: Not a directory"),
    ],
)
def test_a_page_or_a_journal_is_one_line(command: tuple[str, ...], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "configure_logging", lambda _level: None)
    monkeypatch.setattr(cli, "report", lambda _livers, _seed: ("# A page\n", SimpleNamespace(failures=[])))
    error = CliRunner().invoke(cli.cli, command).exception
    assert isinstance(error, CannotStartError)
    assert str(error) == line


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def pieces(failure: Exception | None = None) -> AsyncIterator[bytes]:
    yield b"x" * 100_000
    if failure is not None:
        raise failure


async def test_an_export_into_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStartError, match=r"^--output: .*/file/bugs\.csv\.part: Not a directory$"):
        await bug_admin._write(tmp_path / "file" / "bugs.csv", pieces())
    with pytest.raises(BadRequestError, match=r"^--output: / is no file$"):
        await bug_admin._write(tmp_path / "/", pieces())


async def test_an_export_for_which_there_is_no_room_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bugs.csv.part").symlink_to("/dev/full")
    with pytest.raises(CannotStartError, match=r"^--output: No space left on device$"):
        await bug_admin._write(tmp_path / "bugs.csv", pieces())
    assert names(tmp_path) == []


async def test_a_reading_that_fails_is_not_said_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError):
        await bug_admin._write(tmp_path / "bugs.csv", pieces(ConnectionResetError("lost")))
    assert names(tmp_path) == []
