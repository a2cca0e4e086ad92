"""What the doctor says: one sentence of what is so, what follows from it, and what to do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

from pydantic import SecretStr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.settings import Settings

HIDDEN: Final = "(hidden)"
SHORT: Final = 4  # a shorter secret would turn up in ordinary words


class Level(StrEnum):
    """How bad: a note is for knowing, a warning works but less well or less safely, a problem loses something."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """`do` is a command or a setting to the letter where there is one."""

    topic: str
    level: Level
    what: str
    follows: str = ""
    do: str = ""


def fine(topic: str, what: str) -> Finding:
    return Finding(topic, Level.OK, what)


def note(topic: str, what: str, follows: str = "", do: str = "") -> Finding:
    return Finding(topic, Level.NOTE, what, follows, do)


def warning(topic: str, what: str, follows: str, do: str) -> Finding:
    return Finding(topic, Level.WARNING, what, follows, do)


def problem(topic: str, what: str, follows: str, do: str) -> Finding:
    return Finding(topic, Level.PROBLEM, what, follows, do)


def secrets_of(settings: Settings) -> frozenset[str]:
    """Every secret value, and the passwords in an address, as they are and as they are written in an address."""
    values = (getattr(settings, name) for name in type(settings).model_fields)
    found = {value.get_secret_value() for value in values if isinstance(value, SecretStr)}
    for address in tuple(found):
        try:
            parts = urlsplit(address)
        except ValueError:
            continue
        found |= {unquote(parts.password), parts.password} if parts.password else set()
        found |= set(parse_qs(parts.query).get("password", ())) if "://" in address else set()
    long_enough = {one for one in found if len(one) >= SHORT}
    return frozenset(long_enough | {quote(one, safe="") for one in long_enough})


def without(secrets: Iterable[str], finding: Finding) -> Finding:
    """The finding with every secret blotted out: texts of servers and libraries are not ours to trust."""
    longest_first = sorted(secrets, key=len, reverse=True)

    def blotted(text: str) -> str:
        for secret in longest_first:
            text = text.replace(secret, HIDDEN)
        return text

    what, follows, do = blotted(finding.what), blotted(finding.follows), blotted(finding.do)
    return replace(finding, what=what, follows=follows, do=do)
