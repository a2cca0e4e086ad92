"""Long outages under load: what `make soak` runs. Figures are printed; what must hold is asserted."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
from websockets.asyncio.client import connect

from app.core.embedded_postgres import EmbeddedPostgres
from tests.journal_check import assert_kept, kill_round, load, stopped
from tests.support import Server, data_folder, running_server, wait_for_database

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 10
CONNECTED = 1_000


async def test_ten_rounds_of_killing_server_and_database_under_load() -> None:
    dice = random.Random()
    with running_server() as server:
        async with load(server, devices=20, rate=20, duration_s=45) as journal:
            for number in range(ROUNDS):
                blow = await kill_round(server, journal, dice)
                print(f"\nround {number + 1}: killed {blow.whom}, {blow.in_flight} samples in flight", end="")
                assert blow.in_flight > 0, "a round without anything in flight shows nothing"
        print(f"\n{journal.summary()}")
        assert journal.unacknowledged == 0
        assert_kept(server, journal)


def simulate(server: Server, *, duration: int = 60, journal: Path | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "app.cli", "simulate", "--url", server.ws_url, "--devices", "50", "--rate", "5"]
    command += ["--duration", str(duration), "--journal", str(journal)] if journal else ["--duration", str(duration)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def outcome(process: subprocess.Popen[str]) -> dict[str, float]:
    printed, _ = await asyncio.to_thread(process.communicate)
    print("\n" + printed)
    assert process.returncode == 0
    return {name: float(value) for name, value in (line.split(": ") for line in printed.splitlines())}


def lines(journal: Path) -> set[tuple[str, str]]:
    return {(ack["device_id"], ack["timestamp"]) for ack in map(json.loads, journal.read_text().splitlines())}


def assert_journal(server: Server, journal: Path, figures: dict[str, float]) -> None:
    stored = {(item["device_id"], item["device_time"].rstrip("Z")) for item in server.all_samples()}
    acked = {(device, moment.rstrip("Z")) for device, moment in lines(journal)}
    assert len(stored) == len(acked) == figures["acked"] == figures["sent"]
    assert figures["unacknowledged"] == figures["refused"] == figures["dropped"] == 0


async def test_fifty_devices_for_a_minute() -> None:
    with running_server() as server, data_folder() as folder:
        figures = await outcome(simulate(server, journal=folder / "acks"))
        assert_journal(server, folder / "acks", figures)


async def test_fifty_devices_while_the_database_stalls_for_twenty_seconds() -> None:
    with running_server() as server, data_folder() as folder:
        process = simulate(server, journal=folder / "acks")
        await asyncio.sleep(20)
        with stopped(server, signal.SIGSTOP, signal.SIGCONT):
            await asyncio.sleep(20)
        figures = await outcome(process)
        assert figures["reconnections"] == 0
        assert_journal(server, folder / "acks", figures)


async def test_fifty_devices_while_an_external_database_is_shut_down_and_started() -> None:
    with data_folder() as folder, data_folder() as external:
        database = EmbeddedPostgres(external)
        database.prepare()
        await database.start()
        await wait_for_database(database.dsn)
        server = Server(folder, DATABASE_URL=database.dsn)
        try:
            server.start()
            process = simulate(server, journal=folder / "acks")
            await asyncio.sleep(20)
            await database.stop()
            await asyncio.sleep(10)
            database.prepare()
            await database.start()
            figures = await outcome(process)
            assert_journal(server, folder / "acks", figures)
        finally:
            server.clean_up()
            await database.stop()


async def test_a_thousand_connected_devices_cost_bounded_memory() -> None:
    with running_server(WS_CONNECTIONS_PER_CLIENT=str(CONNECTED)) as server:
        process = psutil.Process(server.running.pid)
        before = process.memory_info().rss
        sockets = [await connect(server.ws_url, compression=None, ping_interval=None) for _ in range(CONNECTED)]
        for socket in sockets:
            await socket.recv()
        each = (process.memory_info().rss - before) / CONNECTED
        print(f"\n{each / 1024:.0f} KiB a connected device")
        assert each < 100 * 1024
        await asyncio.gather(*(socket.close() for socket in sockets))
