"""Disks: room, inodes, and how long a small write takes until it is safe. The writes go into a file that is removed."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app.core.apart import apart
from app.doctor.finding import Finding, fine, note, problem, warning

if TYPE_CHECKING:
    from app.doctor.patient import Patient

TOPIC: Final = "disk"
WRITES: Final = 8
BYTES: Final = 8_192  # a page of PostgreSQL
SLOW_MS: Final = 20.0
QUICKEST_MS: Final = 0.01  # no medium that keeps anything is known to be so quick
LOW: Final = 0.10
OUT: Final = 0.02
MIB: Final = 1024 * 1024
LEAST_BYTES: Final = 256 * MIB
FULL: Final = "when it is full, commits fail and samples are answered busy"
FULL_OF: Final = {
    "attachments": "when it is full, no attachment can be added",
    "backups": "when it is full, no backup can be made",
}
IN_MEMORY: Final = ("tmpfs", "ramfs")
MOUNTS: Final = Path("/proc/self/mounts")


@dataclass(frozen=True, slots=True)
class Room:
    """Of the file system that a folder is or will be on."""

    size_bytes: int
    free_bytes: int
    inodes: int
    free_inodes: int
    kind: str = ""


async def check_disks(patient: Patient) -> list[Finding]:
    return await apart(lambda: look(patient))


def look(patient: Patient) -> list[Finding]:
    """Each file system once, however many of our folders are on it."""
    folders, backups = {"DATA_DIR": patient.settings.data_dir}, patient.backups_folder
    if patient.attachments_folder is not None:
        folders["attachments"] = patient.attachments_folder
    if backups is not None:
        folders["backups"] = backups
    found, seen = [], set()
    for place, folder in folders.items():
        existing = _existing(folder)
        device = existing.stat().st_dev
        if device not in seen:
            seen.add(device)
            found += judge_room(place, folder, room_of(existing), keeps_data=patient.embedded and place == "DATA_DIR")
    if backups is not None and _device(backups) in {_device(one) for one in _backed_up(patient)}:
        found.append(_same_disk(backups))
    return [*found, *_safe_writes(patient)]


def _backed_up(patient: Patient) -> list[Path]:
    """What of it lies on this machine."""
    database = [patient.settings.data_dir] if patient.embedded else []
    return database + ([patient.attachments_folder] if patient.attachments_folder is not None else [])


def _device(folder: Path) -> int:
    return _existing(folder).stat().st_dev


def _existing(folder: Path) -> Path:
    return next(one for one in (folder, *folder.absolute().parents) if one.exists())


def _same_disk(folder: Path) -> Finding:
    follows = "a disk that dies takes data and backups with it"
    return warning(
        TOPIC,
        f"backups in {folder} lie on the disk of what they are of",
        follows,
        "BACKUP_TO=s3://..., or another disk",
    )


def room_of(folder: Path) -> Room:
    found = os.statvfs(folder)
    size, free = found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail
    return Room(size, free, found.f_files, found.f_favail, _kind(folder))


def _kind(folder: Path) -> str:
    """Its type, by the longest mount point above it."""
    if not MOUNTS.exists():
        return ""
    mounts = (line.split() for line in MOUNTS.read_text().splitlines())
    above = [(len(point), kind) for _, point, kind, *_ in mounts if folder.resolve().is_relative_to(point)]
    return max(above, default=(0, ""))[1]


def judge_room(place: str, folder: Path, room: Room, *, keeps_data: bool) -> list[Finding]:
    if room.kind in IN_MEMORY and keeps_data:
        return [
            problem(
                TOPIC,
                f"{place} ({folder}) is in memory ({room.kind})",
                "all data is gone when the machine stops",
                "put it on a disk",
            )
        ]
    if not room.size_bytes:
        return []  # it keeps no files (/proc), or does not say (some file systems of networks)
    share = room.free_bytes / room.size_bytes
    follows = FULL_OF.get(place, FULL)
    what = f"{place} ({folder}): {room.free_bytes / 1e9:.1f} of {room.size_bytes / 1e9:.1f} GB free"
    do = f"make room or a larger volume; du -xh --max-depth 2 {folder} shows what is large"
    if share < OUT or room.free_bytes < LEAST_BYTES:
        return [problem(TOPIC, what, follows, do)]
    if share < LOW:
        return [warning(TOPIC, what, follows, do)]
    if room.inodes and room.free_inodes / room.inodes < LOW:
        left = f"{place} ({folder}): {room.free_inodes:,} of {room.inodes:,} inodes are left"
        return [warning(TOPIC, left, "no file can be made when they are used up", "remove what has many small files")]
    return [fine(TOPIC, what)]


def _safe_writes(patient: Patient) -> list[Finding]:
    """Only where something of ours must be safe on this machine's disk."""
    folder = patient.settings.data_dir if patient.embedded else patient.attachments_folder
    if folder is None or not folder.is_dir():
        return []
    try:
        took = measure(folder)
    except OSError as error:
        return [
            problem(
                TOPIC,
                f"a small file in {folder} could not be written: {error.strerror}",
                FULL,
                f"ls -ld {folder}; df {folder}",
            )
        ]
    return judge_writes(folder, took)


def measure(folder: Path) -> list[float]:
    """Milliseconds of each of a few writes with fsync, in a file without a name."""
    took = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(WRITES):
            began = time.perf_counter()
            file.write(bytes(BYTES))
            file.flush()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - began) * 1_000)
    return took


def judge_writes(folder: Path, took_ms: list[float]) -> list[Finding]:
    middle, worst = statistics.median(took_ms), max(took_ms)
    took = f"median {middle:.2f} ms, worst {worst:.1f} ms"
    what = f"{len(took_ms)} writes of {BYTES // 1024} kB with fsync in {folder}: {took}"
    if middle > SLOW_MS:
        follows = f"a commit takes at least as long: some {1_000 / middle:.0f} a second for each writer"
        return [warning(TOPIC, what, follows, "a disk with a write cache that survives power loss")]
    if middle < QUICKEST_MS:
        return [note(TOPIC, what, "too quick to be a disk's: it may not be safe there")]
    return [fine(TOPIC, what)]
