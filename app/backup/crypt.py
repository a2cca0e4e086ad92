"""age encryption: for public keys, so that whoever makes backups cannot read them."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Final

import pyrage

from app.backup.errors import BackupError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SUFFIX: Final = ".age"
_SECRET: Final = "AGE-SECRET-KEY-"  # noqa: S105 - how such a line begins
CHUNK: Final = 1024 * 1024


def recipients_of(keys: Sequence[str]) -> list[pyrage.x25519.Recipient]:
    try:
        return [pyrage.x25519.Recipient.from_str(key) for key in keys]
    except pyrage.RecipientError as error:
        raise BackupError(f"BACKUP_AGE_RECIPIENTS: not a public key of age (age1...): {error}") from error


def fingerprint(keys: Sequence[str]) -> str:
    """Of a set of recipients: what is encrypted for others is another file."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:12]


def read_identities(path: Path) -> list[pyrage.x25519.Identity]:
    """The secret keys in a file of age-keygen's. BackupError names the file, never what is in it."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
        found = [pyrage.x25519.Identity.from_str(line) for line in lines if line.startswith(_SECRET)]
    except (OSError, UnicodeDecodeError, pyrage.IdentityError) as error:
        raise BackupError(f"{path} cannot be used as an identity: {type(error).__name__}") from error
    if not found:
        raise BackupError(f"{path} holds no secret key of age (AGE-SECRET-KEY-1...)")
    return found


async def encrypt(source: Path, target: Path, keys: Sequence[str]) -> None:
    """Streams; as fast as the disk. BackupError where that refuses."""
    await asyncio.to_thread(_encrypt, source, target, keys)


def _encrypt(source: Path, target: Path, keys: Sequence[str]) -> None:
    try:
        with source.open("rb") as plain, target.open("xb") as sealed:
            target.chmod(0o600)
            pyrage.encrypt_io(plain, sealed, recipients_of(keys))
    except (pyrage.EncryptError, OSError) as error:
        raise BackupError(f"{source.name} cannot be encrypted to {target}: {error}") from error


async def decrypt(source: Path, target: Path, identities: Sequence[pyrage.x25519.Identity]) -> None:
    await asyncio.to_thread(_decrypt, source, target, identities)


def _decrypt(source: Path, target: Path, identities: Sequence[pyrage.x25519.Identity]) -> None:
    with source.open("rb") as sealed, target.open("xb") as plain:
        target.chmod(0o600)
        try:
            pyrage.decrypt_io(sealed, plain, identities)
        except pyrage.DecryptError as error:
            raise BackupError(f"{source.name} cannot be decrypted with this identity: {error}") from error
        except OSError as error:
            if error.errno is not None:
                raise  # the disk's
            raise BackupError(f"{source.name} is damaged: {error}") from error


async def sha256_of(path: Path) -> str:
    return await asyncio.to_thread(_sha256, path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
