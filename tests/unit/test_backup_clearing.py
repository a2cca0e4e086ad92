"""Old backups go whole or are gone through again, whatever ends it; one that cannot go is named and holds up no other."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import nullcontext as nothing
from pathlib import Path
from typing import TYPE_CHECKING

import pyrage
import pytest

from app.backup.catalogue import NO_MANIFEST, Rotated, check_stored_whole, read_catalogue, rotate
from app.backup.crypt import encrypt
from app.backup.ending import to_its_end
from app.backup.errors import BackupError
from app.backup.folder import UNFINISHED, Folder
from app.backup.make import STAY, _forget_unfinished
from app.backup.manifest import DUMP, FILE, LIST
from tests.unit.test_backup_places import BODY, KEPT, SHARED, add, place, rotated, work  # noqa: F401 - fixtures
from tests.unit.test_backup_trouble import small_files  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Sequence

OTHER = f"attachments/00/{'0' * 64}"


class KilledError(BaseException):
    """Nothing of ours runs after it."""


class Deadly(Folder):
    """Kills whoever deletes more than so many files."""

    left = 0

    def _delete(self, key: str) -> None:
        if self.left == 0:
            raise KilledError
        self.left -= 1
        super()._delete(key)


def files(place: Folder) -> set[str]:  # noqa: F811
    root = Path(place.name)
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("deletes", range(5))
async def test_wherever_a_rotation_is_killed_the_next_one_clears_up(
    deletes: int, place: Folder, work: Path  # noqa: F811
) -> None:  # fmt: skip
    old, new = await add(place, work, 30), await add(place, work, 0)
    (Path(place.name) / "attachments" / "00").mkdir()
    (Path(place.name) / OTHER).write_bytes(b"of an old one alone")
    deadly = Deadly(Path(place.name))
    deadly.left = deletes
    with pytest.raises(KilledError) if deletes < 4 else nothing():
        await rotate(deadly, KEPT, work, Rotated())
    catalogue = await read_catalogue(place, work)
    assert new in catalogue.manifests
    assert NO_MANIFEST not in str(catalogue.unreadable)
    assert catalogue.unreadable.keys() == catalogue.unlisted.keys(), "each has a database that can be restored"
    assert await _forget_unfinished(place, catalogue.unfinished) == []
    await rotated(place, work)
    assert files(place) == {f"{new}/{FILE}", f"{new}/{DUMP}", f"{new}/{LIST}", SHARED}
    assert not (Path(place.name) / old).exists()


class Waiting(Folder):
    """Deletes the rest when it is let."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.begun, self.let = asyncio.Event(), asyncio.Event()

    async def delete(self, keys: Sequence[str]) -> None:
        await super().delete(keys[:1])
        self.begun.set()
        await self.let.wait()
        await super().delete(keys[1:])


@pytest.mark.parametrize("taken_back", [False, True])
async def test_what_is_being_deleted_goes_whole_however_often_we_are_told_to_stop(
    taken_back: bool, place: Folder, work: Path  # noqa: F811
) -> None:  # fmt: skip
    old, older, _ = await add(place, work, 30), await add(place, work, 40), await add(place, work, 0)
    going = old if taken_back else older
    slow, done = Waiting(Path(place.name)), Rotated()
    manifest = (await read_catalogue(place, work)).named(old)
    ending = check_stored_whole(slow, manifest, {"gone": 1}) if taken_back else rotate(slow, KEPT, work, done)
    task = asyncio.create_task(ending)
    await slow.begun.wait()
    for _ in range(2):
        task.cancel()
        await asyncio.wait({task}, timeout=0)
        await asyncio.sleep(0)
    slow.let.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not (Path(place.name) / going).exists()
    assert (await read_catalogue(place, work)).unreadable == {}
    assert done == Rotated([] if taken_back else [older])


async def test_what_ends_badly_while_we_are_told_to_stop_is_the_reason_of_the_end() -> None:
    async def fails() -> None:
        stopped.cancel()
        await asyncio.sleep(0)
        raise BackupError("no")

    stopped = asyncio.create_task(to_its_end(fails()))
    with pytest.raises(asyncio.CancelledError) as ended:
        await stopped
    assert isinstance(ended.value.__cause__, BackupError)


class Stuck(Folder):
    """Some files are immutable."""

    stuck: frozenset[str] = frozenset()

    def _delete(self, key: str) -> None:
        if key in self.stuck:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), key)
        super()._delete(key)


@pytest.mark.parametrize("file", [LIST, FILE, DUMP])
async def test_one_that_cannot_go_is_named_and_holds_up_no_other(
    file: str, place: Folder, work: Path  # noqa: F811
) -> None:  # fmt: skip
    stays, goes, new = [await add(place, work, days) for days in (50, 40, 0)]
    stuck, done = Stuck(Path(place.name)), Rotated()
    stuck.stuck = frozenset({f"{stays}/{file}"})
    await rotate(stuck, KEPT, work, done)
    assert done.gone == [goes]
    assert done.left == [f"{stays}/{file} cannot be deleted from {place.name}: Operation not permitted"]
    assert {name for name in files(place) if name.startswith(new)} == {f"{new}/{one}" for one in (FILE, DUMP, LIST)}
    assert NO_MANIFEST not in str((await read_catalogue(place, work)).unreadable)


async def test_an_unfinished_file_that_cannot_go_holds_up_no_other(place: Folder, work: Path) -> None:  # noqa: F811
    keys = [f"2020010{day}T000000Z-00000000/{DUMP}" for day in (1, 2)]
    for key in keys:
        (work / "half").touch()
        await place.put(key, work / "half")
    stuck = Stuck(Path(place.name))
    stuck.stuck = frozenset(keys[:1])
    (word,) = await _forget_unfinished(stuck, keys)
    assert (word.startswith(STAY), keys[0] in word) == (True, True)
    assert files(place) == {keys[0]}


async def test_where_nothing_may_be_deleted_some_are_named_and_the_others_counted(place: Folder) -> None:  # noqa: F811
    keys = [f"2020010{day}T000000Z-00000000/{DUMP}" for day in range(1, 6)]
    stuck = Stuck(Path(place.name))
    stuck.stuck = frozenset(keys)
    (word,) = await _forget_unfinished(stuck, keys)
    assert [key in word for key in keys] == [True, True, True, False, False]
    assert word.endswith("Operation not permitted, and 2 more")


async def test_what_cannot_be_cleared_of_an_unfinished_backup_is_named_and_stops_nobody(
    place: Folder, capsys: pytest.CaptureFixture[str]  # noqa: F811
) -> None:  # fmt: skip
    root = Path(place.name)
    (root / f"{UNFINISHED}a-folder").mkdir()
    (root / f"{UNFINISHED}file").touch()
    (root / "20200101T000000Z-00000000").mkdir()
    async with place.alone():
        pass
    assert files(place) == {".gaveurs-lock"}
    assert not (root / "20200101T000000Z-00000000").exists()
    assert str(root / f"{UNFINISHED}a-folder") in capsys.readouterr().out


@pytest.mark.parametrize("size", [10_000, 300_000])
async def test_a_disk_that_fills_while_encrypting_is_one_line(
    size: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    keys = (str(pyrage.x25519.Identity.generate().to_public()),)
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.write_bytes(b"x" * size)
    request.getfixturevalue("small_files")
    with pytest.raises(BackupError, match=rf"plain cannot be encrypted to {sealed}: .*File too large"):
        await encrypt(plain, sealed, keys)
