"""Send a message from quarantine through ingest again, as it was received."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from app.sqal import wire
from app.sqal.errors import RefusalError
from app.sqal.prepare import explain
from app.sqal.store import Written

if TYPE_CHECKING:
    from uuid import UUID

    from app.core.database import Connection
    from app.sqal.intake import Verdict, Work
    from app.sqal.prepare import Preparer
    from app.sqal.quarantine import Quarantine
    from app.sqal.store import SampleStore


class _Nobody:
    """A replay reads its verdicts from the store; nobody waits for a delivery."""

    def deliver(self, work: Work, verdict: Verdict) -> None:
        """Nothing to do."""


async def replay(
    connection: Connection, quarantine: Quarantine, store: SampleStore, preparer: Preparer, entry_id: UUID
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write the entry's sample (or each of a batch) if it can be stored now, and note the outcome on the entry; the
    outcomes, and the rows that were saved.

    The entry stays, so that it is known what happened to it. NotFoundError for an unknown entry.
    """
    raw, encoding, entry = await quarantine.message(connection, entry_id)
    try:
        parts = _samples_in(raw, encoding)
    except RefusalError as refusal:
        await quarantine.mark_replayed(connection, entry_id, str(refusal.code))
        return [{"status": "error", "code": str(refusal.code), "error": refusal.reason}], []
    works = [preparer.stored(part, encoding, _Nobody(), entry["peer"], entry["received_at"]) for part in parts]
    written = await store.write(connection, works, live=False) if works else Written([], [], [])
    results = [
        {"status": verdict.status, "code": verdict.code and str(verdict.code), "error": verdict.reason}
        for verdict in written.verdicts
    ]
    outcome = ", ".join(sorted({str(result["code"] or result["status"]) for result in results})) or "empty"
    await quarantine.mark_replayed(connection, entry_id, outcome)
    return results, written.samples


def _samples_in(raw: bytes, encoding: wire.Encoding) -> list[bytes]:
    """The message itself, or the elements of a `sensor_batch`; RefusalError for a batch that is none."""
    try:
        kind = wire.decode_type(raw, encoding)
    except (msgspec.DecodeError, RecursionError):
        return [raw]  # whatever it is, ingest says so
    if kind != "sensor_batch":
        return [raw]
    try:
        batch: wire.SensorBatch = wire.decode_as("sensor_batch", raw, encoding)
    except (msgspec.DecodeError, RecursionError) as error:
        raise explain(error, raw, encoding) from error
    return [bytes(part) for part in batch.samples or []]
