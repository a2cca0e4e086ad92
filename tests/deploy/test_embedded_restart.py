"""The embedded PostgreSQL after its end: it comes up again at the same address, and its last words are told."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import psutil
import pytest
from structlog.testing import capture_logs

from app.core.embedded_postgres import EmbeddedPostgres
from tests import prepared
from tests.support import data_folder


@pytest.mark.parametrize("name", ["data", "x" * 120], ids=["inside", "elsewhere"])
async def test_it_comes_up_again_though_its_folder_of_sockets_was_cleaned_away(name: str) -> None:
    with data_folder() as parent:
        parent.chmod(0o755)
        (parent / name).mkdir()
        prepared.copy_into(parent / name)
        embedded = EmbeddedPostgres(parent / name)
        embedded.prepare()
        await embedded.start()
        try:
            dsn, child = embedded.dsn, embedded._child
            await prepared.until_it_answers(dsn)
            watching = asyncio.create_task(embedded.watch())
            shutil.rmtree(Path(parse_qs(urlsplit(dsn).query)["host"][0]))
            assert child is not None
            child.kill()
            async with asyncio.timeout(60):
                await prepared.until_it_answers(dsn)
            watching.cancel()
            assert embedded.dsn == dsn
        finally:
            await embedded.stop()


async def test_why_it_could_not_serve_is_said_though_it_is_written_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the log collector, which goes on only when somebody looks whether all have ended."""
    monkeypatch.setattr("app.core.embedded_postgres.WORDS_DEADLINE_S", 60.0)
    stopped: list[psutil.Process] = []

    class Watched(EmbeddedPostgres):
        def _running(self) -> list[int]:
            for collector in stopped:
                collector.resume()
            return super()._running()

    with data_folder() as folder, capture_logs() as lines:
        prepared.copy_into(folder)
        embedded = Watched(folder)
        embedded.prepare()
        await embedded.start()
        try:
            await prepared.until_it_answers(embedded.dsn)
            assert embedded._child is not None
            (collector,) = (
                one for one in psutil.process_iter(["ppid", "cmdline"])
                if one.info["ppid"] == embedded._child.pid and "logger" in " ".join(one.info["cmdline"] or ())
            )  # fmt: skip
            collector.suspend()
            stopped.append(collector)
            with pytest.raises(asyncpg.InvalidCatalogNameError):
                await asyncpg.connect(embedded.dsn.replace("/postgres?", "/nowhere?"))
            watching = asyncio.create_task(embedded.watch())
            embedded._child.send_signal(signal.SIGINT)
            while not (ends := [line for line in lines if "exit_code" in line]):
                await asyncio.sleep(0.01)
            watching.cancel()
        finally:
            await embedded.stop()
    assert 'FATAL:  database "nowhere" does not exist' in ends[0]["said"]


async def test_why_it_could_not_serve_is_said() -> None:
    with data_folder() as folder, capture_logs() as lines:
        prepared.copy_into(folder)
        for segment in (folder / "postgres" / "pg_wal").glob("0*"):
            segment.write_bytes(b"")
        embedded = EmbeddedPostgres(folder)
        embedded.prepare()
        await embedded.start()
        watching = asyncio.create_task(embedded.watch())
        while not (ends := [line for line in lines if "exit_code" in line]):
            await asyncio.sleep(0.01)
        watching.cancel()
        await embedded.stop()
    assert "PANIC:  could not locate a valid checkpoint record" in ends[0]["said"]
