"""A folder of backups: what cannot be read is not taken for nothing, what is damaged is told and healed."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyrage
import pytest

from app import cli_backup
from app.backup import folder
from app.backup.attachments import Saver, check_stored, contents_of, shared_key
from app.backup.catalogue import (
    Rotated,
    check_stored_whole,
    read_catalogue,
    refuse_strangers,
    rotate,
    stored_before,
)
from app.backup.errors import BackupError, ContentLostError
from app.backup.folder import Folder
from app.backup.manifest import (
    DUMP,
    FILE,
    FORMAT,
    LIST,
    MOST_BYTES,
    Attachment,
    Attachments,
    File,
    Inventory,
    Manifest,
    encode,
)
from app.backup.restore import Source, put_attachments_back
from app.backup.rotation import Kept
from app.bugs.attachment_store import AttachmentStore, new_key
from app.settings import load_settings

NOW = datetime.now(UTC)
BODY = b"content of an attachment"
SHA256 = hashlib.sha256(BODY).hexdigest()
SHARED = shared_key(SHA256, ())
OBJECT = new_key()
KEPT = Kept(1, 0, 0)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def place(tmp_path: Path) -> Folder:
    (tmp_path / "place").mkdir()
    return Folder(tmp_path / "place")


def root(place: Folder) -> Path:
    from pathlib import Path

    return Path(place.name)


async def add(
    place: Folder, work: Path, days: float, *, verified: bool = True, lost: bool = False, database: str | None = "a"
) -> str:
    """A backup of so many days ago, with one attachment."""
    at = NOW - timedelta(days=days)
    name = f"{at:%Y%m%dT%H%M%SZ}-00000000"
    line = Attachment(OBJECT, SHA256, len(BODY), SHARED, len(BODY), SHA256)
    contents = {DUMP: b"dump", LIST: msgspec.json.encode(line) + b"\n"}
    files = {one: File(one, len(body), hashlib.sha256(body).hexdigest(), "") for one, body in contents.items()}
    held = Attachments(1, len(BODY), ["bugs/gone"] if lost else [])
    manifest = Manifest(
        FORMAT, name, "0.1.0", "15", "15", at, at, verified, [], Inventory("0005", [], [], {}), held, files[DUMP],
        files[LIST], database,
    )  # fmt: skip
    stored = {f"{name}/{one}": body for one, body in contents.items()}
    for key, body in (stored | {SHARED: BODY, f"{name}/{FILE}": encode(manifest)}).items():
        (work / "one").write_bytes(body)
        await place.put(key, work / "one")
    return name


async def rotated(place: Folder, work: Path) -> list[str]:
    """What went, where nothing is in the way."""
    done = Rotated()
    await rotate(place, KEPT, work, done)
    assert done.left == []
    return done.gone


async def choice(place: Folder, work: Path, name: str = "latest") -> tuple[str, list[str]]:
    chosen = (await read_catalogue(place, work)).choose(name, datetime.now(UTC))
    return chosen.manifest.name, chosen.doubts


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
async def test_what_cannot_be_read_is_no_reason_to_delete(
    code: int, place: Folder, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await add(place, work, 0)
    scandir = os.scandir

    def failing(path: Any) -> Any:
        if str(path).endswith(name):
            raise OSError(code, os.strerror(code), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(BackupError, match="cannot be read"):
        await rotated(place, work)
    monkeypatch.undo()
    assert (root(place) / SHARED).read_bytes() == BODY


async def test_a_place_that_is_not_there_is_not_an_empty_one(place: Folder, work: Path) -> None:
    root(place).rmdir()
    with pytest.raises(BackupError, match="it is not there"):
        await read_catalogue(place, work)


async def test_folders_of_others_are_not_entered(place: Folder, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lost+found, at the root of a disk, is root's alone."""
    await add(place, work, 0)
    (root(place) / "lost+found").mkdir()
    scandir = os.scandir

    def failing(path: Any) -> Any:
        if str(path).endswith("lost+found"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    assert len((await read_catalogue(place, work)).manifests) == 1


async def test_the_newest_proven_one_is_restored_and_newer_ones_are_told(place: Folder, work: Path) -> None:
    proven = await add(place, work, 3)
    assert await choice(place, work) == (proven, [])
    lost = await add(place, work, 2, lost=True)
    assert await choice(place, work) == (lost, []), "attachments that are lost are no reason to lose rows too"
    unproven = await add(place, work, 1, verified=False)
    damaged = await add(place, work, 0.5)
    (root(place) / damaged / FILE).write_bytes(b"")
    name, doubts = await choice(place, work)
    assert name == lost
    assert [doubt.split()[:3] for doubt in doubts] == [[unproven, "is", "NEWER,"], [damaged, "is", "NEWER,"]]
    assert await choice(place, work, unproven) == (unproven, [])


async def test_a_time_in_the_future_counts_for_no_age_and_hides_nothing(place: Folder, work: Path) -> None:
    old, ahead = await add(place, work, 3), await add(place, work, -3_650)
    catalogue, now = await read_catalogue(place, work), datetime.now(UTC)
    assert catalogue.ahead(now) == [ahead]
    newest, complete = catalogue.newest(now), catalogue.newest_complete(now)
    assert newest is not None
    assert complete is not None
    assert (newest.name, complete.name) == (old, old)
    name, (doubt,) = await choice(place, work)
    assert (name, "its time is in the future" in doubt) == (old, True)
    assert await rotated(place, work) == []


async def test_a_backup_whose_dump_is_gone_counts_for_nothing_and_goes_nowhere(place: Folder, work: Path) -> None:
    whole, gone, short = [await add(place, work, days) for days in (3, 2, 1)]
    (root(place) / gone / DUMP).unlink()
    (root(place) / short / DUMP).write_bytes(b"dum")
    catalogue, now = await read_catalogue(place, work), datetime.now(UTC)
    complete = catalogue.newest_complete(now)
    assert complete is not None
    assert complete.name == whole
    assert "its dump is gone" in catalogue.unreadable[gone]
    assert "its dump has another size" in catalogue.unreadable[short]
    name, doubts = await choice(place, work)
    assert (name, [doubt.split()[0] for doubt in doubts]) == (whole, [gone, short])
    with pytest.raises(BackupError, match="its dump is gone"):
        await choice(place, work, gone)
    assert await rotated(place, work) == []


@pytest.mark.parametrize("damage", [None, b"x"])
async def test_a_backup_whose_list_is_gone_can_be_restored_and_is_not_a_good_one(
    damage: bytes | None, place: Folder, work: Path
) -> None:
    name = await add(place, work, 1)
    path = root(place) / name / LIST
    path.unlink() if damage is None else path.write_bytes(damage)
    catalogue = await read_catalogue(place, work)
    assert catalogue.newest_complete(datetime.now(UTC)) is None
    chosen, (doubt,) = await choice(place, work)
    assert (chosen, "the list of attachments" in doubt) == (name, True)
    older = await add(place, work, 2)
    chosen, (doubt,) = await choice(place, work)
    assert (chosen, f"--backup {name} takes it" in doubt) == (older, True)
    assert await choice(place, work, name) == (name, [])
    await add(place, work, 0)
    assert await rotated(place, work) == [older, name]
    assert len((await read_catalogue(place, work)).manifests) == 1


def large(path: Path) -> None:
    os.truncate(path, MOST_BYTES + 1)


def leads_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere")


def is_a_folder(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent)


@pytest.mark.parametrize("spoil", [large, leads_nowhere, is_a_folder])
async def test_one_odd_file_blocks_nothing_and_frees_no_contents(
    spoil: Callable[[Path], None], place: Folder, work: Path
) -> None:
    odd, good = await add(place, work, 30), await add(place, work, 0)
    spoil(root(place) / odd / FILE)
    catalogue = await read_catalogue(place, work)
    assert (list(catalogue.manifests), list(catalogue.unreadable)) == ([good], [odd])
    (root(place) / "attachments" / "00").mkdir()
    unnamed = root(place) / "attachments" / "00" / ("0" * 64)
    unnamed.write_bytes(b"the odd one may need it")
    assert await rotated(place, work) == []
    assert unnamed.exists()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
async def test_a_manifest_that_cannot_be_read_blocks_nothing(
    code: int, place: Folder, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd, good = await add(place, work, 30), await add(place, work, 0)
    copy = folder._copy_new

    def failing(source: Path, target: Path) -> None:
        if odd in str(source):
            raise OSError(code, os.strerror(code), str(source))
        copy(source, target)

    monkeypatch.setattr(folder, "_copy_new", failing)
    catalogue = await read_catalogue(place, work)
    assert (list(catalogue.manifests), list(catalogue.unreadable)) == ([good], [odd])


async def test_a_disk_of_ours_that_is_full_makes_no_backup_unreadable(
    place: Folder, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(place, work, 0)

    def full(_source: Path, _target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folder, "_copy_new", full)
    with pytest.raises(BackupError, match="No space left"):
        await read_catalogue(place, work)


async def test_a_name_without_a_date_is_not_ours(place: Folder, work: Path) -> None:
    (root(place) / "20269999T999999Z-00000000").mkdir()
    (root(place) / "20269999T999999Z-00000000" / FILE).write_bytes(b"{}")
    good = await add(place, work, 0)
    catalogue = await read_catalogue(place, work)
    assert (list(catalogue.manifests), catalogue.unreadable, catalogue.unfinished) == ([good], {}, [])


async def test_what_vanishes_while_it_is_listed_is_not_there(
    place: Folder, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await add(place, work, 0)
    real = Path.stat

    def vanished(path: Path, **options: Any) -> os.stat_result:
        if path.name == DUMP:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", vanished)
    assert sorted([Path(key).name async for key, _ in place.sizes() if key.startswith(name)]) == [LIST, FILE]


@pytest.mark.parametrize("moved", ["backup", "unmounted", "attachments", "attachments/a"])
async def test_what_was_moved_behind_a_symbolic_link_is_told_and_nothing_is_deleted(
    moved: str, place: Folder, work: Path, tmp_path: Path
) -> None:
    name = await add(place, work, 30)
    await add(place, work, 0)
    contents = root(place) / "attachments" / "00"
    contents.mkdir()
    (contents / ("0" * 64)).write_bytes(b"of the one that was moved")
    entry = {"backup": name, "unmounted": name, "attachments": "attachments"}.get(moved, "attachments/00")
    other = tmp_path / "other disk"
    (root(place) / entry).rename(other)
    (root(place) / entry).symlink_to(tmp_path / "not mounted" if moved == "unmounted" else other)
    with pytest.raises(BackupError, match=f"{entry} is a symbolic link"):
        await rotated(place, work)
    (root(place) / entry).unlink()
    other.rename(root(place) / entry)
    assert (contents / ("0" * 64)).exists()
    link = tmp_path / "link"
    link.symlink_to(root(place))
    assert len((await read_catalogue(Folder(link), work)).manifests) == 2, "the place itself may be one"


async def test_a_backup_that_lost_its_manifest_is_kept_and_told(place: Folder, work: Path) -> None:
    name = await add(place, work, 30)
    await add(place, work, 0)
    (root(place) / name / FILE).unlink()
    half = root(place) / "20200101T000000Z-00000000" / DUMP
    half.parent.mkdir()
    half.write_bytes(b"half")
    catalogue = await read_catalogue(place, work)
    assert "has no manifest any more" in catalogue.unreadable[name]
    assert catalogue.unfinished == [f"{half.parent.name}/{DUMP}"]


async def test_a_damaged_list_neither_stops_backups_nor_frees_contents(place: Folder, work: Path) -> None:
    name = await add(place, work, 1)
    (root(place) / name / LIST).write_bytes(b"x")
    catalogue = await read_catalogue(place, work)
    assert await stored_before(place, catalogue, work) == {}
    assert "is damaged" in catalogue.unreadable[name]
    await rotated(place, work)
    assert (root(place) / SHARED).exists()


async def test_a_place_is_one_databases_until_another_takes_it_over(place: Folder, work: Path) -> None:
    await add(place, work, 2)
    catalogue = await read_catalogue(place, work)
    for ours, adopt in (("a", False), (None, False), ("b", True)):
        refuse_strangers(place, catalogue, ours, adopt=adopt)
    with pytest.raises(BackupError, match="is another database's"):
        refuse_strangers(place, catalogue, "b", adopt=False)
    await add(place, work, 1, database="b")
    catalogue = await read_catalogue(place, work)
    refuse_strangers(place, catalogue, "b", adopt=False)
    with pytest.raises(BackupError, match="is another database's"):
        refuse_strangers(place, catalogue, "a", adopt=False)


async def test_a_manifest_whose_dump_has_gone_meanwhile_is_taken_back(place: Folder, work: Path) -> None:
    name = await add(place, work, 0)
    manifest = (await read_catalogue(place, work)).named(name)
    contents = contents_of(root(place) / name / LIST)
    await check_stored_whole(place, manifest, contents)
    (root(place) / name / DUMP).unlink()
    with pytest.raises(BackupError, match="has gone from"):
        await check_stored_whole(place, manifest, contents)
    assert not (root(place) / name).exists()


class Snapshot:
    """One row of attachments."""

    async def cursor(self, _question: str, **_options: int) -> Any:
        yield {"object_key": OBJECT, "sha256": SHA256, "size_bytes": len(BODY)}


async def put(store: AttachmentStore, body: bytes) -> None:
    writing = store.write(OBJECT)
    await writing.write(body)
    await writing.close()


async def saved(place: Folder, store: AttachmentStore, work: Path) -> tuple[Attachments, list[str]]:
    catalogue = await read_catalogue(place, work)
    before = await stored_before(place, catalogue, work)
    saver = Saver("", store, place, before, catalogue.shared, (), work, NOW.toordinal())
    listing = work / LIST
    listing.unlink(missing_ok=True)
    return await saver.save(Snapshot(), listing)  # type: ignore[arg-type]


@pytest.mark.parametrize("damaged", [b"altered" + BODY[7:], BODY[:-1], None])
async def test_what_is_damaged_in_the_place_is_stored_again_or_told_as_lost(
    damaged: bytes | None, place: Folder, work: Path, tmp_path: Path
) -> None:
    await add(place, work, 1)
    store = AttachmentStore.in_folder(tmp_path / "store")
    await put(store, BODY)
    assert await saved(place, store, work) == (Attachments(1, len(BODY), []), [])
    path = root(place) / SHARED
    path.write_bytes(damaged) if damaged is not None else path.unlink()
    held, (word,) = await saved(place, store, work)
    assert (held.lost, "stored there again" in word, path.read_bytes()) == ([], True, BODY)
    path.write_bytes(damaged) if damaged is not None else path.unlink()
    shutil.rmtree(tmp_path / "store" / "bugs")

    async def is_there(_key: str) -> bool:
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saver, "_is_deleted", lambda _self, key: is_there(key))
        held, (word,) = await saved(place, store, work)
    assert (held.lost, "is damaged or gone" in word) == ([OBJECT], True)


async def test_a_lost_attachment_does_not_hold_up_a_restore_and_an_altered_one_is_mended(
    place: Folder, work: Path, tmp_path: Path
) -> None:
    name = await add(place, work, 1)
    source = Source(place, (await read_catalogue(place, work)).named(name), (), work)
    store = AttachmentStore.in_folder(tmp_path / "store")
    await put(store, b"altered" + BODY[7:])
    assert await put_attachments_back(source, store, source.attachments()) == (1, [])
    assert (tmp_path / "store" / OBJECT).read_bytes() == BODY
    (root(place) / SHARED).write_bytes(b"altered" + BODY[7:])
    assert await put_attachments_back(source, store, source.attachments()) == (1, []), "the store has it"
    (tmp_path / "store" / OBJECT).unlink()
    restored, (word,) = await put_attachments_back(source, store, source.attachments())
    assert (restored, "is damaged" in word) == (0, True)


async def test_what_was_encrypted_anew_is_whole_for_older_backups_too(
    place: Folder, work: Path, tmp_path: Path
) -> None:
    """Encrypting twice gives two files; each backup's list knows the SHA-256 of one."""
    identity = pyrage.x25519.Identity.generate()
    keys = (str(identity.to_public()),)
    store = AttachmentStore.in_folder(tmp_path / "store")
    await put(store, BODY)
    lines = []
    for _ in range(2):
        saver = Saver("", store, place, {}, {}, keys, work, NOW.toordinal())
        await saver.save(Snapshot(), work / LIST)  # type: ignore[arg-type]
        lines.append(msgspec.json.decode((work / LIST).read_bytes(), type=Attachment))
        (work / LIST).unlink()
    assert lines[0].stored_sha256 != lines[1].stored_sha256
    for line in lines:
        assert [path.read_bytes() async for path in check_stored(place, line, work, (identity,))] == [BODY]
    path = root(place) / lines[0].key
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ContentLostError, match="is damaged"):
        _ = [path async for path in check_stored(place, lines[1], work, (identity,))]


async def test_on_and_on_survives_what_nobody_thought_of(
    place: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    async def failing(_settings: object, **_options: bool) -> None:
        attempts.append(1)
        if len(attempts) == 3:
            signal.raise_signal(signal.SIGTERM)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("app.backup.product.make_backup", failing)
    settings = load_settings(data_dir=tmp_path, backup_to=place.name)
    async with asyncio.timeout(10):
        assert not await cli_backup._on_and_on(settings, 0.01, adopt=False)
    assert len(attempts) == 3
