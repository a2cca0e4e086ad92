"""Every event that the code logs, read from its source. Run as a module it writes the table of docs/logs.md."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "logs.md"
BEGIN, END = "<!-- events: python -m tests.log_catalogue -->\n", "<!-- end of events -->\n"
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


@dataclass(frozen=True, order=True, slots=True)
class Logged:
    """One call. `event` has `{}` for a part that varies, and is None where the text is not in the call."""

    logger: str
    event: str | None
    level: str
    fields: tuple[str, ...]
    place: str
    constant: bool


@cache
def all_events() -> list[Logged]:
    found = [one for path in sorted((ROOT / "app").rglob("*.py")) for one in events_of(path)]
    return sorted(found, key=lambda one: (one.logger, one.event or "", one.level))


def events_of(path: Path) -> list[Logged]:
    source = path.read_text()
    if "get_logger" not in source and "say=" not in source:
        return []
    tree = ast.parse(source)
    names = _loggers(tree)
    nodes = list(ast.walk(tree))
    chosen = _chosen(nodes, names)
    place = str(path.relative_to(ROOT))
    found = []
    for node in nodes:
        if isinstance(node, ast.Call):
            for logger, level in _target(node, chosen, names):
                found += _logged(node, logger, level, place)
    return [*found, *_said_on_closing(nodes, place)]


def _loggers(tree: ast.Module) -> dict[str, str]:
    """Names of the module that are loggers, and what these are called."""
    names = {}
    constants = {
        node.target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _is_getter(node.value.func):
            (target,), (argument,) = node.targets, node.value.args
            assert isinstance(target, ast.Name)
            value = argument.value if isinstance(argument, ast.Constant) else constants[ast.unparse(argument)]
            names[target.id] = str(value)
    return names


def _is_getter(function: ast.expr) -> bool:
    return ast.unparse(function).rpartition(".")[2] in {"get_logger", "getLogger"}


def _target(call: ast.Call, chosen: dict[str, list[tuple[str, str]]], names: dict[str, str]) -> list[tuple[str, str]]:
    function = call.func
    if isinstance(function, ast.Name):
        if function.id == "_say" and names.get("log") == "gaveurs.shutdown":
            return [("gaveurs.shutdown", "info")]
        return chosen.get(function.id, [])
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.attr in LEVELS:
        logger = names.get(function.value.id)
        return [(logger, function.attr)] if logger else []
    return []


def _chosen(nodes: list[ast.AST], names: dict[str, str]) -> dict[str, list[tuple[str, str]]]:
    """`write = log.debug if quiet else log.info`, then `write(...)`."""
    return {
        ast.unparse(node.targets[0]): [
            (names[way.value.id], way.attr)
            for way in (node.value.body, node.value.orelse)
            if isinstance(way, ast.Attribute) and isinstance(way.value, ast.Name) and way.value.id in names
        ]
        for node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.IfExp)
    }


def _logged(call: ast.Call, logger: str, level: str, place: str) -> list[Logged]:
    fields = {"**" if one.arg is None else one.arg for one in call.keywords}
    if level == "exception" or "exc_info" in fields:
        fields = (fields - {"exc_info"}) | {"exception"}
    fields -= {"repeats"}  # is not written: what the line repeats
    level = "error" if level == "exception" else level
    texts = _texts(call.args[0]) if call.args else [(None, False)]
    where = f"{place}:{call.lineno}"
    return [Logged(logger, event, level, tuple(sorted(fields)), where, constant) for event, constant in texts]


def _texts(node: ast.expr) -> list[tuple[str | None, bool]]:
    """`"this" if so else "that"` are two."""
    return [_text(node.body), _text(node.orelse)] if isinstance(node, ast.IfExp) else [_text(node)]


def _text(node: ast.expr) -> tuple[str | None, bool]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value, True
    if isinstance(node, ast.JoinedStr):
        parts = (str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        return "".join(parts), False
    return None, False


def _said_on_closing(nodes: list[ast.AST], place: str) -> list[Logged]:
    """`supervisor.closing(..., say="...")`: said by the supervisor."""
    says = [one for node in nodes if isinstance(node, ast.Call) for one in node.keywords if one.arg == "say"]
    return [
        Logged("gaveurs.resources", _text(one.value)[0], "info", (), f"{place}:{one.value.lineno}", constant=True)
        for one in says
    ]


def table() -> str:
    lines = ["| logger | level | event | fields |\n", "|---|---|---|---|\n"]
    rows: dict[tuple[str, str, str], set[str]] = {}
    for one in all_events():
        if one.event is not None:
            rows.setdefault((one.logger, one.level, one.event.replace("|", "\\|")), set()).update(one.fields)
    for (logger, level, event), fields in rows.items():
        shown = ", ".join("..." if field == "**" else f"`{field}`" for field in sorted(fields))
        lines.append(f"| `{logger}` | {level} | {event} | {shown} |\n")
    return "".join(lines)


def page(text: str) -> str:
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{PAGE} has no table of events"
    assert end, f"{PAGE} does not end its table of events"
    return f"{before}{begin}{table()}{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
