"""The ports we listen on: free, ours already (answering or not), or somebody else's."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app.core.apart import apart
from app.core.errors import in_a_line
from app.doctor.finding import Finding, fine, problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.doctor.patient import Patient

TOPIC: Final = "ports"
ANSWER_S: Final = 2.0
ASK: Final = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
OURS: Final = (b'"alive"', b'"blocked"')
MOST: Final = 4_096
TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
COMMANDS: Final = ("gaveurs", "app.cli", "app.main:app")
LISTENING: Final = "0A"


async def check_ports(patient: Patient) -> list[Finding]:
    settings = patient.settings
    found = [await _look("127.0.0.1", patient.port, "the port")]
    if settings.metrics_port:
        host = settings.metrics_host if settings.metrics_host != "0.0.0.0" else "127.0.0.1"  # noqa: S104 - compared
        found.append(await _look(host, settings.metrics_port, "METRICS_PORT"))
    return found


async def _look(host: str, port: int, name: str) -> Finding:
    where = f"{name} {host}:{port}"
    try:
        said = await _answer(host, port)
    except ConnectionRefusedError:
        return fine(TOPIC, f"{where}: nobody listens there now")
    except OSError as error:
        do = f"correct {name}, or its address"
        return problem(TOPIC, f"{where} cannot be asked: {in_a_line(error)}", "it may be no address of ours", do)
    if any(word in said for word in OURS):
        return fine(TOPIC, f"{where}: this service runs there")
    if not said and (ours := await apart(lambda: our_listener(port))) is not None:
        follows = "it hangs or is stopped: devices and probes wait in vain, and nothing is acknowledged"
        do = f"grep State /proc/{ours}/status; kill -CONT {ours} if it is stopped, else end it: it is started anew"
        return problem(TOPIC, f"{where}: this service (process {ours}) does not answer", follows, do)
    do = f"ss -ltnp 'sport = :{port}' says who it is; take another port"
    return problem(TOPIC, f"{where}: somebody else listens there", "the service cannot listen there", do)


async def _answer(host: str, port: int) -> bytes:
    """Empty where a connection is not taken (the queue for it is full), or nothing comes. OSError where none is."""
    said = b""
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return said
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(ANSWER_S):
            writer.write(ASK)
            said = await reader.read(MOST)
            while len(said) < MOST and (more := await reader.read(MOST)):
                said += more
    writer.close()
    return said


def our_listener(port: int) -> int | None:
    """The process of this program that has the socket; None where the kernel does not tell us, or it is another's."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            words = (process / "cmdline").read_text(errors="replace").split("\0")
            if any(Path(word).name in COMMANDS for word in words) and _holds(process, sockets):
                return int(process.name)
    return None


def _holds(process: Path, sockets: set[str]) -> bool:
    return any(str(one.readlink()) in sockets for one in (process / "fd").iterdir())


def _listening(port: int) -> Iterator[str]:
    """Inodes of sockets that listen on the port, on whatever address."""
    for table in (table for table in TABLES if table.exists()):
        for line in table.read_text().splitlines()[1:]:
            # 0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 12345 ...
            _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
            if state == LISTENING and int(local.rpartition(":")[2], 16) == port:
                yield inode
