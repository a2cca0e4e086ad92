"""What tests of backups share: the commands as processes, and a server with something to lose."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx

from app.core.embedded_postgres import EmbeddedPostgres
from tests import prepared
from tests.bug_client import Caller, make_key
from tests.support import Server, data_folder, device, trimmed

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 180.0
CONTENTS = {"log.txt": b"temperature 81 C\n" * 1_000, "frame.bin": bytes(range(256)) * 300}
BEFORE = [trimmed(sample_id=f"BEFORE-{number:03}") for number in range(40)]
AFTER = [trimmed(sample_id=f"AFTER-{number:03}") for number in range(5)]


def gaveurs(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", *map(str, arguments)]
    return subprocess.run(
        command,
        env=clean(env),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def clean(env: dict[str, str]) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name != "DATABASE_URL" and not name.startswith("BACKUP")
    }
    return kept | env


def well(*arguments: object, **env: str) -> str:
    done = gaveurs(*arguments, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*arguments: object, **env: str) -> str:
    """What the one line says."""
    done = gaveurs(*arguments, **env)
    assert done.returncode in (1, 2), done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr


def names(place: Path) -> list[str]:
    return sorted(path.parent.name for path in place.glob("*/manifest.json"))


async def send(server: Server, messages: list[dict[str, Any]]) -> list[str]:
    async with device(server) as client:
        return [(await client.ask(one))["status"] for one in messages]


async def ask(server: Server, question: str) -> list[asyncpg.Record]:
    return await ask_dsn(EmbeddedPostgres(server.folder).dsn, question)


async def ask_dsn(dsn: str, question: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(question)
    finally:
        await connection.close()


def originals(server: Server) -> dict[str, bytes]:
    found = {}
    for sample in server.all_samples():
        status, body, _ = server.request(f"/api/sqal/samples/{sample['device_id']}/{sample['sample_id']}/message")
        assert status == 200
        found[sample["sample_id"]] = body
    return found


class Plant:
    """A server with samples, a bug with attachments and a key; and a place for its backups."""

    def __init__(self, folder: Path) -> None:
        self.place = folder.parent / f"{folder.name}-place"
        self.server = Server(folder)
        prepared.copy_into(folder)

    def fill(self) -> None:
        self.server.start()
        assert asyncio.run(send(self.server, BEFORE)) == ["saved"] * len(BEFORE)
        self.staff = Caller(self.server)
        self.bug = self.staff.report()
        for name, content in CONTENTS.items():
            url = f"{self.server.url}/api/bugs/{self.bug}/attachments"
            assert httpx.post(url, files={"file": (name, content)}, timeout=20).status_code == 201
        self.key = make_key(self.server, "viewer")

    def backup(self, *arguments: object, **env: str) -> str:
        return well("backup", "--to", self.place, "--data-dir", self.server.folder, *arguments, **env)

    def told(self) -> dict[str, Any]:
        """The bug, without what time alone changes."""
        bug: dict[str, Any] = self.staff.get(f"/api/bugs/{self.bug}")
        return {name: value for name, value in bug.items() if name != "sla"}

    def attachments(self) -> dict[str, str]:
        """SHA-256 of what is served, by file name."""
        listed = self.staff.get(f"/api/bugs/{self.bug}/attachments")["attachments"]
        served = {one["fileName"]: self.server.request(one["url"])[1] for one in listed}
        return {name: hashlib.sha256(body).hexdigest() for name, body in served.items()}

    def destroy(self) -> None:
        shutil.rmtree(self.server.folder)
        self.server.folder.mkdir()


@contextmanager
def running_plant() -> Iterator[Plant]:
    with data_folder() as folder:
        made = Plant(folder)
        try:
            made.fill()
            yield made
        finally:
            made.server.clean_up()
            shutil.rmtree(made.place, ignore_errors=True)
