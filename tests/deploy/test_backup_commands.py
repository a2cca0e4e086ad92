"""What may go wrong between a backup and its restore, by the real commands."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import psutil
import pyrage
import pytest

from app.admin import with_dsn
from app.settings import load_settings
from tests.backup_plant import (
    BEFORE,
    CONTENTS,
    PATIENCE_S,
    Plant,
    ask,
    ask_dsn,
    clean,
    gaveurs,
    names,
    refused,
    running_plant,
    well,
)
from tests.support import data_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def plant() -> Iterator[Plant]:
    """Backed up once while its server ran, which goes on."""
    with running_plant() as made:
        made.backup()
        yield made


def test_a_second_backup_stores_no_attachment_again_and_the_database_knows_of_both(plant: Plant) -> None:
    stored = sorted((plant.place / "attachments").rglob("*"))
    inodes = [path.stat().st_ino for path in stored]
    plant.backup()
    assert [path.stat().st_ino for path in stored] == inodes
    assert sorted((plant.place / "attachments").rglob("*")) == stored
    rows = asyncio.run(ask(plant.server, "SELECT outcome, verified, size_bytes, place, detail FROM backups"))
    assert {tuple(row)[:2] for row in rows} == {("succeeded", True)}
    assert {(row["place"], row["detail"]) for row in rows} == {(str(plant.place), None)}
    assert all(row["size_bytes"] > 50_000 for row in rows)


def test_a_backup_that_fails_says_why_and_the_database_knows(plant: Plant) -> None:
    occupied = plant.place / "a file"
    occupied.write_text("not ours")
    assert "cannot be used: File exists" in refused("backup", "--to", occupied, "--data-dir", plant.server.folder)
    (row,) = asyncio.run(ask(plant.server, "SELECT detail, verified FROM backups WHERE outcome = 'failed'"))
    assert "cannot be used: File exists" in row["detail"]
    assert not row["verified"]
    assert occupied.read_text() == "not ours"


def test_an_attachment_that_is_lost_is_told_and_marks_the_backup(plant: Plant) -> None:
    with httpx.Client(base_url=plant.server.url, timeout=20) as client:
        made = client.post(f"/api/bugs/{plant.bug}/attachments", files={"file": ("gone.txt", b"gone")}).json()
    (row,) = asyncio.run(ask(plant.server, f"SELECT object_key FROM bug_attachments WHERE id = '{made['id']}'"))
    path = plant.server.folder / "attachments" / row[0]
    path.write_bytes(b"g0ne")
    before = names(plant.place)
    for wrong, words in ((True, "has been altered"), (False, "is not in the store")):
        if not wrong:
            path.unlink()
        done = gaveurs("backup", "--no-verify", "--to", plant.place, "--data-dir", plant.server.folder)
        assert done.returncode == 1
        assert f"attachment {row[0]} {words}" in done.stderr
    for name in set(names(plant.place)) - set(before):
        manifest = json.loads((plant.place / name / "manifest.json").read_text())
        assert manifest["attachments"]["lost"] == [row[0]]
    path.write_bytes(b"gone")
    plant.backup("--no-verify")
    path.unlink()  # a later one does without the store: the content is in the place
    done = gaveurs("backup", "--no-verify", "--to", plant.place, "--data-dir", plant.server.folder)
    assert (done.returncode, "but an earlier backup has it" in done.stderr) == (0, True)
    path.write_bytes(b"gone")


def test_a_restore_refuses_what_is_in_use_and_what_has_data(plant: Plant) -> None:
    assert "is in use by process" in refused("restore", plant.place, "--yes", "--data-dir", plant.server.folder)
    assert plant.server.stop() == 0
    assert "that database is not empty: " in refused("restore", plant.place, "--yes", "--data-dir", plant.server.folder)
    target = ("restore", plant.place, "--data-dir", plant.server.folder, "--replace")
    unproven = gaveurs(*target)
    assert (unproven.returncode, "this goes: " in unproven.stdout) == (1, False)
    assert f"{names(plant.place)[-1]} is NEWER, not taken because it is not proven" in unproven.stderr
    assert "this goes: " in gaveurs(*target, "--backup", names(plant.place)[0]).stdout
    plant.server.start()
    assert len(plant.server.all_samples()) == len(BEFORE)
    assert plant.server.stop() == 0


def test_a_damaged_dump_is_refused_and_changes_nothing(plant: Plant) -> None:
    name = names(plant.place)[0]
    dump = plant.place / name / "database.dump"
    whole = dump.read_bytes()
    target = ("restore", plant.place, "--backup", name, "--replace", "--yes", "--data-dir", plant.server.folder)
    altered = whole[:5_000] + bytes([whole[5_000] ^ 1]) + whole[5_001:]
    for damaged, words in ((whole[:-100], "its dump has another size"), (altered, "is damaged: its SHA-256")):
        dump.write_bytes(damaged)
        assert words in refused(*target)
        assert words in refused("backup", "verify", name, "--from", plant.place)
    dump.write_bytes(whole)
    plant.server.start()
    assert len(plant.server.all_samples()) == len(BEFORE)
    assert plant.server.stop() == 0


def test_a_replaced_database_is_the_backups(plant: Plant) -> None:
    """Stopped: the embedded database is started for the backup, and for the restore."""
    target = ("--replace", "--yes", "--data-dir", plant.server.folder)
    well("restore", plant.place, "--backup", names(plant.place)[0], *target)
    plant.server.start()
    assert len(plant.server.all_samples()) == len(BEFORE)
    assert plant.server.stop() == 0


def test_a_lost_attachment_does_not_cost_the_database(plant: Plant) -> None:
    """Neither in the store nor, whole, in the place. The restored one knows of the backup that it came from."""
    name = names(plant.place)[0]
    (stored,) = (plant.place / "attachments").rglob(hashlib.sha256(CONTENTS["log.txt"]).hexdigest())
    whole = stored.read_bytes()
    with data_folder() as folder:
        target = ("restore", plant.place, "--backup", name, "--data-dir", folder)
        stored.write_bytes(whole[:-1])
        done = gaveurs(*target)
        stored.write_bytes(whole)
        assert done.returncode == 1
        assert f"restored {name}: " in done.stdout
        assert "the database is restored; 1 attachments of it are lost" in done.stderr
        question = "SELECT started_at, (SELECT count(*) FROM samples) AS samples FROM backups"
        settings = load_settings(data_dir=folder, database_url=None)
        (row,) = asyncio.run(with_dsn(settings, lambda dsn: ask_dsn(dsn, question)))
        assert row["samples"] == len(BEFORE)
        assert f"{row['started_at']:%Y%m%dT%H%M%SZ}" == name.partition("-")[0]
        well(*target, "--replace", "--yes")


def test_a_list_of_attachments_that_is_damaged_or_gone_costs_nothing(plant: Plant) -> None:
    """By the rows that were restored each content is found, for its name in the place is its SHA-256."""
    name = names(plant.place)[0]
    path = plant.place / name / "attachments.jsonl"
    whole = path.read_bytes()
    try:
        for damaged in (whole[:-5] + b"xxxx\n", b"", None):
            path.write_bytes(damaged) if damaged is not None else path.unlink()
            with data_folder() as folder:
                done = gaveurs("restore", plant.place, "--backup", name, "--data-dir", folder)
                assert done.returncode == 1
                assert f"restored {name}: " in done.stdout, done.stderr
                assert f", {len(CONTENTS)} attachments" in done.stdout
                assert f"the list of attachments of {name} is damaged" in done.stderr
                found = {one.read_bytes() for one in (folder / "attachments").rglob("*") if one.is_file()}
                assert found == set(CONTENTS.values())
            said = refused("backup", "verify", name, "--from", plant.place, "--data-dir", plant.server.folder)
            assert f"the database of {name} can be restored" in said
    finally:
        path.write_bytes(whole)


def test_a_place_that_cannot_be_read_is_an_error_and_so_is_a_damaged_manifest(plant: Plant, tmp_path: Path) -> None:
    for command in (("backup", "list", "--from"), ("restore",)):
        assert "it is not there" in refused(*command, tmp_path / "nowhere", "--data-dir", tmp_path / "data")
    assert not (tmp_path / "data").exists(), "looking makes nothing"
    (tmp_path / "place" / names(plant.place)[0]).mkdir(parents=True)
    (tmp_path / "place" / names(plant.place)[0] / "manifest.json").write_bytes(b"{")
    done = gaveurs("backup", "list", "--json", "--from", tmp_path / "place")
    assert done.returncode == 1
    assert "is damaged" in json.loads(done.stdout)[0]["unreadable"]


def test_a_data_folder_that_cannot_be_used_is_one_line(plant: Plant) -> None:
    with data_folder() as folder:
        (folder / "owner.lock").mkdir()
        said = refused("restore", plant.place, "--yes", "--data-dir", folder)
    assert "owner.lock cannot be opened: Is a directory" in said


STOPS_ITSELF = """
import os, signal
from app import cli
from app.backup import proof
proof.compare = lambda *_: os.kill(os.getpid(), signal.SIGSTOP)
cli.main()
"""


@contextmanager
def one_that_is_killed(plant: Plant) -> Iterator[subprocess.Popen[bytes]]:
    """A backup, stopped while its proof runs."""
    command = [sys.executable, "-c", STOPS_ITSELF, "backup", "--to", str(plant.place)]
    running = subprocess.Popen(
        [*command, "--data-dir", str(plant.server.folder)], env=clean({}), stderr=subprocess.PIPE
    )
    try:
        until = time.monotonic() + PATIENCE_S
        while psutil.Process(running.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < until
            assert running.poll() is None, running.communicate()
            time.sleep(0.01)
        assert list(plant.server.folder.glob("backup-work/run-*/server/postgres/postmaster.pid"))
        yield running
    finally:
        running.kill()
        running.wait()
        assert running.stderr is not None
        running.stderr.close()


def test_a_killed_backup_counts_for_nothing_and_the_next_one_clears_it_away(plant: Plant) -> None:
    before = names(plant.place)
    with one_that_is_killed(plant) as running:
        assert "another backup" in refused("backup", "--to", plant.place, "--data-dir", plant.server.folder)
        running.kill()
    half = plant.place / "20200101T000000Z-00000000" / "database.dump"  # as one that is killed a little later leaves it
    half.parent.mkdir()
    half.write_bytes(b"half")
    (plant.place / ".gaveurs-unfinished-xyz").write_bytes(b"half")
    assert names(plant.place) == before
    assert len(well("backup", "list", "--from", plant.place).splitlines()) == len(before)
    plant.backup("--no-verify")
    assert not half.parent.exists()
    assert not list(plant.place.glob(".gaveurs-unfinished-*"))
    assert not list(plant.server.folder.glob("backup-work/run-*"))
    assert (plant.place / "a file").read_text() == "not ours"


def test_sigterm_ends_a_backup_and_what_it_started(plant: Plant) -> None:
    """The least of three: whatever else this machine does only adds."""
    took_s: list[float] = []
    while len(took_s) < 3 and min(took_s, default=15.0) >= 15:
        took_s.append(ending_takes_s(plant))
    assert min(took_s) < 15, took_s


def ending_takes_s(plant: Plant) -> float:
    """Until nobody is at work any more."""
    with one_that_is_killed(plant) as running:
        started = psutil.Process(running.pid).children(recursive=True)
        begun = time.monotonic()
        running.send_signal(signal.SIGTERM)
        running.send_signal(signal.SIGCONT)
        assert b"told to stop" in running.communicate(timeout=PATIENCE_S)[1]
        assert running.returncode == 1
    while left := [process for process in started if is_at_work(process)]:  # PostgreSQL's log collector ends last
        assert time.monotonic() < begun + PATIENCE_S, left
        time.sleep(0.01)
    assert not list(plant.server.folder.glob("backup-work/run-*"))
    return time.monotonic() - begun


def is_at_work(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_encrypted_for_somebody_else_only_that_one_can_restore_it(plant: Plant, tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "key.txt").write_text(f"# created: today\n{identity}\n")
    (tmp_path / "other.txt").write_text(f"{pyrage.x25519.Identity.generate()}\n")
    place = tmp_path / "sealed"
    keys = {"BACKUP_AGE_RECIPIENTS": str(identity.to_public())}
    well("backup", "--to", place, "--data-dir", plant.server.folder, "--no-verify", **keys)
    stored = [path for path in place.rglob("*") if path.is_file() and path.suffix == ".age"]
    assert len(stored) >= 1 + len(CONTENTS)
    assert not [path for path in stored if b"PGDMP" in path.read_bytes() or b"temperature" in path.read_bytes()]
    with data_folder() as folder:
        target = ("restore", place, "--data-dir", folder)
        assert "give its secret key with --identity" in refused(*target)
        assert "cannot be decrypted with this identity" in refused(*target, "--identity", tmp_path / "other.txt")
        well(*target, "--identity", tmp_path / "key.txt")
        contents = {path.read_bytes() for path in (folder / "attachments").rglob("*") if path.is_file()}
        assert set(CONTENTS.values()) <= contents


def test_on_and_on_until_told_to_stop(plant: Plant, tmp_path: Path) -> None:
    place = tmp_path / "often"
    command = [sys.executable, "-m", "app.cli", "backup", "--to", str(place), "--every", "1", "--no-verify"]
    running = subprocess.Popen(
        [*command, "--data-dir", str(plant.server.folder)], env=clean({}), stderr=subprocess.PIPE
    )
    try:
        until, seen = time.monotonic() + PATIENCE_S, set[str]()
        while len(seen) < 2:
            assert time.monotonic() < until
            assert running.poll() is None
            seen |= set(names(place))
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE_S) == 0
    finally:
        running.kill()
        running.communicate()
    well("backup", "list", "--from", place, "--json")
    assert "older than" in refused("backup", "list", "--from", place, "--max-age", "3600"), "none is proven"
