"""Samples as CSV or Parquet, streamed: page by page out of the database, so that no connection waits for a slow reader
and no more than a page is in memory.
"""

from __future__ import annotations

import asyncio
import io
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from app.core.csv_text import as_text, header, lines
from app.core.places import Places
from app.sqal.queries import list_samples

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.core.database import Database
    from app.sqal.queries import SampleFilter

PAGE: Final = 2_000
# Column by its path in the REST sample.
COLUMNS: Final = {
    "id": UUID, "device_id": str, "sample_id": str, "lot": str, "lot_id": str, "farmer": str, "origin": str,
    "location": str, "site_code": str, "device_time": datetime, "bucket_time": datetime, "received_at": datetime,
    "recipe": str, "score": float, "tof_score": float, "spectral_score": float, "grade": str, "is_compliant": bool,
    "claimed.score": float, "claimed.grade": str, "claimed.is_compliant": bool, "indices.freshness": float,
    "indices.fat_quality": float, "indices.oxidation": float, "indices.color_uniformity": float,
    "indices.volume_mm3": float, "legal_mass.verdict": str, "legal_mass.mass_g": float,
    "legal_mass.uncertainty_g": float, "temperature_c": float, "humidity_percent": float, "firmware_version": str,
    "profile": str, "flags": str,
}  # fmt: skip
MOST_AT_ONCE: Final = 4
NAMES: Final = [path.replace(".", "_") for path in COLUMNS]


class Exports(Places):
    """Each in a place of its own."""

    def __init__(self, database: Database) -> None:
        super().__init__("exports", MOST_AT_ONCE, retry_after_s=30.0)
        self._database = database

    async def csv(self, wanted: SampleFilter) -> AsyncIterator[bytes]:
        """RFC 4180, UTF-8, a header first. A text that a spreadsheet would run as a formula gets an apostrophe."""
        yield header(NAMES)
        async for page in self._pages(wanted):
            yield lines([as_text(cell) for cell in row] for row in page)

    async def parquet(self, wanted: SampleFilter) -> AsyncIterator[bytes]:
        """Parquet with zstd, a row group a page; times in microseconds UTC."""
        writer = await asyncio.to_thread(ParquetPages)
        async for page in self._pages(wanted):
            yield await asyncio.to_thread(writer.add, page)
        yield await asyncio.to_thread(writer.finish)

    async def _pages(self, wanted: SampleFilter) -> AsyncIterator[list[list[Any]]]:
        """All samples that are wanted, newest first, as rows in the order of `COLUMNS`. What is committed meanwhile
        may or may not be among them; none comes twice.
        """
        cursor = None
        while True:
            async with self._database.connection() as connection:
                items, cursor = await list_samples(connection, wanted, cursor, PAGE)
            if items:
                yield [_row(item) for item in items]
            if cursor is None:
                return


def _row(item: dict[str, Any]) -> list[Any]:
    flat = item | {f"claimed.{name}": value for name, value in item["claimed"].items()}
    flat |= {f"indices.{name}": value for name, value in item["indices"].items()}
    mass = item["legal_mass"] or dict.fromkeys(("verdict", "mass_g", "uncertainty_g"))
    flat |= {f"legal_mass.{name}": value for name, value in mass.items()}
    flat["flags"] = " ".join(item["flags"])
    return [flat[path] for path in COLUMNS]


class ParquetPages:
    """A Parquet file that is handed out as it grows."""

    def __init__(self) -> None:
        import pyarrow as pa  # noqa: PLC0415 - a second of start and 40 MB, for who exports
        import pyarrow.parquet as pq  # noqa: PLC0415

        kinds = {UUID: pa.string(), str: pa.string(), float: pa.float64(), bool: pa.bool_()}
        kinds[datetime] = pa.timestamp("us", tz="UTC")
        self._arrow = pa
        self._schema = pa.schema([(name, kinds[kind]) for name, kind in zip(NAMES, COLUMNS.values(), strict=True)])
        self._file = _Growing()
        self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")

    def add(self, rows: list[list[Any]]) -> bytes:
        """What the file grew by."""
        columns = [list(column) for column in zip(*rows, strict=True)]
        columns[0] = [str(one) for one in columns[0]]
        arrays = [self._arrow.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        return self._file.take()

    def finish(self) -> bytes:
        self._writer.close()
        return self._file.take()


class _Growing(io.RawIOBase):
    """A file that is only written to, and taken away piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._length = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._length

    def write(self, piece: Any) -> int:
        copied = bytes(piece)
        self._pieces.append(copied)
        self._length += len(copied)
        return len(copied)

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
