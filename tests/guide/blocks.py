"""The guide, taken apart: every fenced block by its heading and its place below it, and the tables and lists."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
GUIDE: Final = ROOT / "docs" / "production_infrastructure_guide.md"
FENCE: Final = "```"
_HEADING: Final = re.compile(r"#{2,3} (.+)")
_PICTOGRAMS: Final = re.compile(r"[^\w\s()/&.,'+-]")
_REQUEST: Final = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (\S+)")


@dataclass(frozen=True, slots=True)
class Block:
    """`name` is its heading, with a number where the heading has several."""

    heading: str
    ordinal: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.heading} {self.ordinal}" if self.ordinal > 1 else self.heading


def plain(heading: str) -> str:
    """A heading without its pictogram."""
    return _PICTOGRAMS.sub("", heading).strip()


def read_blocks(text: str) -> list[Block]:
    """Below `## Tests` and the like a sub-heading is named with its section: several sections have the same ones."""
    found: list[Block] = []
    section = heading = ""
    inside: list[str] | None = None
    language = ""
    for line in text.splitlines():
        if inside is not None:
            if line.startswith(FENCE):
                ordinal = 1 + sum(one.heading == heading for one in found)
                found.append(Block(heading, ordinal, language, "\n".join(inside)))
                inside = None
            else:
                inside.append(line)
        elif line.startswith(FENCE):
            inside, language = [], line.removeprefix(FENCE).strip()
        elif matched := _HEADING.match(line):
            name = plain(matched[1])
            section = name if line.startswith("## ") else section
            heading = name if line.startswith("## ") else f"{section}: {name}"
    return found


def blocks() -> dict[str, Block]:
    """By name."""
    found = read_blocks(GUIDE.read_text(encoding="utf-8"))
    return {block.name: block for block in found}


def section(name: str) -> str:
    """The text below a heading, down to the next one of any depth."""
    parts = re.split(r"(?m)^#{2,3} (.+)$", GUIDE.read_text(encoding="utf-8"))
    return next(text for heading, text in zip(parts[1::2], parts[2::2], strict=True) if plain(heading) == name)


def rows(name: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    lines = [line for line in section(name).splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`*") for cell in line.strip("|").split("|")] for line in lines[2:]]


@dataclass(slots=True)
class Exchange:
    """A request as written, and the answer that the guide shows for it, if any."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    response: str | None = None


def exchanges(text: str) -> list[Exchange]:
    """`GET /path`, headers, an empty line, a JSON body, `Response: {...}`."""
    found: list[Exchange] = []
    body = ""
    for line in text.splitlines():
        if matched := _REQUEST.match(line):
            found.append(Exchange(matched[1], matched[2]))
        elif line.startswith("Response:"):
            found[-1].response = line.removeprefix("Response:")
        elif found and found[-1].response is not None:
            found[-1].response += line if not line.startswith("#") else ""
        elif found and re.match(r"[A-Za-z-]+: ", line):
            name, _, value = line.partition(": ")
            found[-1].headers[name] = value
        elif found and not line.startswith("#"):
            body += line + "\n"
    if body.strip():
        found[0].body = json.loads(body)
    return found


def curls(text: str) -> list[Exchange]:
    """Each curl line as curl would send it; what stands behind `#` below it is the answer shown."""
    found: list[Exchange] = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("curl "):
            found.append(_curl(shlex.split(line)[1:]))
        elif found and line.startswith("# {"):
            found[-1].response = line.removeprefix("# ")
    return found


def _curl(words: list[str]) -> Exchange:
    made = Exchange("GET", "")
    rest = iter(words)
    for word in rest:
        if word == "-X":
            made.method = next(rest)
        elif word == "-H":
            name, _, value = next(rest).partition(": ")
            made.headers[name] = value
        elif word == "-d":
            made.body = json.loads(next(rest))
        else:
            assert word.startswith("http://localhost:8000/"), f"this option of curl is not known here: {word}"
            made.path = word.removeprefix("http://localhost:8000")
    return made


def shape(text: str) -> Any:
    """An answer as the guide shows it: JSON in which `...` stands for anything."""
    cleaned = text.replace(", ...}", "}").replace("{...}", "null").replace("[...]", "[]")
    return json.loads(cleaned)


def fits(shown: Any, found: Any, where: str = "") -> None:
    """What is shown is there: the same members, each of the same kind; more members are no harm."""
    if isinstance(shown, dict):
        assert isinstance(found, dict), (where, found)
        for name, value in shown.items():
            assert name in found, f"{where}.{name} is missing in {found}"
            fits(value, found[name], f"{where}.{name}")
    elif isinstance(shown, bool | str | list):
        assert isinstance(found, type(shown)), (where, shown, found)
    elif isinstance(shown, int | float):
        assert isinstance(found, int | float) and not isinstance(found, bool), (where, shown, found)  # noqa: PT018
