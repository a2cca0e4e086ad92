"""pg_dump's custom format of one snapshot, and its way back into an empty database of any version since 14."""

from __future__ import annotations

import asyncio
import hashlib
import re
from asyncio.subprocess import PIPE
from typing import TYPE_CHECKING, Final

from app.backup.connection import connected, database_of
from app.backup.processes import chunks, copy_hashed, output_of, run, running
from app.backup.programs import environment

if TYPE_CHECKING:
    from asyncio import StreamWriter
    from collections.abc import AsyncIterator, Collection
    from pathlib import Path

    from app.backup.programs import Programs

FORGETS_TRANSACTION_TIMEOUT: Final = 17  # this and later versions set it, which earlier servers do not know
TRANSACTION_TIMEOUT: Final = b"SET transaction_timeout = 0;\n"
HEAD: Final = 8_192  # what pg_restore sets stands before the first object
OPTIONS: Final = (
    "--format=custom", "--compress=3", "--no-password", "--lock-wait-timeout=60000",
    "--no-publications", "--no-subscriptions", "--exclude-schema=_timescaledb_*", "--exclude-schema=timescaledb_*",
)  # fmt: skip
_EXTENSION: Final = re.compile(r"\d+; \d+ \d+ EXTENSION - (\S+)")
# The target's own, by whoever may: its extensions' comments, its schema public.
_LEFT_TO_TARGET: Final = re.compile(r"\d+; \d+ \d+ (COMMENT - EXTENSION|SCHEMA - public|COMMENT - SCHEMA public)\b")


async def dump(dsn: str, programs: Programs, snapshot: str, target: Path) -> tuple[int, str]:
    """(bytes, SHA-256). Through a pipe: when we die, so does it."""
    command = [programs.path("pg_dump"), *OPTIONS, f"--snapshot={snapshot}"]
    digest = hashlib.sha256()
    async with running(command, environment(dsn), stdout=PIPE) as process:
        size = await copy_hashed(process.stdout, target, digest)
    return size, digest.hexdigest()


def contents_for(listing: str, available: Collection[str]) -> tuple[str, list[str]]:
    """(what of pg_restore's list fits a server with these extensions, the extensions that it lacks)"""
    lines = [line for line in listing.splitlines() if not _LEFT_TO_TARGET.match(line)]
    lacking = [found[1] for line in lines if (found := _EXTENSION.match(line)) and found[1] not in available]
    kept = [line for line in lines if not ((found := _EXTENSION.match(line)) and found[1] in lacking)]
    return "\n".join(kept) + "\n", lacking


async def load(archive: Path, dsn: str, programs: Programs, jobs: int) -> list[str]:
    """Fill the empty database at `dsn`; returns the extensions that the server lacks. BackupError leaves a part of it:
    the database is the caller's to throw away.
    """
    async with connected(dsn) as connection:
        available = {row[0] for row in await connection.fetch("SELECT name FROM pg_available_extensions")}
        major = connection.get_server_version().major
    listing = await output_of([programs.path("pg_restore"), "--list", str(archive)], environment(dsn))
    contents, lacking = contents_for(listing, available)
    chosen = archive.with_name(f"{archive.name}.list")
    await asyncio.to_thread(chosen.write_text, contents)
    command = [programs.path("pg_restore"), "--no-owner", "--no-acl", f"--use-list={chosen}"]
    if programs.major >= FORGETS_TRANSACTION_TIMEOUT > major:
        await _through_psql([*command, "--file=-", str(archive)], programs.path("psql"), dsn)
    else:
        connect = ["--no-password", "--exit-on-error", f"--jobs={jobs}", f"--dbname={database_of(dsn)}"]
        await run([*command, *connect, str(archive)], environment(dsn))
    return lacking


async def _through_psql(command: list[str], psql: str, dsn: str) -> None:
    """As a script, without the one setting that an older server refuses."""
    reads = [psql, "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--output=/dev/null"]
    async with running(reads, environment(dsn), stdin=PIPE) as target:
        assert target.stdin is not None
        async with running(command, environment(dsn), stdout=PIPE) as source:
            await _copy(without_transaction_timeout(chunks(source.stdout)), target.stdin)
        target.stdin.close()


async def without_transaction_timeout(script: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same script but for that line in its head."""
    head, begun = b"", False
    async for chunk in script:
        head += chunk
        if begun or len(head) >= HEAD:
            yield head if begun else head.replace(TRANSACTION_TIMEOUT, b"", 1)
            head, begun = b"", True
    if head:
        yield head.replace(TRANSACTION_TIMEOUT, b"", 1)


async def _copy(source: AsyncIterator[bytes], target: StreamWriter) -> None:
    async for chunk in source:
        target.write(chunk)
        await target.drain()
