"""In how many hours each device sent samples: what a number of defects is to be held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

    from app.core.database import Connection

MOST_DEVICES: Final = 10_000
HOURS: Final = f"""
    SELECT device_id, count(*) AS hours FROM (
        SELECT DISTINCT device_id, bucket FROM rollups
        WHERE bucket >= date_trunc('hour', $1::timestamptz, 'UTC') AND bucket < $2
    ) AS used GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {MOST_DEVICES}
"""


async def device_hours(connection: Connection, time_from: datetime, time_to: datetime) -> dict[str, int]:
    """Hours with a sample, by device, from the hour of `time_from` to the last begun before `time_to`; of the 10,000
    devices that have most.
    """
    records = await connection.fetch(HOURS, time_from, time_to)
    return {record["device_id"]: record["hours"] for record in records}
