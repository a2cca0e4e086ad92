"""What the system refuses, what is damaged and what vanishes: one line, and only what it concerns."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import resource
import shutil
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from app import cli_backup
from app.backup import product
from app.backup.catalogue import read_catalogue
from app.backup.errors import BackupError, ContentLostError
from app.backup.folder import Folder
from app.backup.manifest import Attachments, File, Inventory, Manifest, Sequence, Table, decode, encode
from app.backup.processes import copy_hashed
from app.backup.programs import NEEDED, _known
from app.backup.work import RUN, work_folder
from app.settings import load_settings
from tests.unit.test_backup_places import add

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "20261124T023000Z-1a2b3c4d"
AT = datetime(2026, 11, 24, 2, 30, tzinfo=UTC)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def place(tmp_path: Path) -> Folder:
    (tmp_path / "place").mkdir()
    return Folder(tmp_path / "place")


def manifest() -> bytes:
    database = Inventory("0005", [Table("public.ä", 7, "12")], [Sequence("public.s", None)], {"indexes": 3})
    dump, listing = File("database.dump", 4, "ab", "cd"), File("attachments.jsonl", 0, "ab", "cd")
    attachments = Attachments(1, 2, ["bugs/gone"])
    return encode(Manifest(1, NAME, "0.1.0", "15.1", "17.2", AT, AT, True, [], database, attachments, dump, listing))


def test_whichever_bit_of_a_manifest_flips_it_is_a_manifest_or_damaged() -> None:
    whole, damaged = manifest(), 0
    assert decode(whole, NAME).pg_dump_major == 17
    for place in range(len(whole)):
        for bit in range(8):
            flipped = whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :]
            try:
                assert decode(flipped, NAME).pg_dump_major >= 0
            except ContentLostError:
                damaged += 1
    assert damaged > len(whole)


async def test_on_and_on_survives_a_place_that_cannot_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unthought_of(_settings: object) -> None:
        raise ValueError("of a kind that nobody thought of")

    async def attempt(_settings: object, **_options: bool) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise BackupError("the same")

    monkeypatch.setattr(product, "catalogue_of", unthought_of)
    monkeypatch.setattr(product, "make_backup", attempt)
    settings = load_settings(data_dir=tmp_path, backup_to=str(tmp_path / "place"))
    assert not await cli_backup._on_and_on(settings, 1_000, adopt=False)


@pytest.fixture
def small_files() -> Iterator[int]:
    """As many bytes as a file may have: what is written beyond is written in part, as on a disk that fills."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        yield 10_000
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_what_does_not_fit_on_the_disk_is_said_by_the_disk(small_files: int, work: Path) -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(b"x" * (small_files + 1))
    stream.feed_eof()
    with pytest.raises(OSError, match="File too large"):
        await copy_hashed(stream, work / "dump", hashlib.sha256())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/work/one"), "gaveurs: /work/one: Permission denied\n"),
        (asyncio.CancelledError(), "gaveurs: told to stop before the end\n"),
        (TimeoutError(), "gaveurs: the work folder: TimeoutError\n"),
    ],
)
def test_what_ends_a_command_is_one_line(error: BaseException, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def fails() -> None:
        raise error

    with pytest.raises(typer.Exit):
        cli_backup._run(fails())
    assert capsys.readouterr().err == said


def test_a_full_disk_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    async def fills() -> None:
        await asyncio.to_thread(Path("/dev/full").write_bytes, b"x")

    with pytest.raises(typer.Exit):
        cli_backup._run(fills())
    assert capsys.readouterr().err == "gaveurs: the work folder: No space left on device\n"


def test_programs_that_cannot_be_run_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NEEDED:
        (tmp_path / name).write_bytes(b"\x7fELF of another processor")
        (tmp_path / name).chmod(0o755)
    assert _known(tmp_path) is None

    def hangs(command: Any, *, timeout: float, **_options: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hangs)
    assert _known(tmp_path) is None


async def test_a_file_system_without_locks_is_told(place: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_fd: int, _kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuses)
    with pytest.raises(BackupError, match="place cannot be used: No locks available"):
        async with place.alone():
            pass


def test_a_leftover_that_goes_by_itself_stops_nobody_and_one_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / f"{RUN}gone").symlink_to(tmp_path / "nowhere")
    with work_folder(tmp_path):
        pass
    loop = tmp_path / f"{RUN}loop"
    loop.symlink_to(loop)
    with pytest.raises(BackupError, match=f"{loop} cannot be worked in: Too many levels"), work_folder(tmp_path):
        pass


async def test_what_a_rotation_deletes_while_it_is_listed_is_not_there(place: Folder, work: Path) -> None:
    names = {await add(place, work, days) for days in (1, 2)}
    seen = set()
    async for key, _ in place.sizes():
        seen.add(key.partition("/")[0])
        for name in names - seen if seen & names else ():
            shutil.rmtree(Path(place.name) / name, ignore_errors=True)
    assert len(seen & names) == 1


class BeingRotated(Folder):
    """The first manifest that is asked for has just been deleted."""

    async def get(self, key: str, target: Path) -> None:
        if key == self.going:
            shutil.rmtree((Path(self.name) / key).parent, ignore_errors=True)
        await super().get(key, target)

    going = ""


async def test_a_backup_that_is_rotated_meanwhile_is_not_called_damaged(
    place: Folder, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = await add(place, work, 30), await add(place, work, 0)
    rotated = BeingRotated(Path(place.name))
    rotated.going = f"{old}/manifest.json"
    monkeypatch.setattr(product, "place_of", lambda _settings: rotated)
    found = await product.catalogue_of(load_settings(data_dir=tmp_path))
    assert (list(found.manifests), found.unreadable) == ([new], {})
    assert list((await read_catalogue(place, work)).manifests) == [new]
