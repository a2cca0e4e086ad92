"""Secrets in files: on the disk, whole, for us alone; and what the file system refuses is one line."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from app.core.errors import CannotStartError
from app.core.files import told, write_private
from tests.process_limits import no_room_in_files

if TYPE_CHECKING:
    from pathlib import Path


def test_a_private_file_is_for_its_owner_alone_whatever_was_there(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "key.new").write_text("left behind")
    write_private(path, "secret")
    assert (path.read_text(), stat.S_IMODE(path.lstat().st_mode)) == ("secret", 0o600)
    assert not path.is_symlink()
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_file_is_what_it_was_where_there_is_no_room(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_private(path, "first")
    with no_room_in_files(), pytest.raises(OSError, match="File too large"):
        write_private(path, "second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, list[str]]] = []

    def note(fd: int) -> None:
        synced.append((os.fstat(fd).st_size, [path.name for path in tmp_path.iterdir()]))

    monkeypatch.setattr(os, "fsync", note)
    write_private(tmp_path / "key", "secret")
    (size, names), (_, after) = synced
    assert (size, names, after) == (6, ["key.new"], ["key"])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x/y"), "it: /x/y: No such file or directory"),
        (OSError(errno.ENOSPC, "No space left on device"), "it: No space left on device"),
        (OSError("of its own making"), "it: OSError: of its own making"),
    ],
)
def test_what_is_refused_is_told_with_its_place(error: OSError, line: str) -> None:
    with pytest.raises(CannotStartError) as caught, told("it"):
        raise error
    assert str(caught.value) == line
