"""What is in a place: whole backups by their manifests, what others left unfinished, the contents they share."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from app.backup.crypt import sha256_of
from app.backup.ending import to_its_end
from app.backup.errors import BackupError, ContentLostError
from app.backup.manifest import DUMP, FILE, LIST, MOST_BYTES, Attachment, File, Manifest, decode, time_of
from app.backup.places import SHARED, read_small
from app.backup.rotation import Made, staying

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping

    from app.backup.places import Place
    from app.backup.rotation import Kept

CLOCKS_APART: Final = timedelta(minutes=5)
NO_MANIFEST: Final = "has no manifest any more"


def is_ahead(name: str, now: datetime) -> bool:
    """Of our clock, by more than clocks differ: somebody's was wrong, and its age says nothing."""
    return time_of(name) > now + CLOCKS_APART


@dataclass(frozen=True, slots=True)
class Choice:
    """The backup to restore; `doubts`, in words, about those that seem newer and were not taken."""

    manifest: Manifest
    doubts: list[str]


@dataclass(slots=True)
class Catalogue:
    """`unreadable`: backups of which a file is damaged or gone, or which are newer than us, and why: left alone.
    `unlisted`: those of them whose database can be restored, for only their list of attachments is wrong.
    """

    manifests: dict[str, Manifest] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    unlisted: dict[str, Manifest] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    shared: dict[str, int] = field(default_factory=dict)

    def newest(self, now: datetime) -> Manifest | None:
        names = [name for name in self.manifests if not is_ahead(name, now)]
        return self.manifests[max(names)] if names else None

    def newest_complete(self, now: datetime) -> Manifest | None:
        names = [name for name, one in self.manifests.items() if one.complete and not is_ahead(name, now)]
        return self.manifests[max(names)] if names else None

    def ahead(self, now: datetime) -> list[str]:
        return sorted(name for name in self.manifests if is_ahead(name, now))

    def choose(self, name: str, now: datetime) -> Choice:
        """`latest` is the newest that is proven, or the newest at all where none is: what a backup lacks of attachments
        is no reason to lose what came into the database since. BackupError when there is no such backup.
        """
        if name != "latest":
            return Choice(self.named(name), [])
        names = [one for one in self.manifests if not is_ahead(one, now)] or list(self.manifests)
        if not names and self.unlisted:
            return Choice(self.unlisted[max(self.unlisted)], [*self.unreadable.values()])
        if not names:
            raise BackupError("; ".join(["there is no backup", *self.unreadable.values()]))
        chosen = max([one for one in names if self.manifests[one].verified] or names)
        doubts = [f"the time of {chosen} is in the future: somebody's clock was wrong"] if is_ahead(chosen, now) else []
        for one in sorted(self.manifests):
            if one > chosen:
                why = "its time is in the future" if is_ahead(one, now) else "it is not proven"
                doubts.append(f"{one} is NEWER, not taken because {why}; --backup {one} takes it")
        for one, why in sorted(self.unreadable.items()):
            if one > chosen:
                takes = f"; --backup {one} takes it" if one in self.unlisted else ""
                doubts.append(f"{one} is NEWER, and {why}{takes}")
        return Choice(self.manifests[chosen], doubts)

    def named(self, name: str) -> Manifest:
        if name in self.unlisted:
            return self.unlisted[name]
        if name in self.unreadable:
            raise BackupError(self.unreadable[name])
        if name not in self.manifests:
            raise BackupError(f"there is no backup {name}; `gaveurs backup list` shows those that there are")
        return self.manifests[name]


async def read_catalogue(place: Place, work: Path) -> Catalogue:
    found, files = Catalogue(), dict[str, dict[str, int]]()
    async for key, size in place.sizes():
        folder, _, name = key.partition("/")
        if folder == SHARED:
            found.shared[key] = size
        else:
            files.setdefault(folder, {})[name] = size
    for folder, names in sorted(files.items()):
        if FILE in names:
            try:
                manifest = await _manifest_of(place, folder, names, work)
            except ContentLostError as error:
                found.unreadable[folder] = str(error)
            else:
                _file_away(found, manifest, names)
        elif any(name.startswith(DUMP) for name in names) and LIST in names:
            # The manifest is put right after the list, and deleted after it: no end of ours leaves this.
            found.unreadable[folder] = f"the backup {folder} {NO_MANIFEST}: put it back, or delete the folder"
        else:
            found.unfinished += [f"{folder}/{name}" for name in names]
    return found


async def _manifest_of(place: Place, folder: str, names: Mapping[str, int], work: Path) -> Manifest:
    """With its dump beside it. ContentLostError: this backup is of no use, others may be; BackupError: the place is."""
    if names[FILE] > MOST_BYTES:
        raise ContentLostError(f"the manifest of the backup {folder} is damaged: it is larger than any is")
    manifest = decode(await read_small(place, f"{folder}/{FILE}", work), folder)
    if wrong := _wrong(manifest.dump, names):
        raise ContentLostError(f"the backup {folder} cannot be restored: its dump {wrong}")
    return manifest


def _wrong(file: File, names: Mapping[str, int]) -> str | None:
    if file.key not in names:
        return "is gone"
    return None if names[file.key] == file.size_bytes else "has another size than was stored"


def _file_away(found: Catalogue, manifest: Manifest, names: Mapping[str, int]) -> None:
    if wrong := _wrong(manifest.listing, names):
        found.unlisted[manifest.name] = manifest
        found.unreadable[manifest.name] = f"the list of attachments of {manifest.name} is damaged: it {wrong}"
    else:
        found.manifests[manifest.name] = manifest


def refuse_strangers(place: Place, catalogue: Catalogue, ours: str | None, *, adopt: bool) -> None:
    """BackupError where another database backs up: they would hide ours, and be rotated away with them."""
    newest = catalogue.newest(datetime.now(UTC))
    if newest is None or adopt or None in (ours, newest.database_id) or newest.database_id == ours:
        return
    raise BackupError(
        f"{newest.name} in {place.name} is another database's ({newest.database_id}; this one is {ours}):"
        " give each its own place; --adopt takes it over"
    )


async def check_stored_whole(place: Place, manifest: Manifest, contents: dict[str, int]) -> None:
    """All that the manifest and its list (`contents`: bytes by key) name is in the place. BackupError names the first
    that is not, and then the backup does not exist.
    """
    named = contents | {f"{manifest.name}/{one.key}": one.size_bytes for one in (manifest.dump, manifest.listing)}
    there = {key: size async for key, size in place.sizes()}
    if wrong := sorted(key for key, size in named.items() if there.get(key) != size):
        await to_its_end(_delete(place, manifest))
        raise BackupError(
            f"{wrong[0]} has gone from {place.name} while the backup was made: does another one write there?"
        )


async def listed(place: Place, manifest: Manifest, work: Path) -> AsyncGenerator[Attachment, None]:
    """The attachments of a backup, once it is known that the list is as it was written."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        copy = Path(folder) / "list"
        try:
            await place.get(f"{manifest.name}/{manifest.listing.key}", copy)
        except ContentLostError as error:
            raise ContentLostError(f"the list of attachments of {manifest.name} is damaged: {error}") from error
        if await sha256_of(copy) != manifest.listing.sha256:
            raise ContentLostError(f"the list of attachments of {manifest.name} is damaged")
        with copy.open("rb") as lines:
            for line in lines:
                yield msgspec.json.decode(line, type=Attachment)


async def stored_before(place: Place, catalogue: Catalogue, work: Path) -> dict[str, tuple[int, str]]:
    """Contents that backups name: (bytes, SHA-256) as stored, by key; the newest that stored one anew has the say. A
    backup whose list is damaged joins the unreadable ones.
    """
    found = {}
    for name, manifest in sorted(catalogue.manifests.items()):
        try:
            async for one in listed(place, manifest, work):
                found[one.key] = (one.stored_bytes, one.stored_sha256)
        except ContentLostError as error:
            catalogue.unreadable[name] = str(error)
    return found


@dataclass(slots=True)
class Rotated:
    """Names of the backups that went, and in words why others whose time is over are `left`."""

    gone: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


async def rotate(place: Place, kept: Kept, work: Path, rotated: Rotated) -> None:
    """Delete the backups whose time is over, also those whose list is wrong, then contents that none names; `rotated`
    is right however this ends.

    While there is another backup that cannot be read, contents stay: it may need them.
    """
    catalogue = await read_catalogue(place, work)
    manifests, known = catalogue.manifests, catalogue.manifests | catalogue.unlisted
    good = {name for name, one in manifests.items() if one.complete}
    # One whose list is wrong stands in for no other.
    stay = _staying(manifests, good, kept) | _staying(known, good, kept)
    for name in sorted(known.keys() - stay):
        await to_its_end(_forget(place, known[name], rotated))
    if catalogue.unreadable.keys() <= set(rotated.gone):
        await _forget_contents(place, catalogue, [manifests[name] for name in manifests.keys() - rotated.gone], work)


def _staying(names: Iterable[str], good: set[str], kept: Kept) -> set[str]:
    return staying((Made(time_of(name), name, name in good) for name in names), kept, datetime.now(UTC))


async def _forget(place: Place, manifest: Manifest, rotated: Rotated) -> None:
    try:
        await _delete(place, manifest)
    except BackupError as error:
        rotated.left.append(str(error))
    else:
        rotated.gone.append(manifest.name)


async def _delete(place: Place, manifest: Manifest) -> None:
    """What is left by one that is killed in between is deleted later: without its list it can be rotated away, and a
    dump alone is unfinished.
    """
    await place.delete([f"{manifest.name}/{file}" for file in (manifest.listing.key, FILE, manifest.dump.key)])


async def _forget_contents(place: Place, catalogue: Catalogue, staying: Iterable[Manifest], work: Path) -> None:
    unnamed = set(catalogue.shared)
    try:
        for manifest in staying:
            async for one in listed(place, manifest, work):
                unnamed.discard(one.key)
    except ContentLostError:
        return  # that one cannot say what it needs
    await place.delete(sorted(unnamed))
