"""What REST reads of samples: keyset pages newest first, one sample, its frame, its original message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.core.cursor import Cursor
from app.core.errors import NotFoundError
from app.sqal import originals
from app.sqal.flags import Flag
from app.sqal.frame import MICRO, decode_frame, frame_as_json
from app.sqal.legal_mass import legal_mass
from app.sqal.reading import NOT_GRADABLE

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from app.core.database import Connection, Row
    from app.sqal.codec import MessageCodec
    from app.sqal.wire import Encoding

COLUMNS: Final = """
    s.id, s.device_id, s.sample_id, s.lot, s.lot_id, s.farmer, s.origin, s.location, s.site_code, s.device_time,
    s.bucket_time, s.received_at, r.name AS recipe, s.score, s.tof_score, s.spectral_score, s.grade, s.claimed_score,
    s.claimed_grade, s.claimed_compliant, s.freshness, s.fat_quality, s.oxidation, s.color_uniformity, s.volume_mm3,
    s.temperature_c, s.humidity_percent, s.firmware_version, s.profile, s.flags, s.derived_volume_mm3, l.species
"""
TABLES: Final = "samples s JOIN recipes r USING (recipe_id) LEFT JOIN lots l ON l.lot = s.lot"
# Columns by which a list may be narrowed; each comparison is one of these constants.
FILTERS: Final = {
    "device_id": "s.device_id = {}",
    "site_code": "s.site_code = {}",
    "grade": "s.grade = {}",
    "lot": "s.lot = {}",
    "time_from": "s.bucket_time >= {}",
    "time_to": "s.bucket_time < {}",
}
# As constants, so that their partial index can be used.
RARE_GRADES: Final = {"REJECT": "s.grade = 'REJECT'", NOT_GRADABLE: "s.grade = 'NOT_GRADABLE'"}


@dataclass(frozen=True, slots=True)
class SampleFilter:
    """Narrows a list; None does not. `time_from` inclusive, `time_to` exclusive, both on bucket time."""

    device_id: str | None = None
    site_code: str | None = None
    grade: str | None = None
    lot: str | None = None
    time_from: datetime | None = None
    time_to: datetime | None = None


async def list_samples(
    connection: Connection, wanted: SampleFilter, cursor: Cursor | None, limit: int
) -> tuple[list[dict[str, Any]], Cursor | None]:
    """One page, newest first by bucket time then id, and where to go on."""
    conditions, arguments = ["true"], []
    for name, comparison in FILTERS.items():
        value = getattr(wanted, name)
        if name == "grade" and value in RARE_GRADES:
            conditions.append(RARE_GRADES[value])
        elif value is not None:
            arguments.append(value)
            conditions.append(comparison.format(f"${len(arguments)}"))
    if cursor is not None:
        arguments += [cursor.time, cursor.id]
        time, id_ = f"${len(arguments) - 1}", f"${len(arguments)}"
        conditions.append(f"s.bucket_time <= {time} AND (s.bucket_time, s.id) < ({time}, {id_})")
    records = await connection.fetch(
        f"SELECT {COLUMNS} FROM {TABLES} WHERE {' AND '.join(conditions)}"
        f" ORDER BY s.bucket_time DESC, s.id DESC LIMIT {limit + 1:d}",
        *arguments,
    )
    more = Cursor(records[limit - 1]["bucket_time"], records[limit - 1]["id"]) if len(records) > limit else None
    return [as_item(record) for record in records[:limit]], more


async def latest_sample(connection: Connection, device_id: str | None) -> dict[str, Any]:
    items, _ = await list_samples(connection, SampleFilter(device_id=device_id), None, 1)
    if not items:
        raise NotFoundError("there is no sample yet" if device_id is None else "there is no sample of this device")
    return items[0]


async def find_sample(
    connection: Connection, columns: str, device_id: str, sample_id: str, device_time: datetime | None
) -> asyncpg.Record:
    """The newest sample under these names; `device_time` chooses among several."""
    record = await connection.fetchrow(
        f"SELECT {columns} FROM {TABLES}"
        " WHERE s.device_id = $1 AND s.sample_id = $2 AND ($3::timestamptz IS NULL OR s.device_time = $3)"
        " ORDER BY s.bucket_time DESC, s.id DESC LIMIT 1",
        device_id,
        sample_id,
        device_time,
    )
    if record is None:
        raise NotFoundError("there is no such sample")
    return record


async def one_sample(
    connection: Connection, device_id: str, sample_id: str, device_time: datetime | None
) -> dict[str, Any]:
    return as_item(await find_sample(connection, COLUMNS, device_id, sample_id, device_time))


async def sample_frame(
    connection: Connection, device_id: str, sample_id: str, device_time: datetime | None
) -> dict[str, Any]:
    """Matrices and channels as JSON."""
    record = await find_sample(connection, "s.frame", device_id, sample_id, device_time)
    return {"device_id": device_id, "sample_id": sample_id, **frame_as_json(decode_frame(record["frame"]))}


async def sample_to_keep(
    connection: Connection, device_id: str, sample_id: str, device_time: datetime | None
) -> tuple[dict[str, Any], bytes]:
    """(what REST shows of it, its packed frame): all that is needed to show both once it is gone."""
    record = await find_sample(connection, f"{COLUMNS}, s.frame", device_id, sample_id, device_time)
    return as_item(record), record["frame"]


async def sample_message(
    connection: Connection, codec: MessageCodec, device_id: str, sample_id: str, device_time: datetime | None
) -> tuple[bytes, Encoding]:
    """The original message, byte for byte. NotFoundError once it is past its retention."""
    found = await find_sample(connection, "s.id, s.message_group", device_id, sample_id, device_time)
    kept = await originals.read(connection, codec, {found["id"]: found["message_group"]})
    if found["id"] not in kept:
        raise NotFoundError("the original message is no longer kept")
    return kept[found["id"]]


def _unit(value: int | None) -> float | None:
    return None if value is None else value / MICRO


def as_item(record: Row) -> dict[str, Any]:
    """A sample as REST shows it. Score and compliance are null for a reading that could not be judged."""
    gradable = record["grade"] != NOT_GRADABLE
    return {
        "id": record["id"],
        "device_id": record["device_id"],
        "sample_id": record["sample_id"],
        "lot": record["lot"],
        "lot_id": record["lot_id"],
        "farmer": record["farmer"],
        "origin": record["origin"],
        "location": record["location"],
        "site_code": record["site_code"],
        "device_time": record["device_time"],
        "bucket_time": record["bucket_time"],
        "received_at": record["received_at"],
        "recipe": record["recipe"],
        "score": _unit(record["score"]) if gradable else None,
        "tof_score": _unit(record["tof_score"]),
        "spectral_score": _unit(record["spectral_score"]),
        "grade": record["grade"],
        "is_compliant": record["grade"] != "REJECT" if gradable else None,
        "claimed": {
            "score": record["claimed_score"],
            "grade": record["claimed_grade"],
            "is_compliant": record["claimed_compliant"],
        },
        "indices": {
            "freshness": _unit(record["freshness"]),
            "fat_quality": _unit(record["fat_quality"]),
            "oxidation": _unit(record["oxidation"]),
            "color_uniformity": _unit(record["color_uniformity"]),
            "volume_mm3": record["volume_mm3"],
        },
        "legal_mass": legal_mass(record["derived_volume_mm3"], record["species"]),
        "temperature_c": record["temperature_c"],
        "humidity_percent": record["humidity_percent"],
        "firmware_version": record["firmware_version"],
        "profile": record["profile"],
        "flags": Flag.names(record["flags"]),
    }
