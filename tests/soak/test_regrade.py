"""A hundred thousand stored samples graded again: the same bits, in any company and alone."""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from app.core.clock import iso
from app.sqal.recipe_book import recipe_book
from app.sqal.recipes import DeviceProfile, register_recipes
from app.sqal.regrade import regrade
from app.sqal.simulator.messages import MessageMaker
from benchmarks.load import trimmed
from tests.integration.conftest import Bench

SAMPLES = 100_000
LIVERS = 4_000
ALONE = 1_000
GRADED = (
    "grade, score, tof_score, spectral_score, freshness, fat_quality, oxidation, color_uniformity, derived_volume_mm3"
)


async def test_a_hundred_thousand_samples_keep_every_bit(dsn: str) -> None:
    chance = random.Random(41)
    bench = Bench(await asyncpg.connect(dsn, server_settings={"timezone": "UTC", "jit": "off"}))
    await bench.store.register_recipes(bench.connection)
    await bench.housekeeper.keep(bench.connection)
    await bench.connection.execute(
        "INSERT INTO devices (device_id, recipe) SELECT 'ESP32_LL_0' || n, 'sqal-1' FROM generate_series(0, 3) n"
    )
    now = datetime.now(UTC)
    livers = [
        trimmed(MessageMaker(f"ESP32_LL_0{number % 4}", "LL", number, 19).sample(now)) for number in range(LIVERS)
    ]
    written = 0
    while written < SAMPLES:  # in groups of any size
        group = [
            varied(chance, livers, number, now)
            for number in range(written, min(written + chance.randint(1, 700), SAMPLES))
        ]
        verdicts = await bench.write(*group)
        assert {verdict.status for verdict in verdicts} == {"saved"}
        written += len(group)
    recipe = recipe_book("sqal-1")["sqal-1"]
    numbers = await register_recipes(bench.connection, [recipe])
    began = time.perf_counter()
    span = (now - timedelta(days=3), now + timedelta(days=1))
    shift = await regrade(bench.connection, recipe, numbers["sqal-1"], *span, dry_run=True)
    print(f"regraded {shift.samples:,} in {time.perf_counter() - began:.1f} s, {shift.changed} changed")
    assert (shift.samples, shift.changed) == (SAMPLES, 0)
    assert len(shift.grades) > 3
    rows = await bench.connection.fetch(
        f"SELECT frame, profile, {GRADED} FROM samples TABLESAMPLE SYSTEM (5) ORDER BY random() LIMIT {ALONE}"
    )
    assert len(rows) == ALONE
    for row in rows:
        (g,) = recipe.grade([row["frame"]], [DeviceProfile(profile=row["profile"])])
        alone = (g.grade, g.score, g.tof, g.spectral, g.freshness, g.fat_quality, g.oxidation, g.color_uniformity)
        assert (*alone, g.volume_mm3) == tuple(row)[2:]
    await bench.connection.close()


def varied(chance: random.Random, livers: list[dict[str, Any]], number: int, now: datetime) -> dict[str, Any]:
    """Another reading of one of the livers: noise on a row of its distances, now and then a lost zone."""
    message: dict[str, Any] = json.loads(json.dumps(livers[number % LIVERS]))
    matrix = message["vl53l8ch"]["distance_matrix"]
    for row in chance.sample(matrix, 3):
        row[:] = [max(1, value + chance.randint(-6, 6)) for value in row]
    if chance.random() < 0.1:
        message["vl53l8ch"]["status_matrix"][chance.randrange(8)][chance.randrange(8)] = 255
    message |= {"sample_id": f"s{number}", "timestamp": iso(now - timedelta(seconds=number))}
    return message
