"""Lots: how each did, from the rollups, and its species, which somebody says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.core.errors import NotFoundError
from app.sqal.figures import SUMS, Scope, figures_of, totals

if TYPE_CHECKING:
    from datetime import datetime

    from app.core.database import Connection

DUCK: Final = "duck"
SEEN_BY: Final = """
    SELECT coalesce(array_agg(DISTINCT device_id ORDER BY device_id), '{}') AS devices,
           coalesce(array_agg(DISTINCT site_code ORDER BY site_code) FILTER (WHERE site_code <> ''), '{}') AS sites
    FROM rollups WHERE lot = $1 AND lot <> ''
"""
SPECIES: Final = "SELECT lot, species FROM lots WHERE lot = ANY($1)"
SET: Final = """
    INSERT INTO lots (lot, species, updated_at, updated_by) VALUES ($1, $2, $3, $4)
    ON CONFLICT (lot) DO UPDATE SET species = excluded.species, updated_at = excluded.updated_at,
                                    updated_by = excluded.updated_by
"""


async def one_lot(connection: Connection, lot: str) -> dict[str, Any]:
    """Figures over all its readings. NotFoundError for a lot without any of which nothing was said either."""
    said = await connection.fetchval("SELECT species FROM lots WHERE lot = $1", lot)
    figures = await totals(connection, Scope(lot=lot))
    if said is None and not figures["count"]:
        raise NotFoundError("no reading names this lot")
    seen = await connection.fetchrow(SEEN_BY, lot)
    if seen is None:
        raise RuntimeError("an aggregate has one row")
    return {"lot": lot, "species": said or DUCK, "devices": seen["devices"], "sites": seen["sites"], **figures}


async def list_lots(connection: Connection, scope: Scope, limit: int) -> list[dict[str, Any]]:
    """Figures of each lot in scope, the one measured last first."""
    where, arguments = scope.where()
    records = await connection.fetch(
        f"SELECT lot, min(bucket) AS first_bucket, max(bucket) AS last_bucket, {SUMS},"
        " (SELECT species FROM lots WHERE lots.lot = rollups.lot) AS species"
        f" FROM rollups WHERE {where} AND lot <> '' GROUP BY lot ORDER BY 3 DESC, 1 DESC LIMIT {limit:d}",
        *arguments,
    )
    return [
        {name: record[name] for name in ("lot", "first_bucket", "last_bucket")}
        | {"species": record["species"] or DUCK}
        | figures_of(record)
        for record in records
    ]


async def set_species(connection: Connection, lot: str, species: str, who: str, now: datetime) -> None:
    await connection.execute(SET, lot, species, now, who)


async def add_species(connection: Connection, samples: list[dict[str, Any]]) -> None:
    """Give each row of `samples` its lot's `species`, None where nothing was said."""
    lots = {sample["lot"] for sample in samples if sample["derived_volume_mm3"] is not None} - {None}
    said = {}
    if lots:
        said = {row["lot"]: row["species"] for row in await connection.fetch(SPECIES, sorted(lots))}
    for sample in samples:
        sample["species"] = said.get(sample["lot"])
