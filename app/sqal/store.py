"""The commit group's SQL: all that one transaction writes, and the verdicts that follow from what it returned."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from app.sqal import originals, rollups
from app.sqal.alerts import DeviceAlerts
from app.sqal.flags import Flag
from app.sqal.intake import Verdict
from app.sqal.lots import add_species
from app.sqal.reading import Reading, is_plausible, resolve_site
from app.sqal.recipes import DeviceProfile, Grading, Recipe, claim_disagrees, register_recipes
from app.sqal.taken import accepted, identity_of, judge_taken

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from uuid import UUID

    from app.core.database import Connection
    from app.sqal.alerts import ReadingAlerts
    from app.sqal.codec import MessageCodec
    from app.sqal.intake import Work
    from app.sqal.originals import Block
    from app.sqal.quarantine import Quarantine
    from app.sqal.recipe_book import RecipeBook

SAMPLE_COLUMNS: Final = {
    "device_time": "timestamptz",
    "bucket_time": "timestamptz",
    "received_at": "timestamptz",
    "claimed_score": "float8",
    "id": "uuid",
    "score": "int4",
    "tof_score": "int4",
    "spectral_score": "int4",
    "freshness": "int4",
    "fat_quality": "int4",
    "oxidation": "int4",
    "color_uniformity": "int4",
    "volume_mm3": "float8",
    "derived_volume_mm3": "int4",
    "temperature_c": "float8",
    "humidity_percent": "float8",
    "message_group": "int8",
    "flags": "int4",
    "recipe_id": "int2",
    "claimed_compliant": "bool",
    "grade": "text",
    "claimed_grade": "text",
    "device_id": "text",
    "sample_id": "text",
    "site_code": "text",
    "lot": "text",
    "lot_id": "text",
    "farmer": "text",
    "origin": "text",
    "location": "text",
    "firmware_version": "text",
    "profile": "text",
    "content_hash": "bytea",
    "frame": "bytea",
}
_ARRAYS = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(SAMPLE_COLUMNS.values(), 1))
INSERT_SAMPLES: Final = f"""
    INSERT INTO samples ({", ".join(SAMPLE_COLUMNS)}) SELECT * FROM unnest({_ARRAYS})
    ON CONFLICT (device_id, device_time, sample_id) DO NOTHING RETURNING id
"""
# The two single-row selects are evaluated once: one number for the group.
SELECT_DEVICES: Final = f"""
    SELECT wanted.device_id, d.device_id IS NOT NULL AS known, d.site_code, d.profile, d.recipe, d.trust_defects,
           d.clock_offset_s,
           array(SELECT rule FROM alerts WHERE subject = wanted.device_id AND cleared_at IS NULL) AS open_rules,
           (SELECT max(segment)::int8 FROM message_segments) << {originals.NUMBER_BITS}
           | (SELECT nextval('message_groups')) AS message_group
    FROM unnest($1::text[]) AS wanted (device_id) LEFT JOIN devices d USING (device_id)
"""
INSERT_DEVICES: Final = """
    INSERT INTO devices (device_id, first_seen, last_seen, last_sample_at)
    SELECT device_id, $2, $2, $2 FROM unnest($1::text[]) AS new (device_id) ORDER BY device_id
    ON CONFLICT DO NOTHING
"""
_ID: Final = list(SAMPLE_COLUMNS).index("id")
HASH_BYTES: Final = 16
THREAD_BYTES: Final = 64 * 1024  # of originals: from here on hashing and compressing them is worth a thread


WriteRows = Callable[["Connection", list[tuple[object, ...]]], Awaitable["set[UUID] | None"]]
"""Writes rows of `samples`; None when all went in, else the ids of those that did."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a transaction committed: the verdicts in the group's order, the saved rows of `samples` (by column, and
    with the `recipe`'s name and the lot's `species`), the alerts that these opened or cleared.
    """

    verdicts: list[Verdict]
    samples: list[dict[str, Any]]
    alerts: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Group:
    """What one attempt at a group's transaction found."""

    verdicts: dict[UUID, Verdict]
    samples: list[dict[str, Any]]
    devices: dict[str, DeviceAlerts]


class SampleStore:
    """Writes commit groups. One instance serves all writers of the process."""

    def __init__(
        self,
        recipes: RecipeBook,
        codec: MessageCodec,
        quarantine: Quarantine,
        alerts: ReadingAlerts,
        *,
        retention: timedelta,
        sites: Sequence[str],
    ) -> None:
        self._recipes = recipes
        self._codec = codec
        self._quarantine = quarantine
        self._alerts = alerts
        self._retention = retention
        self._sites = frozenset(sites)
        self._recipe_ids: dict[str, int] = {}

    async def register_recipes(self, connection: Connection) -> None:
        """Learn the numbers under which the database knows the recipes; comes before the first `write`."""
        self._recipe_ids = await register_recipes(connection, self._recipes)

    async def write(self, connection: Connection, group: Sequence[Work], *, live: bool = True) -> Written:
        """Write `group` in one transaction. Only after this returns is anything committed. What is not `live` says
        nothing of now: it neither opens nor clears alerts.

        First by COPY, which is the cheapest for both sides but knows no ON CONFLICT; a group that meets an identity
        which is already taken (rare, but for a replay) is written again by an INSERT that can tell.
        """
        blocks = await self._seal([work for work in group if work.reading])
        try:
            async with connection.transaction():
                return await self._write_group(connection, group, self._copy_samples, blocks, live=live)
        except (asyncpg.UniqueViolationError, asyncpg.CheckViolationError):
            # The latter: a partition was made, and took its range, while a row waited for its place.
            async with connection.transaction():
                return await self._write_group(connection, group, self._insert_samples, blocks, live=live)

    async def _seal(self, works: list[Work]) -> list[Block]:
        """Hash the originals and pack them; where it takes long, in a thread, which has a core if there is one."""

        def seal() -> list[Block]:
            for work in works:
                work.content_hash = hashlib.sha256(work.raw).digest()[:HASH_BYTES]
            return originals.pack(self._codec, works)

        return await asyncio.to_thread(seal) if sum(work.size_bytes for work in works) >= THREAD_BYTES else seal()

    async def _write_group(
        self, connection: Connection, group: Sequence[Work], write_rows: WriteRows, blocks: list[Block], *, live: bool
    ) -> Written:
        works = [work for work in group if work.reading]
        done = await self._write_samples(connection, works, write_rows, blocks) if works else _Group({}, [], {})
        verdicts = done.verdicts | {
            work.id: Verdict("error", code=work.refusal.code, reason=work.refusal.reason)
            for work in group
            if work.refusal
        }
        refused = [(work, verdict) for work in group if (verdict := verdicts[work.id]).code and work.keep_refused]
        await self._quarantine.add(connection, refused)
        # Last what holds rows that other writers want, always in this order.
        alerts = await self._alerts.note(connection, done.samples, done.devices, live=live)
        await rollups.add(connection, rollups.summarise(done.samples))
        return Written([verdicts[work.id] for work in group], done.samples, alerts)

    async def _write_samples(
        self, connection: Connection, works: list[Work], write_rows: WriteRows, blocks: list[Block]
    ) -> _Group:
        known, message_group = await self._read_devices(connection, works)
        profiles = {device_id: profile for device_id, (profile, _) in known.items()}
        graded = await self._grade(works, profiles)
        # In the order of identities, so that two groups that share some wait for each other, never in a circle.
        ordered = sorted(zip(works, graded, strict=True), key=lambda pair: identity_of(pair[0].reading))
        rows = [self._row(work, recipe, grading, profiles, message_group) for work, (recipe, grading) in ordered]
        fresh = await write_rows(connection, rows)
        saved = [(work, grading) for work, (_, grading) in ordered if fresh is None or work.id in fresh]
        if message_group is not None:
            kept = blocks if len(saved) == len(works) else originals.pack(self._codec, [work for work, _ in saved])
            await originals.write(connection, message_group, kept)
        verdicts = {work.id: accepted("saved", grading.score, grading.grade) for work, grading in saved}
        if fresh is not None and len(saved) < len(ordered):
            taken = [work for work, _ in ordered if work.id not in fresh]
            verdicts |= await judge_taken(connection, self._codec, taken)
        samples = [
            dict(zip(SAMPLE_COLUMNS, row, strict=True), recipe=recipe.definition.name)
            for row, (_, (recipe, _)) in zip(rows, ordered, strict=True)
            if fresh is None or row[_ID] in fresh
        ]
        await add_species(connection, samples)
        return _Group(verdicts, samples, {device_id: alerts for device_id, (_, alerts) in known.items()})

    @staticmethod
    async def _copy_samples(connection: Connection, rows: list[tuple[object, ...]]) -> set[UUID] | None:
        """All rows or none: UniqueViolationError when an identity is taken."""
        await connection.copy_records_to_table("samples", records=rows, columns=list(SAMPLE_COLUMNS))
        return None

    @staticmethod
    async def _insert_samples(connection: Connection, rows: list[tuple[object, ...]]) -> set[UUID] | None:
        """The ids of those rows whose identity was free."""
        return {record[0] for record in await connection.fetch(INSERT_SAMPLES, *zip(*rows, strict=True))}

    async def _read_devices(
        self, connection: Connection, works: list[Work]
    ) -> tuple[dict[str, tuple[DeviceProfile, DeviceAlerts]], int | None]:
        """What is known of the devices (each unknown one gets its record now), and the number of their originals."""
        records = await connection.fetch(SELECT_DEVICES, sorted({work.lane for work in works}))
        new = [record["device_id"] for record in records if not record["known"]]
        if new:
            await connection.execute(INSERT_DEVICES, new, max(work.received_at for work in works))
        known = {
            record["device_id"]: (
                DeviceProfile(record["site_code"], record["profile"], record["recipe"], bool(record["trust_defects"])),
                DeviceAlerts(frozenset(record["open_rules"]), record["clock_offset_s"] or 0.0),
            )
            for record in records
        }
        return known, records[0]["message_group"]

    async def _grade(self, works: list[Work], profiles: dict[str, DeviceProfile]) -> list[tuple[Recipe, Grading]]:
        """Each work's recipe and grading; every recipe grades all of its frames in one call."""
        chosen = [self._choose(work.reading, profiles[work.lane]) for work in works if work.reading]
        graded: dict[int, tuple[Recipe, Grading]] = {}
        for recipe in set(chosen):
            mine = [number for number, other in enumerate(chosen) if other is recipe]
            frames = [works[number].reading.frame for number in mine]  # type: ignore[union-attr]
            theirs = [_effective(profiles[works[number].lane], works[number].reading) for number in mine]
            gradings = (
                await asyncio.to_thread(recipe.grade, frames, theirs) if recipe.costly else recipe.grade(frames, theirs)
            )
            graded |= {number: (recipe, grading) for number, grading in zip(mine, gradings, strict=True)}
        return [graded[number] for number in range(len(works))]

    def _choose(self, reading: Reading, profile: DeviceProfile) -> Recipe:
        return self._recipes.choose(profile.recipe, _site_of(reading, profile), reading.frame)

    def _row(
        self,
        work: Work,
        recipe: Recipe,
        grading: Grading,
        profiles: dict[str, DeviceProfile],
        message_group: int | None,
    ) -> tuple[object, ...]:
        """One row of `samples`, in the order of `SAMPLE_COLUMNS`."""
        r = work.reading
        if r is None:
            raise TypeError("a refused message has no row")
        flags = r.flags
        bucket_time = r.device_time
        if not is_plausible(r.device_time, work.received_at, self._retention):
            bucket_time = work.received_at
            flags |= Flag.IMPLAUSIBLE_CLOCK
        site_code = _site_of(r, profiles[r.device_id])
        if site_code not in self._sites:
            flags |= Flag.UNKNOWN_SITE
        if claim_disagrees(r.claimed_grade, r.claimed_compliant, grading.grade):
            flags |= Flag.CLAIM_DISAGREES
        g, recipe_id = grading, self._recipe_ids[recipe.definition.name]
        return (
            r.device_time, bucket_time, work.received_at, r.claimed_score, work.id,
            g.score, g.tof, g.spectral, g.freshness, g.fat_quality, g.oxidation, g.color_uniformity,
            r.volume_mm3, g.volume_mm3, r.temperature_c, r.humidity_percent, message_group, int(flags),
            recipe_id, r.claimed_compliant, g.grade, r.claimed_grade, r.device_id, r.sample_id,
            site_code, r.lot, r.lot_id, r.farmer, r.origin, r.location, r.firmware_version,
            r.profile or profiles[r.device_id].profile, work.content_hash, r.frame,
        )  # fmt: skip


def _site_of(reading: Reading, profile: DeviceProfile) -> str | None:
    return resolve_site(reading.site_code, profile.site_code, sent=reading.site_sent)


def _effective(profile: DeviceProfile, reading: Reading | None) -> DeviceProfile:
    """The configuration profile that the reading names goes before the one on the device's record."""
    named = reading.profile if reading is not None else None
    return profile if named is None or named == profile.profile else replace(profile, profile=named)
