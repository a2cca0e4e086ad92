"""Whatever docs/runbooks.md and docs/operations.md tell somebody to ask of the service, it answers: by its table of routes
and by that of the management port, with the query's parameters.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final, cast

import pytest

from app.application import create_app
from app.core.health import Health
from app.core.metrics import Metrics
from app.management_routes import management_routes
from app.settings import Settings
from tests.deploy.tools import ROOT

PAGES: Final = ("runbooks.md", "operations.md")
ASKED: Final = re.compile(r"(?:HOST|127\.0\.0\.1):(8000|9100)(/[^\s`]*)")
NAMED: Final = re.compile(r"\b(GET|PUT|POST|PATCH|DELETE) ((?:\.\.\.)?/[^\s`)\"',]+)")
PLACE: Final = re.compile(r"[A-Z]+")
LEAST: Final = {"runbooks.md": (3, 10), "operations.md": (3, 8)}


@cache
def routes() -> dict[tuple[str, str], frozenset[str] | None]:
    """Method and path of each route, with the names of what may stand in its query where the API's description has it."""
    app = create_app(Settings(_env_file=None, fault_switches=True))
    known: dict[tuple[str, str], frozenset[str] | None] = {}
    for route in app.routes:
        for method in getattr(route, "methods", None) or ():
            known[method, getattr(route, "path", "")] = None
    for path, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            names = (one["name"] for one in operation.get("parameters", ()) if one["in"] == "query")
            known[method.upper(), path] = frozenset(names)
    return known


@cache
def management() -> frozenset[str]:
    return frozenset(management_routes(cast("Any", Health), Metrics().registry))


def wrong(method: str, target: str) -> str | None:
    """What is wrong with a request, or nothing. A path that begins with `...` is the end of one."""
    path, _, query = target.partition("?")
    names = {part.partition("=")[0] for part in query.split("&") if part}
    found = [known for (verb, template), known in routes().items() if verb == method and _meets(path, template)]
    if not found:
        return f"no route {method} {path}"
    if not any(known is None or names <= known for known in found):
        return f"{method} {path} does not take {query}"
    return None


def _meets(path: str, template: str) -> bool:
    asked, there = path.split("/"), template.split("/")
    if asked[0] == "...":
        asked, there = asked[1:], there[-len(asked) + 1 :]
    return len(asked) == len(there) and all(_same(*pair) for pair in zip(asked, there, strict=True))


def _same(asked: str, there: str) -> bool:
    return asked == there or (there.startswith("{") and asked != "")


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_to_ask_is_answered(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    asked = [(port, path) for port, path in ASKED.findall(text) if path != "/..."]
    named = NAMED.findall(text)
    assert len(asked) >= LEAST[page][0]
    assert len(named) >= LEAST[page][1]
    missing = [f":9100{path}" for port, path in asked if port == "9100" and path not in management()]
    missing += [said for port, path in asked if port == "8000" and (said := wrong("GET", path))]
    missing += [said for method, target in named if (said := wrong(method, target))]
    assert missing == []


def test_what_is_not_there_is_found() -> None:
    assert wrong("GET", "/api/admin/caches") == "no route GET /api/admin/caches"
    assert wrong("PUT", "/api/admin/cache") == "no route PUT /api/admin/cache"
    assert wrong("GET", "/api/bugs/?states=open") == "GET /api/bugs/ does not take states=open"
    assert wrong("POST", ".../DELIVERY/send") == "no route POST .../DELIVERY/send"
    assert "/healthz" not in management()
