"""`make bench`: everything in one run, side by side; prints the tables of docs/benchmarks.md.

--seconds N (a measurement), --memory N (seconds of the memory run, 0 leaves it out)
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from benchmarks import harness, stages
from benchmarks.load import Load

ROUNDS = 3
MIB = 1024 * 1024


def measure(kind: str, message: str, dsn: str, folder: Path, seconds: float, **options: Any) -> dict[str, float]:
    """Throughput of one server under one load, and the server's CPU time for a sample."""
    with harness.server(kind, dsn, folder) as (port, process):
        before = harness.cpu_seconds(process)
        outcome = harness.apply(Load(port=port, kind=message, seconds=seconds, **options))
        spent = harness.cpu_seconds(process) - before
    total = outcome["per_second"] * (seconds + options.get("warm_up", 2.0))
    return outcome | {"cpu_us": spent / max(total, 1) * 1e6}


def throughput(dsn: str, folder: Path, seconds: float) -> dict[str, float]:
    """Each contender in turn, several rounds, so that a slow minute of the machine meets all of them; medians."""
    contenders: dict[str, tuple[str, str, dict[str, Any]]] = {
        "ack only, 16 kB": ("ack_only", "fleet", {}),
        "baseline, 16 kB": ("baseline", "fleet", {}),
        "ours, 16 kB": ("ours", "fleet", {"window": 128}),
        "ours, 2.2 kB": ("ours", "compact", {"window": 128}),
        "ours, 2.2 kB, cumulative acks": ("ours", "compact", {"window": 128, "cumulative": True}),
    }
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, (kind, message, options) in contenders.items():
            rounds[name].append(measure(kind, message, dsn, folder, seconds, **options))
    print("\n| server, message | samples/s (median, min-max) | server CPU us a sample |\n|---|---|---|")
    medians = {}
    for name, outcomes in rounds.items():
        rates = [outcome["per_second"] for outcome in outcomes]
        medians[name] = statistics.median(rates)
        cpu = statistics.median(outcome["cpu_us"] for outcome in outcomes)
        print(f"| {name} | {medians[name]:,.0f} ({min(rates):,.0f}-{max(rates):,.0f}) | {cpu:,.0f} |")
        assert not any(outcome["errors"] for outcome in outcomes), "a load was answered with errors"
    ours = medians["ours, 16 kB"]
    print(f"\nours / baseline: {ours / medians['baseline, 16 kB']:.2f}")
    print(f"ours / ack only: {ours / medians['ack only, 16 kB']:.3f}")
    return medians


def disk_stalls(folder: Path, seconds: float) -> str:
    """What the disk alone allows: 64 kB appended and made durable, a hundred times a second, with nothing else running."""
    chunk, taken = os.urandom(64 * 1024), []
    with (folder / "disk").open("wb", buffering=0) as file:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begin = time.perf_counter()
            file.write(chunk)
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - begin) * 1e3)
            time.sleep(max(0.0, 0.01 - taken[-1] / 1e3))
    taken.sort()
    return (
        f"p50 {taken[len(taken) // 2]:.1f} ms, p99 {taken[len(taken) * 99 // 100]:.1f} ms, longest {taken[-1]:.0f} ms"
    )


def latency(dsn: str, folder: Path, seconds: float, full: float) -> None:
    """Acks at half of the full load, paced evenly over 8 connections; rounds, and the disk alone between them."""
    print(f"\nack latency at {full / 2:,.0f}/s of 16 kB:")
    for _ in range(ROUNDS):
        outcome = measure("ours", "fleet", dsn, folder, seconds, rate=full / 2)
        print(
            f"- p50 {outcome['p50_ms']:.1f} ms, p99 {outcome['p99_ms']:.1f} ms; the disk alone: {disk_stalls(folder, 4)}"
        )


async def bytes_a_sample(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetchval("SELECT count(*) FROM samples")
    size = await connection.fetchval(
        "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'samples'::regclass"
    )
    bodies = await connection.fetchval("SELECT sum(length(body))::float8 / sum(cardinality(ids)) FROM messages")
    await connection.close()
    print(f"\nhot bytes a sample (row and indexes, {rows:,} rows): {float(size) / rows:,.0f}; original: {bodies:,.0f}")


def memory(dsn: str, folder: Path, seconds: float) -> None:
    """Resident memory of the server at full load, minute by minute."""
    with harness.server("ours", dsn, folder) as (port, process):
        load = Load(port=port, kind="fleet", seconds=seconds, window=128)
        client = subprocess.Popen(harness.load_command(load), stdout=subprocess.DEVNULL)
        figures = [process.memory_info().rss / MIB]
        begin = time.monotonic()
        while client.poll() is None:
            time.sleep(max(seconds / 10, 1))
            figures.append(process.memory_info().rss / MIB)
        minutes = (time.monotonic() - begin) / 60
    print(f"\nresident MiB over {minutes:.1f} min of full load: " + ", ".join(f"{figure:.0f}" for figure in figures))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--memory", type=float, default=600)
    given = parser.parse_args()
    if len(psutil.Process().cpu_affinity() or []) < 2:
        sys.exit("bench: two cores are needed, one for the server and one for client and database")
    print(f"Python {platform.python_version()}, {platform.machine()}, 2 of {psutil.cpu_count()} cores")
    harness.say_limits()
    folder = Path(tempfile.mkdtemp(prefix="gaveurs-bench-", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        stages.report()
        asyncio.run(against_the_database(folder, given.seconds, given.memory))
    finally:
        shutil.rmtree(folder)


async def against_the_database(folder: Path, seconds: float, memory_seconds: float) -> None:
    async with harness.database(folder / "db") as dsn:
        medians = throughput(dsn, folder, seconds)
        await bytes_a_sample(dsn)
        latency(dsn, folder, seconds, medians["ours, 16 kB"])
        if memory_seconds:
            memory(dsn, folder, memory_seconds)


if __name__ == "__main__":
    main()
