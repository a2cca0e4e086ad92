"""Rows as CSV that a spreadsheet may open: what it would run as a formula is kept as text."""

from __future__ import annotations

import csv
import io
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from app.core.clock import iso

if TYPE_CHECKING:
    from collections.abc import Iterable

# https://owasp.org/www-community/attacks/CSV_Injection; spaces and quotes before it are passed over by some programs,
# and so are the full-width forms taken for the narrow ones.
FORMULA: Final = re.compile("[\\s\ufeff\"']*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")


def header(names: Iterable[str]) -> bytes:
    """The first line."""
    return ",".join(names).encode() + b"\r\n"


def lines(rows: Iterable[Iterable[str]]) -> bytes:
    """RFC 4180, UTF-8. Every cell in quotes: a program that separates by semicolons must not find a new cell, and a
    formula, within one.
    """
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(rows)
    return text.getvalue().encode()


def as_text(cell: Any) -> str:
    """A cell; a text that a spreadsheet would run gets an apostrophe in front."""
    match cell:
        case None:
            return ""
        case bool():
            return "true" if cell else "false"
        case datetime():
            return iso(cell)
        case str():
            return f"'{cell}" if FORMULA.match(cell) else cell
        case _:
            return str(cell)
