"""Device records: what REST and the command line read and set of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.core.errors import NotFoundError
from app.sqal.reading import site_in_id

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from app.core.database import Connection

# A device's site as `_as_item` finds it: configured, sent, or in its id (`reading.site_in_id`).
SITE_SQL: Final = (
    "coalesce(site_code, sent_site_code,"
    " substring(device_id from '^[A-Za-z0-9]+[_-](?:(?:DEMO|DOCKER)[_-])?([A-Z]{2})(?:[_-]|$)'))"
)
CONFIGURABLE: Final = ("site_code", "profile", "recipe", "trust_defects", "in_service")
LIST: Final = f"""
    SELECT * FROM devices WHERE ($1::text IS NULL OR device_id > $1) AND ($2::text IS NULL OR {SITE_SQL} = $2)
    ORDER BY device_id LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class StateLimits:
    """Seconds without a sign of life after which a device counts as stale, and as offline."""

    stale_after_s: float
    offline_after_s: float

    def state(self, last_seen: datetime | None, now: datetime) -> str:
        """never_seen, online, stale or offline: computed from the last sign of life, stored nowhere."""
        if last_seen is None:
            return "never_seen"
        silent_s = (now - last_seen).total_seconds()
        if silent_s < self.stale_after_s:
            return "online"
        return "stale" if silent_s < self.offline_after_s else "offline"


async def list_devices(
    connection: Connection,
    limits: StateLimits,
    now: datetime,
    *,
    site_code: str | None = None,
    after: str | None,
    limit: int,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of devices in the order of their ids, and the id to go on after."""
    records = await connection.fetch(LIST, after, site_code, limit + 1)
    more = records[limit - 1]["device_id"] if len(records) > limit else None
    return [_as_item(record, limits, now) for record in records[:limit]], more


async def one_device(connection: Connection, device_id: str, limits: StateLimits, now: datetime) -> dict[str, Any]:
    record = await connection.fetchrow("SELECT * FROM devices WHERE device_id = $1", device_id)
    if record is None:
        raise NotFoundError("this device is neither configured nor was it ever seen")
    return _as_item(record, limits, now)


async def configure_device(connection: Connection, device_id: str, changes: dict[str, Any]) -> None:
    """Set some of `CONFIGURABLE`; a device that was never seen gets its record now."""
    names = [name for name in CONFIGURABLE if name in changes]
    async with connection.transaction():
        await connection.execute("INSERT INTO devices (device_id) VALUES ($1) ON CONFLICT DO NOTHING", device_id)
        if names:
            assignments = ", ".join(f"{name} = ${number}" for number, name in enumerate(names, 2))
            await connection.execute(
                f"UPDATE devices SET {assignments} WHERE device_id = $1",
                device_id,
                *(changes[name] for name in names),
            )


def _as_item(record: asyncpg.Record, limits: StateLimits, now: datetime) -> dict[str, Any]:
    heartbeat = json.loads(record["heartbeat"]) if record["heartbeat"] else None
    device_id = record["device_id"]
    return {
        "device_id": device_id,
        "state": limits.state(record["last_seen"], now),
        "site_code": record["site_code"] or record["sent_site_code"] or site_in_id(device_id),
        "sent_site_code": record["sent_site_code"],
        "firmware_version": record["firmware_version"],
        "mac_address": record["mac_address"],
        "ip_address": record["ip_address"],
        "location": record["location"],
        "sensors": json.loads(record["sensors"]) if record["sensors"] else None,
        "first_seen": record["first_seen"],
        "last_seen": record["last_seen"],
        "last_sample_at": record["last_sample_at"],
        "hello_at": record["hello_at"],
        "heartbeat": {**heartbeat, "received_at": record["heartbeat_at"]} if heartbeat else None,
        "uptime_s": record["uptime_s"],
        "boots": record["boots"],
        "profile": record["profile"],
        "recipe": record["recipe"],
        "trust_defects": record["trust_defects"],
        "in_service": record["in_service"],
        "clock_offset_s": record["clock_offset_s"],
    }
