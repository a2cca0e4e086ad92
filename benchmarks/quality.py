"""`make bench-quality`: what grading, dashboards, regrading and figures cost; prints the tables of docs/benchmarks.md."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from app.core.migrations import migrate
from app.sqal import figures, rollups
from app.sqal.cursor import HourCursor
from app.sqal.dashboard import dashboard
from app.sqal.devices import StateLimits
from app.sqal.figures import Scope
from app.sqal.proving import random_frames
from app.sqal.recipe_book import recipe_book
from app.sqal.recipes import DeviceProfile, register_recipes
from app.sqal.regrade import regrade
from benchmarks import harness
from benchmarks.load import Load

ROUNDS = 3
DEVICES = 200
READS = 200


@contextmanager
def watching(port: int, count: int) -> Iterator[dict[str, int]]:
    """Dashboards beside the database; what they got, once it is over."""
    got: dict[str, int] = {}
    if not count:
        yield got
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.dashboards", str(port), str(count)],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {harness.OTHER_CORE}),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield got
    process.send_signal(signal.SIGTERM)
    got |= json.loads(process.stdout.readline())
    process.wait(10)


def ingest(dsn: str, folder: Path, seconds: float) -> None:
    """Compact messages with each recipe, and with dashboards; rounds in turn."""
    contenders: dict[str, tuple[dict[str, str], int]] = {
        "`sqal-1-reported`": ({}, 0),
        "`sqal-1-reported`, 100 dashboards (one never reads)": ({}, 100),
        "`sqal-1`": ({"DEFAULT_RECIPE": "sqal-1"}, 0),
        "`sqal-1`, groups of up to 512": ({"DEFAULT_RECIPE": "sqal-1", "INGEST_GROUP_ROWS": "512"}, 0),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    updates: dict[str, int] = {}
    for _ in range(ROUNDS):
        for name, (settings, dashboards) in contenders.items():
            with harness.server("ours", dsn, folder, **settings) as (port, process):
                with watching(port, dashboards) as got:
                    before = harness.cpu_seconds(process)
                    outcome = harness.apply(Load(port=port, kind="compact", seconds=seconds, window=128))
                    cpu = harness.cpu_seconds(process) - before
                rates[name].append(outcome["per_second"])
                spent[name].append(cpu / (outcome["per_second"] * (seconds + 2.0)) * 1e6)
                updates[name] = got.get("least", 0)
    print("\n| ingest of 2.2 kB messages | samples/s (median, min-max) | server CPU us a sample |\n|---|---|---|")
    for name, of in rates.items():
        cpu = statistics.median(spent[name])
        print(f"| {name} | {statistics.median(of):,.0f} ({min(of):,.0f}-{max(of):,.0f}) | {cpu:,.0f} |")
    alone, watched = (statistics.median(rates[name]) for name in list(contenders)[:2])
    cpu_alone, cpu_watched = (statistics.median(spent[name]) for name in list(contenders)[:2])
    print(
        f"\n100 dashboards cost {1 - watched / alone:.1%} of ingest ({cpu_watched / cpu_alone - 1:+.1%} CPU a sample);"
    )
    print(f"the slowest of those that read got {updates[list(contenders)[1]]} updates in a round.")


def grading() -> None:
    """What a frame costs in groups of 512, by what is on the liver."""
    book = recipe_book("sqal-1")
    print("\n| grading, groups of 512 | us a sample (least of 9) |\n|---|---|")
    clean, planted = random_frames(512, 11), random_frames(512, 12, 25.0)
    mixed = [*clean[:461], *planted[:51]]
    for name, frames in (
        ("clean livers", clean),
        ("one of ten with a body of 25 mm", mixed),
        ("all with one", planted),
    ):
        profiles = [DeviceProfile()] * len(frames)
        times = []
        for _ in range(9):
            began = time.perf_counter()
            book["sqal-1"].grade(frames, profiles)
            times.append((time.perf_counter() - began) / len(frames) * 1e6)
        print(f"| {name} | {min(times):,.0f} |")


async def regrading(dsn: str, connection: Any) -> None:
    """All that the ingest rounds stored, from one recipe to the other and back."""
    book = recipe_book("sqal-1")
    numbers = await register_recipes(connection, book)
    now = datetime.now(UTC)
    print("\n| regrade to | samples | samples/s |\n|---|---|---|")
    for name in ("sqal-1", "sqal-1-reported"):
        began = time.perf_counter()
        shift = await regrade(
            connection, book[name], numbers[name], now - timedelta(days=1), now + timedelta(hours=1), dry_run=False
        )
        took = time.perf_counter() - began
        print(f"| `{name}` ({shift.changed:,} changed) | {shift.samples:,} | {shift.samples / took:,.0f} |")


async def simulate_year(connection: Any) -> None:
    """A year of 200 devices: 1.75 million rows that stand for 10^8 samples."""
    fixed = {"samples": 57, "a_plus": 20, "a": 20, "b": 10, "c": 5, "reject": 1, "not_gradable": 1}

    def value(column: str) -> int:
        suffixes = {"_n": 40, "_sum": 40_000_000, "_squares": 30_000_000_000_000, "_min": 500_000, "_max": 900_000}
        return fixed.get(column) or next((number for end, number in suffixes.items() if column.endswith(end)), 0)

    values = ", ".join(str(value(column)) for column in rollups.COLUMNS if column not in rollups.KEYS)
    await connection.execute("TRUNCATE rollups")
    await connection.execute(
        "INSERT INTO rollups SELECT 'Y_' || (ARRAY['LL','LS','MT'])[1 + d % 3] || '_' || d, h,"
        " (ARRAY['LL','LS','MT'])[1 + d % 3], 'L' || (extract(epoch FROM h)::int8 / 14400) || '-' || d,"
        f" {values} FROM generate_series(1, {DEVICES}) d,"
        " generate_series(date_trunc('hour', now()) - interval '365 days', date_trunc('hour', now()), '1 hour') h"
        " ORDER BY h, d"
    )
    await connection.execute(
        "INSERT INTO devices (device_id, last_seen) SELECT DISTINCT device_id, now() FROM rollups ON CONFLICT DO NOTHING"
    )
    await connection.execute("VACUUM ANALYZE rollups")


async def reads(connection: Any) -> None:
    """Figures over a year of rollups."""
    await simulate_year(connection)
    samples = await connection.fetchval("SELECT sum(samples) FROM rollups")
    print(f"\n| read, over {samples:,} samples in rollups | p50 ms | p99 ms |\n|---|---|---|")
    now = datetime.now(UTC)
    year = Scope(site_code="LL", time_from=now - timedelta(days=365), time_to=now)
    hour = now.replace(minute=0, second=0, microsecond=0)
    limits = StateLimits(75, 300)
    cases: dict[str, Callable[[int], Awaitable[Any]]] = {
        "dashboard, all sites": lambda _: dashboard(connection, Scope(), limits, now),
        "dashboard, a site": lambda _: dashboard(connection, Scope(site_code="LL"), limits, now),
        "hourly, the newest 200": lambda _: figures.hourly(connection, Scope(), None, 200),
        "hourly, a page within a site's year": lambda number: figures.hourly(
            connection, year, HourCursor(hour - timedelta(hours=43 * number), "Y_LL_3"), 200
        ),
        "a device's stats, of all its time": lambda number: figures.device_stats(
            connection, Scope(device_id=f"Y_LL_{3 * (number % 60) + 3}")
        ),
        "a lot": lambda _: figures.totals(connection, Scope(lot=f"L{int(hour.timestamp()) // 14_400}-3")),
    }
    for name, read in cases.items():
        times = []
        for number in range(READS):
            began = time.perf_counter()
            await read(number)
            times.append((time.perf_counter() - began) * 1e3)
        times.sort()
        print(f"| {name} | {times[READS // 2]:.1f} | {times[int(READS * 0.99)]:.1f} |")


async def run(folder: Path, seconds: float) -> None:
    async with harness.database(folder / "database") as dsn:
        await migrate(dsn)
        grading()
        await asyncio.to_thread(ingest, dsn, folder, seconds)
        connection = await asyncpg.connect(dsn, server_settings={"timezone": "UTC", "jit": "off"})
        await regrading(dsn, connection)
        await reads(connection)
        await connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()
    harness.say_limits()
    folder = Path(tempfile.mkdtemp(prefix="gaveurs-bench-", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        asyncio.run(run(folder, arguments.seconds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
