"""Which firmware is later: by the numbers of its version, and by semver's rules before a release (semver.org, 11)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

_VERSION: Final = re.compile(
    r"[vV]?(?P<release>\d{1,18}(?:\.\d{1,18})*)"
    r"(?:-(?P<before>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?",
    re.ASCII,
)
_MOST_CHARACTERS: Final = 200
_LEAST_PARTS: Final = 3
_Identifier = tuple[int, int, str]


@dataclass(frozen=True, slots=True, order=True)
class FirmwareVersion:
    """In the order of their ages; build metadata is no part of it.

    `release` has no zeros at its end, so that 2.3 is 2.3.0. What comes before a release has `is_release` false and is
    in the order of its identifiers: numbers by their value and before words, words by their characters.
    """

    release: tuple[int, ...]
    is_release: bool
    before: tuple[_Identifier, ...] = ()
    text: str = field(default="", compare=False)
    """As it is written once for all the ways to write it."""


def parse(text: str) -> FirmwareVersion | None:
    """`v2.3.1`, `2.3.1-rc.1`, `2.3.1+abc`; None for what cannot be read."""
    found = _VERSION.fullmatch(text.strip()) if len(text) <= _MOST_CHARACTERS else None
    if found is None:
        return None
    parts = [int(part) for part in found["release"].split(".")]
    while parts and not parts[-1]:
        parts.pop()
    before = () if found["before"] is None else tuple(map(_identifier, found["before"].split(".")))
    shown = ".".join(map(str, parts + [0] * (_LEAST_PARTS - len(parts))))
    shown += "-" + ".".join(word or str(number) for _, number, word in before) if before else ""
    return FirmwareVersion(tuple(parts), not before, before, shown)


def _identifier(word: str) -> _Identifier:
    return (0, int(word), "") if word.isdecimal() else (1, 0, word)


def canonical(text: str) -> str:
    """The same for all ways to write one version; what cannot be read stays as it is, without spaces around."""
    version = parse(text)
    return version.text if version is not None else text.strip()


def at_or_later(firmware: str, than: str) -> bool:
    """Whether `firmware` is `than` or came after it. Of what cannot be read only the same text is known to be."""
    one, other = parse(firmware), parse(than)
    if one is None or other is None:
        return firmware.strip() == than.strip()
    return one >= other
