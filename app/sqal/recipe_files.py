"""Recipes as TOML files, one a file: a shipped recipe with other numbers, under a name and version of its own.

    name = "sqal-1-goose"
    version = 1
    engine = "sqal-1"                 # whose code applies it: sqal-1 or sqal-1-reported
    hash = "3f1c..."                  # optional: the file is refused when its content has another
    [thresholds]                      # every table may be left out: then as shipped
    "A+" = 0.90
    A = 0.80
    B = 0.60
    C = 0.45
    [volume]
    ideal_mm3 = 850000
    [pitch_mm]
    tray-large = [40.0, 25.0]
    [bands]
    VOR = [0.25, 0.45, 0.20, 0.55]    # optimal low, high, acceptable low, high

A file that makes no sense is refused whole, at start, with its line.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from app.sqal.recipe_definition import ENGINES, SHIPPED, SQAL1, Definition, DefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_SYNTAX_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_TABLE = re.compile(r"\s*\[(.+)\]\s*(?:#.*)?\r?$")
_KEY = re.compile(r"""\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+))*)\s*=""")
_DOT = re.compile(r"""\.(?=(?:[^"']|"[^"]*"|'[^']*')*$)""")


class RecipeFileError(ValueError):
    """`file:line: what is wrong`."""


def read_recipes(folder: Path) -> list[Definition]:
    """Every `*.toml` of the folder, by name of the file. Raises RecipeFileError for the first that makes no sense."""
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix == ".toml" and file.is_file())
    except OSError as error:
        raise RecipeFileError(f"{folder}: cannot be read as a folder ({error.strerror})") from error
    definitions: dict[str, Definition] = {}
    for file in files:
        definition = read_recipe(file)
        if definition.name in definitions:
            raise RecipeFileError(f"{file}:1: another file defines {definition.name!r} too")
        definitions[definition.name] = definition
    return list(definitions.values())


def read_recipe(file: Path) -> Definition:
    """One recipe. Raises RecipeFileError."""
    try:
        text = file.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = found[1] if (found := _SYNTAX_LINE.search(str(error))) else "1"
        raise RecipeFileError(_one_line(f"{file}:{line}: {_SYNTAX_LINE.sub('', str(error)).strip()}")) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeFileError(f"{file}:1: cannot be read as UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise RecipeFileError(f"{file}:1: numbers too long, or nested too deep") from error
    try:
        return _definition(data)
    except DefinitionError as error:
        raise RecipeFileError(_one_line(f"{file}:{_line_of(text, error.path)}: {error}")) from error


def _definition(data: dict[str, Any]) -> Definition:
    engine = _take(data, ("engine",), _text)
    if engine not in ENGINES:
        raise DefinitionError(("engine",), f"must be one of {', '.join(ENGINES)}")
    base = SHIPPED[engine]
    known = {"name", "version", "engine", "hash", "weights", "thresholds", "reject"}
    if engine == SQAL1:
        known |= {"volume", "severity", "surface", "pitch_mm", "bands", "search"}
    for key in sorted(data.keys() - known):
        raise DefinitionError((key,), f"no such field in a {engine} recipe; known: {', '.join(sorted(known))}")
    tables = {name: _table(data, name) for name in known - {"name", "version", "engine", "hash"}}
    name = _take(data, ("name",), _text)
    if not _NAME.match(name) or name in SHIPPED:
        raise DefinitionError(("name",), "must be 1 to 64 letters, digits, or . _ - and none of the shipped names")
    search = tables.get("search", {})
    _only(("search",), search, set(base.search.__dataclass_fields__))
    definition = Definition(
        name=name,
        version=_take(data, ("version",), _count),
        engine=engine,
        weights=_numbers(("weights",), tables["weights"]) or base.weights,
        thresholds=_numbers(("thresholds",), tables["thresholds"]) or base.thresholds,
        pitch_mm={key: _pitch(("pitch_mm", key), value) for key, value in tables.get("pitch_mm", {}).items()},
        bands={**base.bands, **{k: _several(("bands", k), v, 4) for k, v in tables.get("bands", {}).items()}},
        search=replace(base.search, **{key: _search_value(key, value) for key, value in search.items()}),
        **_fields(tables),
    )
    given = data.get("hash")
    if given is not None and given != definition.hash:
        raise DefinitionError(("hash",), f"the content's is {definition.hash}")
    return definition


LEAST, MOST = 1e-6, 1e9
MOST_STEPS: Final = 20
WIDEST_PITCH_MM: Final = 100.0
FIELDS: Final = {
    ("reject", "defects"): "reject_defects", ("reject", "severity_above"): "reject_severity_above",
    ("volume", "ideal_mm3"): "volume_ideal_mm3", ("volume", "zero_at"): "volume_zero_at",
    ("severity", "over_mm"): "severity_over_mm", ("surface", "roughness_mm"): "roughness_mm",
}  # fmt: skip


def _fields(tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for table in ("reject", "volume", "severity", "surface"):
        _only((table,), tables.get(table, {}), {key for of, key in FIELDS if of == table})
    for (table, key), field in FIELDS.items():
        if key in tables.get(table, {}):
            check = _count if key == "defects" else _positive
            values[field] = check((table, key), tables[table][key])
    if values.get("reject_severity_above", 0.0) > 1:
        raise DefinitionError(("reject", "severity_above"), "must not be above 1")
    return values


def _search_value(key: str, value: Any) -> Any:
    """Steps are few and whole; the rest are sizes."""
    path = ("search", key)
    if not key.endswith("_steps"):
        return _positive(path, value)
    if _count(path, value) > MOST_STEPS:
        raise DefinitionError(path, f"at most {MOST_STEPS}")
    return int(value)


def _table(data: dict[str, Any], name: str) -> dict[str, Any]:
    table = data.get(name, {})
    if not isinstance(table, dict):
        raise DefinitionError((name,), "must be a table")
    return table


def _take(data: dict[str, Any], path: tuple[str, ...], check: Callable[[tuple[str, ...], Any], Any]) -> Any:
    if path[-1] not in data:
        raise DefinitionError(path, "is missing")
    return check(path, data[path[-1]])


def _text(path: tuple[str, ...], value: Any) -> str:
    if not isinstance(value, str):
        raise DefinitionError(path, "must be a text")
    return value


def _count(path: tuple[str, ...], value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
        raise DefinitionError(path, "must be a whole number from 1")
    return value


def _positive(path: tuple[str, ...], value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not LEAST <= value <= MOST:
        raise DefinitionError(path, f"must be a number above 0, from {LEAST:g} to {MOST:g}")
    return float(value)


def _numbers(path: tuple[str, ...], table: dict[str, Any]) -> dict[str, float]:
    return {key: float(_positive((*path, key), value)) for key, value in table.items()}


def _several(path: tuple[str, ...], value: Any, count: int) -> Any:
    if not isinstance(value, list) or len(value) != count:
        raise DefinitionError(path, f"must be a list of {count} numbers")
    return tuple(float(_positive(path, one)) for one in value)


def _pitch(path: tuple[str, ...], value: Any) -> Any:
    pitch = _several(path, value, 2)
    if max(pitch) > WIDEST_PITCH_MM:
        raise DefinitionError(path, f"a zone is at most {WIDEST_PITCH_MM:g} mm wide")
    return pitch


def _only(path: tuple[str, ...], table: dict[str, Any], known: set[str]) -> None:
    for key in sorted(table.keys() - known):
        raise DefinitionError((*path, key), f"no such field; known: {', '.join(sorted(known))}")


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _line_of(text: str, path: tuple[str, ...]) -> int:
    """Where the last part of `path` stands, else the nearest above it, else the first line."""
    table: tuple[str, ...] = ()
    best, depth = 1, 0
    for number, line in enumerate(text.split("\n"), 1):
        if header := _TABLE.match(line):
            table = here = _parts(header[1].strip("[] "))
        elif key := _KEY.match(line):
            here = (*table, *_parts(key[1]))
        else:
            continue
        shared = len(here) if here == path[: len(here)] else len(path) if path == here[: len(path)] else 0
        if shared > depth:
            best, depth = number, shared
    return best


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in _DOT.split(dotted))
