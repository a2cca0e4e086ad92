"""The shipped rules on a faster clock: every duration in them divided by a scale, names and thresholds as they are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PART: Final = re.compile(r"(\d+)(ms|[smhdw])")
_DURATION: Final = r"(?:\d+(?:ms|[smhdw]))+"
_IN_EXPR: Final = re.compile(
    rf"""(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<before>[\[:]\s*|\boffset\s+-?)(?P<duration>{_DURATION})\b"""
)


def scaled_duration(text: str, scale: float) -> str:
    """`5m` by 20 is `15000ms`; at least a millisecond."""
    assert re.fullmatch(_DURATION, text), f"no duration: {text}"
    total = sum(int(number) * _MS[unit] for number, unit in _PART.findall(text))
    return f"{max(1, round(total / scale))}ms"


def scaled_expr(expr: str, scale: float) -> str:
    """Ranges, subqueries and offsets; strings are left alone."""

    def change(match: re.Match[str]) -> str:
        if match["string"] is not None:
            return match.group()
        return match["before"] + scaled_duration(match["duration"], scale)

    return _IN_EXPR.sub(change, expr)


def scaled_rules(sources: Iterable[Path], folder: Path, scale: float) -> list[Path]:
    """Copies in `folder`, each under its name."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for source in sources:
        document = yaml.safe_load(source.read_text())
        for group in document["groups"]:
            _scale_fields(group, scale, "interval")
            for rule in group["rules"]:
                _scale_fields(rule, scale, "for", "keep_firing_for")
                rule["expr"] = scaled_expr(rule["expr"], scale)
        made.append(folder / source.name)
        made[-1].write_text(yaml.safe_dump(document, sort_keys=False))
    return made


def _scale_fields(holder: dict[str, Any], scale: float, *names: str) -> None:
    for name in names:
        if name in holder:
            holder[name] = scaled_duration(holder[name], scale)
