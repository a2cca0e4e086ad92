"""The bugs of a device, a sample, a lot: those that say so, those that link it, those whose alerts met it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.bugs.listing import NEWEST, BugCursor

if TYPE_CHECKING:
    from datetime import datetime

    from app.core.database import Connection

VIA: Final = ("device", "link", "affected")
OWN: Final = "SELECT b.number, b.created_at, 0 AS via FROM bugs b WHERE b.device_id = $1"
LINKED: Final = """
    SELECT DISTINCT b.number, b.created_at, 1 AS via FROM bug_links l JOIN bugs b ON b.id = l.bug_id WHERE
"""
OF_DEVICE: Final = f"{LINKED} (l.kind = 'device' AND l.target = $1 OR l.kind = 'sample' AND l.device_id = $1)"
OF_SAMPLE: Final = (
    f"{LINKED} l.kind = 'sample' AND l.device_id = $1 AND l.target = $2"
    " AND ($3::timestamptz IS NULL OR l.device_time = $3)"
)
OF_LOT: Final = f"{LINKED} l.kind = 'lot' AND l.target = $1"
MET: Final = """
    SELECT b.number, b.created_at, 2 AS via FROM bug_affected a JOIN bugs b ON b.id = a.bug_id
    WHERE a.kind = '{}' AND a.value = {}
"""
MET_DEVICE: Final = MET.format("device", "$1")
MET_SAMPLE: Final = MET.format("sample", "$1 || '/' || $2")  # no device has a slash in its name
MET_LOT: Final = MET.format("lot", "$1")
SHOWN: Final = ("id", "number", "title", "status", "severity", "created_at")

Page = tuple[list[dict[str, Any]], BugCursor | None]


async def bugs_of_device(connection: Connection, device_id: str, after: BugCursor | None, limit: int) -> Page:
    """Newest first, and where to go on. Those whose device it is, those that link it or a sample
    of it, those whose alerts it raised."""
    return await _page(connection, [OWN, OF_DEVICE, MET_DEVICE], [device_id], after, limit)


async def bugs_of_sample(
    connection: Connection,
    device_id: str,
    sample_id: str,
    device_time: datetime | None,
    after: BugCursor | None,
    limit: int,
) -> Page:
    """Those that link it, where `device_time` chooses among several of this name, and those whose alerts it raised."""
    return await _page(connection, [OF_SAMPLE, MET_SAMPLE], [device_id, sample_id, device_time], after, limit)


async def bugs_of_lot(connection: Connection, lot: str, after: BugCursor | None, limit: int) -> Page:
    """Those that link it, and those whose alerts it raised."""
    return await _page(connection, [OF_LOT, MET_LOT], [lot], after, limit)


async def _page(
    connection: Connection, sources: list[str], arguments: list[Any], after: BugCursor | None, limit: int
) -> Page:
    """Each source is cut to a page before they are put together: a device may have many bugs of its own."""
    beyond = ""
    if after is not None:
        beyond = f" AND (b.created_at, b.number) < (${len(arguments) + 1}, ${len(arguments) + 2})"
        arguments = [*arguments, after.sort_value(), after.number]
    ordered = f"ORDER BY created_at DESC, number DESC LIMIT {limit + 1:d}"
    every = " UNION ALL ".join(f"({source}{beyond} {ordered})" for source in sources)
    found = f"SELECT number, min(via) AS via FROM ({every}) AS every GROUP BY number, created_at {ordered}"
    records = await connection.fetch(
        f"SELECT {', '.join(f'b.{name}' for name in SHOWN)}, via FROM ({found}) AS found JOIN bugs b USING (number)"
        " ORDER BY b.created_at DESC, b.number DESC",
        *arguments,
    )
    items = [
        {name: record[name] for name in SHOWN} | {"url": f"/api/bugs/{record['id']}", "via": VIA[record["via"]]}
        for record in records[:limit]
    ]
    return items, BugCursor.of(records[limit - 1], NEWEST) if len(records) > limit else None
