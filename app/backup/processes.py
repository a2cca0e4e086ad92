"""Programs that are run: never outlive their use, and when they fail their last words are told."""

from __future__ import annotations

import asyncio
import os
import tempfile
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Final

from app.backup.errors import BackupError

if TYPE_CHECKING:
    from asyncio import StreamReader
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

CHUNK: Final = 1024 * 1024
END_S: Final = 30.0
LAST_WORDS: Final = 4_096


def last_words(said: IO[bytes]) -> str:
    """The first line of what went wrong: later ones are its consequences."""
    said.seek(max(0, said.seek(0, 2) - LAST_WORDS))
    lines = [line.strip() for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "it said nothing")


@asynccontextmanager
async def running(command: Sequence[str], environment: Mapping[str, str], **pipes: Any) -> AsyncIterator[Process]:
    """BackupError when it does not end well; on any other end of the body it is killed."""
    with tempfile.TemporaryFile() as said:
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stderr=said, **({"stdin": asyncio.subprocess.DEVNULL} | pipes)
        )
        broken: OSError | None = None
        try:
            try:
                yield process
            except (BrokenPipeError, ConnectionResetError) as error:
                if "stdin" not in pipes:
                    raise  # another one's pipe
                broken = error  # it reads no more: it has ended, and says why
            async with asyncio.timeout(END_S if "stdout" in pipes or "stdin" in pipes else None):
                code = await process.wait()
        except TimeoutError as error:
            raise BackupError(f"{command[0]} did not end when it should have") from error
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            if process.stdout is not None:
                while await process.stdout.read(CHUNK):
                    pass  # what was left in the pipe, which is open until it is read
            await process.wait()
        if code != 0 or broken:
            raise BackupError(f"{command[0].rpartition('/')[2]} failed: {last_words(said)}") from broken


async def run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    async with running(command, environment):
        pass


async def output_of(command: Sequence[str], environment: Mapping[str, str]) -> str:
    async with running(command, environment, stdout=PIPE) as process:
        return b"".join([chunk async for chunk in chunks(process.stdout)]).decode()


async def chunks(stream: StreamReader | None) -> AsyncIterator[bytes]:
    assert stream is not None
    while chunk := await stream.read(CHUNK):
        yield chunk


async def copy_hashed(stream: StreamReader | None, target: Path, digest: Any) -> int:
    """Bytes written to `target`, each of them seen by `digest`; for its owner alone."""
    size = 0
    with target.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        async for chunk in chunks(stream):
            digest.update(chunk)
            size += len(chunk)
            await asyncio.to_thread(file.write, chunk)
    return size
