"""What a backup or a restore says when it cannot go on."""

from __future__ import annotations


class BackupError(Exception):
    """One clear line for a person; holds no secret."""


class NotProvenError(BackupError):
    """What came out of the backup is not what went in."""


class ContentLostError(BackupError):
    """A file of a backup is not there, or is not what was stored. No other one is concerned."""


class BusyError(BackupError):
    """Another backup or restore is at the same thing."""


def refused_by_system(error: OSError, otherwise: object) -> str:
    """Which file, or else `otherwise`, and why: for a person."""
    return f"{error.filename or otherwise}: {error.strerror or type(error).__name__}"
