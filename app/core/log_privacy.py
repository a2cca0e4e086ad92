"""What must not stand in a log: secrets, by their field's name, their value or their shape, and people's addresses.

A net below the rule that nothing of the kind is logged in the first place: driver errors and tracebacks quote what
they were given.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from app.core.log_shapes import NOT_ABOUT, PERSONAL, PERSONAL_WORDS, QUOTES, SECRET, SECRET_WORDS, SHAPES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.core.log_shapes import Shape

SHORTEST: Final = 6  # a shorter secret's value would be found in ordinary words
_SECRET_NAMES: Final = re.compile(
    rf"{SECRET_WORDS}|(?:authorization|cookie|database_url|dsn){NOT_ABOUT}", re.IGNORECASE
)
_PERSONAL_NAMES: Final = re.compile(PERSONAL_WORDS, re.IGNORECASE)
# Any shape has one of the first and one of the second; most texts have not, and the first are found in 0.2 us.
_ODD: Final = re.compile(r"[@:=_\s.%A-]")
_SUSPICIOUS: Final = re.compile(
    r"[@:=]|[Ee][Aa][Rr][Ee][Rr]|gvk_|whsec_|AGE-SECRET|eyJ|A[KS]IA|%(?:25)?40|hooks\.slack|ailing row"
)


@lru_cache(1_024)
def stand_in(name: str) -> str | None:
    """For the value of a field of this name; None where the name says nothing."""
    if _SECRET_NAMES.search(name):
        return SECRET
    return PERSONAL if _PERSONAL_NAMES.search(name) else None


def looks_secret(text: str) -> bool:
    """Whether something of it would be taken out, whatever this process was given."""
    return _SUSPICIOUS.search(text) is not None and _without(SHAPES, text) != text


class Privacy:
    """`secrets` are values that this process was given. Immutable; used from any thread."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in _forms(secret) if len(form) >= SHORTEST}
        self._secrets = sorted(forms, key=len, reverse=True)

    def text(self, text: str) -> str:
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, SECRET)
        return _without(SHAPES, text) if _ODD.search(text) and _SUSPICIOUS.search(text) else text

    def ends(self, text: str, length: int, margin: int) -> tuple[str, str]:
        """Its first and last characters, `length` of each looked at, without the `margin` where it was cut: half of a
        secret is not known for one.
        """
        whole = _without(QUOTES, text)
        return self.text(whole[:length])[:-margin], self.text(whole[-length:])[margin:]


def _without(shapes: tuple[Shape, ...], text: str) -> str:
    small = text.lower()
    for words, shape, instead in shapes:
        if any(word in small for word in words):
            text = shape.sub(instead, text)
    return text


def _forms(secret: str) -> set[str]:
    """As it is, as URLs carry it, and as repr and JSON quote it."""
    return {secret, unquote(secret), quote(secret), quote(secret, safe=""), repr(secret)[1:-1]}
