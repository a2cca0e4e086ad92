"""Text for a person at a terminal: aligned, cut to its width, and never obeyed by it."""

from __future__ import annotations

import os
import re
import shutil
import sys
import unicodedata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

GAP: Final = "  "
MINUTE_S: Final = 60
HOUR_S: Final = 3_600
DAY_S: Final = 86_400
# Controls, which a terminal would obey, and what turns the direction of writing; a line's end and a tab where asked.
_COMMANDS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str, *, lines: bool = False) -> str:
    """`text` with everything that a terminal would obey spelled out; `lines` keeps their ends, and tabs."""
    kept = "\n\t" if lines else ""
    return _COMMANDS.sub(lambda found: found[0] if found[0] in kept else repr(found[0])[1:-1], text)


def terminal_width() -> int | None:
    """Columns; None where nobody looks and lines may be long."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else None


def with_colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width_of(text: str) -> int:
    """Columns that a text takes."""
    return sum(_width(char) for char in text)


def _width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def cut(text: str, width: int) -> str:
    """At most `width` columns; an ellipsis stands for the rest."""
    if width_of(text) <= width:
        return text
    kept, used = "", 0
    for char in text:
        used += _width(char)
        if used >= width:
            break
        kept += char
    return kept + "…"


def table(
    rows: Sequence[Sequence[str]], width: int | None = None, *, most: int = 24, colours: Mapping[str, str] | None = None
) -> list[str]:
    """Aligned lines, the first row being the header. All columns but the last are at most `most` wide; the last one
    takes what is left of `width`. A cell that is one of `colours` (word, ANSI code) is painted.
    """
    shown = [[cut(printable(cell), most) for cell in row[:-1]] + [printable(row[-1])] for row in rows]
    widths = [max(map(width_of, column)) for column in zip(*shown, strict=True)][:-1]
    left = None if width is None else max(width - sum(widths) - len(GAP) * len(widths), 8)
    lines = []
    for *cells, last in shown:
        padded = [_painted(cell, colours) + " " * (w - width_of(cell)) for cell, w in zip(cells, widths, strict=True)]
        lines.append(GAP.join([*padded, last if left is None else cut(last, left)]).rstrip())
    return lines


def _painted(cell: str, colours: Mapping[str, str] | None) -> str:
    code = (colours or {}).get(cell)
    return f"\x1b[{code}m{cell}\x1b[0m" if code else cell


def age(then: datetime, now: datetime) -> str:
    """How long ago in its largest unit: `40 min`, `5 h`, `3 d`."""
    seconds = max(0, int((now - then).total_seconds()))
    if seconds < HOUR_S:
        return f"{seconds // MINUTE_S} min"
    return f"{seconds // HOUR_S} h" if seconds < DAY_S else f"{seconds // DAY_S} d"


def indented(text: str, by: str = "  ") -> str:
    return "\n".join(f"{by}{line}".rstrip() for line in printable(text, lines=True).splitlines())
