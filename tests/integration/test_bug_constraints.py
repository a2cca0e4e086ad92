"""What the database itself refuses about bugs, and that it is no outage."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from app.core.database import is_away

INSERT = """
    INSERT INTO bugs (id, created_at, updated_at, status_changed_at, status, severity, priority, title, description,
                      reporter_id) VALUES ($1, $2, $2, $2, $3, $4, 'low', 'a title', 'a text', 'x')
"""


@pytest.mark.parametrize(("status", "severity"), [("done", "low"), ("open", "blocker")])
async def test_a_word_that_is_none_of_ours_is_refused_and_says_nothing_about_the_database(
    dsn: str, status: str, severity: str
) -> None:
    connection: Any = await asyncpg.connect(dsn)
    try:
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await connection.execute(INSERT, uuid4(), datetime(2026, 2, 2, tzinfo=UTC), status, severity)
        assert not is_away(refused.value)
    finally:
        await connection.close()
