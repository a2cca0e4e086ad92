"""The sweep of the store of attachments: objects that no row names go, rows whose object is gone are told of.

A process that dies between an object and its row leaves an object; one that dies between a deleted row and its object
leaves one too. Nothing refers to them, so an hour later they are taken away.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from app.bugs.attachments import named_keys, some_after
from app.core.logging import get_logger

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from app.bugs.attachment_store import AttachmentStore
    from app.core.clock import Clock
    from app.core.database import Database
    from app.core.metric_types import Counter, Family

EVERY: Final = timedelta(hours=1)
SAFE_AGE: Final = timedelta(hours=1)  # a row follows its object within seconds
LOOKED_AT: Final = 200  # rows in one sweep, each a question to the store
STRANGERS: Final = 20  # so many in a page of which the database knows none: it is not this store's database
DEADLINE_S: Final = 30.0
LOCK_KEY: Final = 0x6261_7474
log = get_logger("gaveurs.bugs")


class AttachmentSweep:
    """Each process asks once an hour; one at a time sweeps a page."""

    def __init__(self, clock: Clock, store: AttachmentStore, swept: Family[Counter]) -> None:
        self._clock = clock
        self._store = store
        self._swept = swept
        self._last: datetime | None = None
        self._looked_at: UUID | None = None

    async def when_due(self, database: Database) -> None:
        now = self._clock.now()
        if self._last is not None and now - self._last < EVERY:
            return
        self._last = now
        await self.sweep(database)

    async def sweep(self, database: Database) -> None:
        """AppError when database or store do not serve: the next sweep does what this one left."""
        before = self._clock.now() - SAFE_AGE
        if unfinished := await self._store.forget_unfinished(before):
            log.info("unfinished files of attachments deleted", files=unfinished)
        async for page in self._store.pages():
            old = [one.key for one in page if one.changed_at < before]
            if old and not await self._sweep_page(database, old):
                return
        await self._look_for_lost(database)

    async def _sweep_page(self, database: Database, keys: list[str]) -> bool:
        """False when another process is at it."""
        async with database.connection(DEADLINE_S) as connection, connection.transaction():
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK_KEY):
                return False
            named = await named_keys(connection, keys)
            orphans = [key for key in keys if key not in named]
            if not named and len(orphans) > STRANGERS:
                log.error("the store of attachments holds files that this database does not know", files=len(orphans))
            elif orphans:
                await self._store.delete_all(orphans)
                self._swept.labels().inc(len(orphans))
                log.info("orphans of attachments deleted", objects=len(orphans))
        return True

    async def _look_for_lost(self, database: Database) -> None:
        """A few rows in each sweep, round and round."""
        async with database.connection() as connection:
            rows = await some_after(connection, self._looked_at, LOOKED_AT)
        self._looked_at = rows[-1]["id"] if len(rows) == LOOKED_AT else None
        for row in rows:
            if not await self._store.has(row["object_key"]):
                log.error("an attachment's file is gone", bug=str(row["bug_id"]), attachment=str(row["id"]))
