"""What protecting and measuring costs ingest, and what the cache keeps from the database.

Alone: `python -m benchmarks.ingest [--seconds N]`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks import harness
from benchmarks.load import Load
from tests.redis_server import running_redis

PAIRS = 10
WARM_UP_S = 1.0
MESSAGES = {"2.2 kB": "compact", "16 kB": "fleet"}
PAGES = 4
READING_S = 30.0
DEVICE = "ESP32_DEMO_LL_01"
POLLS = {
    "/api/sqal/latest": 1.0,
    "/api/sqal/dashboard": 5.0,
    "/api/sqal/aggregates/hourly": 5.0,
    f"/api/sqal/devices/{DEVICE}/stats": 5.0,
}


Running = tuple[int, psutil.Process]

# Ingest


def load_once(running: Running, message: str, seconds: float) -> tuple[float, float]:
    """Samples a second, and microseconds of the server's CPU a sample."""
    port, process = running
    load = Load(port=port, kind=message, seconds=seconds, window=128, warm_up=WARM_UP_S)
    before = harness.cpu_seconds(process)
    outcome = harness.apply(load)
    spent = harness.cpu_seconds(process) - before
    assert not outcome["errors"], "a load was answered with errors"
    return outcome["per_second"], spent / max(outcome["per_second"] * (seconds + load.warm_up), 1) * 1e6


def throughput(dsn: str, folder: Path, seconds: float) -> None:
    """With and without, both running, loaded in turn: a pair meets the same moment of the machine, so that its ratio is
    what counts.
    """
    taken: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with (
        running_redis(maxmemory="64mb") as redis,
        harness.server("ours", dsn, folder, REDIS_HOST=redis.host, REDIS_PORT=str(redis.port)) as ours,
        harness.server("bare", dsn, folder) as bare,
    ):
        servers = {"with": ours, "without": bare}
        for number, (size, message) in itertools.product(range(PAIRS), MESSAGES.items()):
            for name in list(servers) if number % 2 else reversed(servers):
                taken.setdefault((size, name), []).append(load_once(servers[name], message, seconds))
    print("\n| ingest | samples/s (median, min-max) | server CPU us a sample (median, least) |\n|---|---|---|")
    for (size, name), loads in taken.items():
        rates, cpus = zip(*loads, strict=True)
        typical = f"{statistics.median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})"
        print(f"| {size}, {name} | {typical} | {statistics.median(cpus):,.0f}, {min(cpus):,.0f} |")
    print("\n| with / without | rate, pair by pair (median, min-max) | CPU a sample, pair by pair | least CPU |")
    print("|---|---|---|---|")
    for size in MESSAGES:
        pairs = list(zip(taken[size, "with"], taken[size, "without"], strict=True))
        ratios = [with_[0] / without[0] for with_, without in pairs]
        cpu = statistics.median(with_[1] / without[1] for with_, without in pairs)
        least = min(with_[1] for with_, _ in pairs) / min(without[1] for _, without in pairs)
        typical = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
        print(f"| {size} | {typical} | {cpu:.3f} | {least:.3f} |")
    print("\nwhat else runs on the machine can only add to a sample's CPU: the least is the firmest figure")


# Hit rate


@contextmanager
def devices(port: int) -> Iterator[None]:
    """Three simulated devices, a sample a second each, on the other core."""
    command = [sys.executable, "-m", "app.cli", "simulate", "--url", f"ws://127.0.0.1:{port}", "--duration", "600"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {harness.OTHER_CORE}),
    )
    try:
        yield
    finally:
        process.kill()
        process.wait(10)


def fetch(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        body: bytes = answer.read()
    return body


async def poll(port: int, path: str, every_s: float, begin_after_s: float) -> int:
    """How often it was read."""
    await asyncio.sleep(begin_after_s)
    reads, end = 0, time.monotonic() + READING_S - begin_after_s
    while time.monotonic() < end:
        due = time.monotonic() + every_s
        await asyncio.to_thread(fetch, port, path)
        reads += 1
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    return reads


async def read_pages(port: int) -> int:
    """Pages that were opened at some time or other: their polls do not fall together."""
    moments = random.Random(1)
    polls = [
        poll(port, path, every_s, moments.uniform(0, every_s)) for _ in range(PAGES) for path, every_s in POLLS.items()
    ]
    return sum(await asyncio.gather(*polls))


def figures(port: int) -> dict[str, float]:
    """Hits, misses, loads of the cache, and SELECTs that the database answered."""
    text = fetch(port, "/metrics").decode()

    def total(pattern: str) -> float:
        return sum(float(value) for value in re.findall(rf"^{pattern} (\S+)$", text, re.MULTILINE))

    return {
        "hits": total(r"cache_hits_total\{.*\}"),
        "misses": total(r"cache_misses_total\{.*\}"),
        "loads": total(r"cache_loads_total\{.*\}"),
        "selects": total(r'db_query_duration_seconds_count\{query_type="select"\}'),
    }


def difference(port: int, before: dict[str, float]) -> dict[str, float]:
    return {name: value - before[name] for name, value in figures(port).items()}


def hit_rate(dsn: str, folder: Path) -> None:
    """Three devices at a sample a second, four pages that poll."""
    with harness.server("ours", dsn, folder) as (port, _), devices(port):
        deadline = time.monotonic() + 30
        while b'"device_id"' not in latest_or_nothing(port) and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(5)
        before, began = figures(port), time.monotonic()
        time.sleep(READING_S / 3)
        idle = difference(port, before)["selects"] / (time.monotonic() - began)
        before, began = figures(port), time.monotonic()
        reads = asyncio.run(read_pages(port))
        got, took_s = difference(port, before), time.monotonic() - began
    own = max(0.0, got["selects"] - idle * took_s)
    print(f"\n| {PAGES} pages, {len(POLLS)} polls each, {took_s:.0f} s, 3 devices at 1/s | |\n|---|---|")
    print(f"| reads | {reads} |")
    print(f"| hits | {got['hits'] / (got['hits'] + got['misses']):.1%} |")
    print(f"| loads from the database (without a cache: {reads}) | {got['loads']:.0f}, {got['loads'] / reads:.1%} |")
    print(f"| SELECTs for them, beside {idle:.1f}/s that run without readers | {own:.0f} |")


def latest_or_nothing(port: int) -> bytes:
    try:
        return fetch(port, f"/api/sqal/latest?device_id={DEVICE}")
    except OSError:
        return b""


async def _with_database(folder: Path, seconds: float) -> None:
    async with harness.database(folder / "db") as dsn:
        await asyncio.to_thread(hit_rate, dsn, folder)
        await asyncio.to_thread(throughput, dsn, folder, seconds)


def report(seconds: float) -> None:
    """Print the tables."""
    folder = Path(tempfile.mkdtemp(prefix="gaveurs-bench-", dir="/var/tmp"))
    folder.chmod(0o755)
    harness.say_limits()
    affinity = os.sched_getaffinity(0)
    try:
        asyncio.run(_with_database(folder, seconds))
    finally:
        os.sched_setaffinity(0, affinity)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3)
    report(parser.parse_args().seconds)
