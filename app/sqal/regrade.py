"""Grade stored frames again, by another recipe or another version of it: what the samples say, and their rollups."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from app.sqal import rollups
from app.sqal.flags import Flag
from app.sqal.recipes import DeviceProfile, Grading, claim_disagrees

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    import asyncpg

    from app.core.database import Connection
    from app.sqal.recipes import Recipe

CHUNK: Final = 4_096  # samples in memory at once, twice
_DISAGREES: Final = int(Flag.CLAIM_DISAGREES)
THREADS: Final = os.cpu_count() or 1  # array arithmetic does not hold the interpreter
# Hours that the range touches; the rollups know them all.
HOURS: Final = """
    SELECT device_id, bucket, sum(samples)::int8 AS samples FROM rollups
    WHERE bucket > $1::timestamptz - interval '1 hour' AND bucket < $2 GROUP BY 1, 2 ORDER BY 2, 1
"""
SAMPLES: Final = """
    SELECT hour.bucket, s.device_id, device_time, sample_id, frame, profile, grade, score, tof_score, spectral_score,
           freshness, fat_quality, oxidation, color_uniformity, derived_volume_mm3, recipe_id, flags,
           claimed_grade, claimed_compliant
    FROM unnest($1::text[], $2::timestamptz[]) AS hour (device_id, bucket)
    JOIN samples s ON s.device_id = hour.device_id AND bucket_time >= greatest(hour.bucket, $3::timestamptz)
      AND bucket_time < least(hour.bucket + interval '1 hour', $4::timestamptz)
"""
_GRADED: Final = {
    "grade": "text", "score": "int4", "tof_score": "int4", "spectral_score": "int4", "freshness": "int4",
    "fat_quality": "int4", "oxidation": "int4", "color_uniformity": "int4", "derived_volume_mm3": "int4",
    "recipe_id": "int2", "flags": "int4",
}  # fmt: skip
_IDENTITY: Final = {"device_id": "text", "device_time": "timestamptz", "sample_id": "text"}
_ARRAYS = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate((_IDENTITY | _GRADED).values(), 1))
UPDATE: Final = f"""
    UPDATE samples s SET {", ".join(f"{column} = n.{column}" for column in _GRADED)}
    FROM unnest({_ARRAYS}) AS n ({", ".join(_IDENTITY | _GRADED)})
    WHERE s.device_id = n.device_id AND s.device_time = n.device_time AND s.sample_id = n.sample_id
"""


Hour = tuple[str, "datetime"]
"""(device, the hour's beginning)"""


@dataclass(slots=True)
class Shift:
    """How many samples went from which grade to which, and how many change in anything at all."""

    grades: Counter[tuple[str, str]] = field(default_factory=Counter)
    changed: int = 0

    @property
    def samples(self) -> int:
        return self.grades.total()


async def regrade(
    connection: Connection,
    recipe: Recipe,
    recipe_id: int,
    time_from: datetime,
    time_to: datetime,
    *,
    dry_run: bool,
) -> Shift:
    """Grade every sample whose bucket time is in `time_from` (inclusive) .. `time_to` by `recipe`.

    Some devices' hours at a time, in a transaction with their rollups; what was done before an interruption stays done,
    and a second run changes nothing. Samples that come in meanwhile keep their own recipe.
    """
    work = _Regrading(connection, recipe, recipe_id, time_from, time_to, dry_run=dry_run)
    trusted = await connection.fetch("SELECT device_id FROM devices WHERE trust_defects")
    work.trusted = frozenset(record["device_id"] for record in trusted)
    shift = Shift()
    for hours in _together(await connection.fetch(HOURS, time_from, time_to)):
        some = await rollups.settled(connection, partial(work.hours, hours))
        shift.grades += some.grades
        shift.changed += some.changed
    return shift


def _together(records: Sequence[asyncpg.Record]) -> Iterator[list[Hour]]:
    """Hours of about `CHUNK` samples, in the order in which every writer takes hold of their rollups."""
    hours: list[Hour] = []
    samples = 0
    for record in records:
        hours.append((record["device_id"], record["bucket"]))
        samples += record["samples"]
        if samples >= CHUNK:
            yield sorted(hours)
            hours, samples = [], 0
    if hours:
        yield sorted(hours)


@dataclass(slots=True)
class _Regrading:
    """One run."""

    connection: Connection
    recipe: Recipe
    recipe_id: int
    time_from: datetime
    time_to: datetime
    _: KW_ONLY
    dry_run: bool
    trusted: frozenset[str] = frozenset()

    async def hours(self, hours: Sequence[Hour]) -> Shift:
        """Some hours, in the caller's transaction."""
        shift = Shift()
        changed: set[Hour] = set()
        columns = map(list, zip(*hours, strict=True))
        cursor = await self.connection.cursor(SAMPLES, *columns, self.time_from, self.time_to)
        chunk = await cursor.fetch(CHUNK)
        while chunk:
            # The database reads on while this process grades.
            changes, following = await asyncio.gather(self._grade(chunk, shift, changed), cursor.fetch(CHUNK))
            if changes and not self.dry_run:
                await self.connection.execute(UPDATE, *map(list, zip(*changes, strict=True)))
            chunk = following
        if not self.dry_run:
            for hour in sorted(changed):
                await rollups.make_anew(self.connection, *hour)
        return shift

    async def _grade(
        self, samples: Sequence[asyncpg.Record], shift: Shift, changed: set[Hour]
    ) -> list[tuple[Any, ...]]:
        """The new values of those samples that change; `changed` gets their hours."""
        frames = [sample["frame"] for sample in samples]
        profiles = [
            DeviceProfile(profile=sample["profile"], trust_defects=sample["device_id"] in self.trusted)
            for sample in samples
        ]
        part = -(-len(frames) // THREADS)
        parts = await asyncio.gather(
            *(
                asyncio.to_thread(self.recipe.grade, frames[at : at + part], profiles[at : at + part])
                for at in range(0, len(frames), part)
            )
        )
        changes = []
        for sample, grading in zip(samples, chain.from_iterable(parts), strict=True):
            shift.grades[sample["grade"], grading.grade] += 1
            values = _values(sample, grading, self.recipe_id)
            if values != tuple(sample[column] for column in _GRADED):
                shift.changed += 1
                changed.add((sample["device_id"], sample["bucket"]))
                changes.append((*(sample[column] for column in _IDENTITY), *values))
        return changes


def _values(sample: asyncpg.Record, g: Grading, recipe_id: int) -> tuple[Any, ...]:
    flags = sample["flags"] & ~_DISAGREES
    if claim_disagrees(sample["claimed_grade"], sample["claimed_compliant"], g.grade):
        flags |= _DISAGREES
    return (
        g.grade, g.score, g.tof, g.spectral, g.freshness, g.fat_quality, g.oxidation, g.color_uniformity,
        g.volume_mm3, recipe_id, flags,
    )  # fmt: skip
