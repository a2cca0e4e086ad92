"""One event, one line: a JSON object in ASCII of at most 16,000 bytes, whatever its values are."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from app.core.log_privacy import stand_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from app.core.log_privacy import Privacy

# Docker and the kubelet cut a line in pieces at 16 KiB.
LINE_MAX_BYTES: Final = 16_000
TEXT_MAX: Final = 4_000
TEXT_STEPS: Final = (TEXT_MAX, 1_000, 200)  # tried in turn until the line is short enough
MARGIN: Final = 1_000  # characters, at each end of a long text, that are looked at beyond what may be shown
ITEMS_MAX: Final = 64
DEPTH_MAX: Final = 4
NAME_MAX: Final = 64
INT64: Final = 1 << 63
OURS: Final = ("timestamp", "level", "logger")
_LEAST: Final = (*OURS, "event", "request_id", "connection_id", "device_id", "exception")


def render(fields: Mapping[str, Any], privacy: Privacy) -> bytes:
    """The line, its end included. `cut: true` says that something of it is missing."""
    for text_max in TEXT_STEPS:
        cleaner = _Cleaner(privacy, text_max)
        line = _dump(cleaner.fields(fields), cut=cleaner.has_cut)
        if len(line) <= LINE_MAX_BYTES:
            return line
    least = {name: fields[name] for name in _LEAST if name in fields}
    return _dump(_Cleaner(privacy, TEXT_STEPS[-1]).fields(least), cut=True)


def clean(fields: Mapping[str, Any], privacy: Privacy) -> dict[str, Any]:
    """The same for a person at a terminal: values as they are written, cut and without secrets."""
    return _Cleaner(privacy, TEXT_MAX).fields(fields)


def _dump(fields: dict[str, Any], *, cut: bool) -> bytes:
    if cut:
        fields["cut"] = True
    # ASCII: no control character, line separator or half of a character pair can break a line, a terminal or a parser.
    return json.dumps(fields, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode() + b"\n"


class _Cleaner:
    """JSON's values from any values."""

    def __init__(self, privacy: Privacy, text_max: int) -> None:
        self._privacy = privacy
        self._text_max = text_max
        self.has_cut = False

    def fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The first ones are our own words; a password that is one of them must not make holes in them."""
        ours = {name: fields[name] for name in OURS if name in fields}
        others = {name: fields[name] for name in ("event", *fields) if name in fields and name not in ours}
        return ours | self._mapping(others, DEPTH_MAX, text_max=self._text_max)

    def _mapping(self, mapping: Mapping[Any, Any], depth: int, *, text_max: int) -> dict[str, Any]:
        cleaned: dict[str, Any] = {}
        for key, value in list(mapping.items())[:ITEMS_MAX]:
            name = self._text(key if isinstance(key, str) else _shown(key), NAME_MAX)
            longer = 2 if name == "exception" else 1
            instead = stand_in(name)
            cleaned[name] = self._value(value, depth - 1, text_max * longer) if instead is None else instead
        self.has_cut |= len(mapping) > ITEMS_MAX
        return cleaned

    def _value(self, value: Any, depth: int, text_max: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._text(str.__str__(value), text_max)
        if isinstance(value, int):
            return int(value) if -INT64 <= value < INT64 else self._text(hex(value), text_max)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else repr(float(value))
        if isinstance(value, dict | list | tuple):
            return self._container(value, depth, text_max)
        return self._text(_shown(value), text_max)

    def _container(self, value: Any, depth: int, text_max: int) -> Any:
        if depth <= 0:
            self.has_cut = True
            return "..."
        if isinstance(value, dict):
            return self._mapping(value, depth, text_max=text_max)
        self.has_cut |= len(value) > ITEMS_MAX
        return [self._value(item, depth - 1, text_max) for item in value[:ITEMS_MAX]]

    def _text(self, text: str, text_max: int) -> str:
        if len(text) > 2 * (text_max + MARGIN):
            first, last = self._privacy.ends(text, text_max + MARGIN, MARGIN)
            missing = len(text) - text_max
        else:
            text = self._privacy.text(text)
            first = last = text if text.isascii() else _whole_characters(text)
            missing = len(first) - text_max
            if missing <= 0:
                return first
        self.has_cut = True
        half = text_max // 2
        first, last = _whole_characters(first)[:half], _whole_characters(last)
        return f"{first}[...{missing} characters...]{last[max(0, len(last) - half) :]}"


def _whole_characters(text: str) -> str:
    """Halves of character pairs are shown as such."""
    return text.encode("utf-8", "backslashreplace").decode()


def _shown(value: Any, show: Callable[[Any], str] = repr) -> str:
    try:
        return show(value)
    except Exception:  # noqa: BLE001 - a value that cannot show itself must not cost the line
        return f"<{type(value).__name__} that cannot be shown>"
