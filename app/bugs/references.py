"""`#42` in a text is a link to bug 42, where there is one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.core.database import Connection

MOST: Final = 50
"""Links made of one text."""
_REFERENCE: Final = re.compile(r"(?<![\w&/#])#([1-9]\d{0,17})(?!\w)", re.ASCII)


def numbers(text: str) -> list[int]:
    """The bugs that a text names, in its order, each once."""
    return list(dict.fromkeys(int(found) for found in _REFERENCE.findall(text)))[:MOST]


async def resolve(connection: Connection, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
    """The links of each text."""
    named = [numbers(text) for text in texts]
    wanted = {number for of_text in named for number in of_text}
    if not wanted:
        return [[] for _ in texts]
    records = await connection.fetch("SELECT number, id, title, status FROM bugs WHERE number = ANY($1)", list(wanted))
    known = {record["number"]: dict(record) | {"url": f"/api/bugs/{record['id']}"} for record in records}
    return [[known[number] for number in of_text if number in known] for of_text in named]
