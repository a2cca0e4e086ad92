"""The guide, executed: every fenced block of docs/production_infrastructure_guide.md is run or held against the real
thing, and docs/guide-conformance.md says of each what became of it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import typer

from app.cli import cli
from app.settings import Settings
from tests.guide import in_files, in_python, on_server
from tests.guide.blocks import ROOT, blocks, rows, section
from tests.guide.stage import START, running_stage, shell
from tests.support import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.guide.stage import Handler, Stage

CONFORMANCE = ROOT / "docs" / "guide-conformance.md"
HANDLERS: dict[str, Handler] = {
    "Architecture: Avant (backend-api basique)": in_files.before,
    "Architecture: Après (production-ready)": in_files.after,
    "Health Checks Kubernetes: Endpoints disponibles": on_server.probes_and_health,
    "Health Checks Kubernetes: Configuration Kubernetes": in_files.kubernetes_probes,
    "Bug Tracking API: Créer un bug": on_server.create_a_bug,
    "Bug Tracking API: Lister les bugs": on_server.list_bugs,
    "Bug Tracking API: Ajouter un commentaire": on_server.comment_on_a_bug,
    "Bug Tracking API: Métriques bugs": on_server.figures_of_bugs,
    "Métriques Prometheus: Métriques disponibles": on_server.metrics,
    "Métriques Prometheus: Scraper Prometheus": in_files.scraping,
    "Métriques Prometheus: Grafana Dashboard": in_files.grafana,
    "Cache Redis: Configuration": in_python.env_file,
    "Cache Redis: Invalidation cache": in_python.cache_is_invalidated,
    "Circuit Breaker: Protection automatique": in_python.breakers_protect,
    "Circuit Breaker: Configuration": in_python.breaker_as_configured,
    "Rate Limiter: Protection WebSocket": in_python.socket_is_limited,
    "Rate Limiter: Statistiques": in_python.limits_are_told,
    "Installation & Configuration: 1. Appliquer schéma bug tracking": on_server.schema_by_psql,
    "Installation & Configuration: 2. Démarrer Redis": in_files.redis_in_containers,
    "Installation & Configuration: 3. Variables d'environnement": in_python.env_file,
    START: on_server.backend_runs,
    "Monitoring Production: Alertes recommandées": in_files.alerts,
    "Tests: Health checks": on_server.curls_of_probes,
    "Tests: Bug tracking": on_server.curls_of_bugs,
    "Tests: Métriques Prometheus": on_server.curl_of_metrics,
    # Last: it ends the service.
    "Graceful Shutdown: Logs shutdown": on_server.shutdown,
}
DASHBOARDS = {
    "Request rate (req/s)": ("gaveurs-infrastructure", "Request rate"),
    "Response time (p50, p95, p99)": ("gaveurs-infrastructure", "Response time"),
    "Error rate (%)": ("gaveurs-infrastructure", "Error rate"),
    "Cache hit rate (%)": ("gaveurs-infrastructure", "Cache hit rate"),
    "Samples processed/hour": ("gaveurs-business", "Samples an hour, by grade"),
    "Quality score moyenne": ("gaveurs-business", "Quality score"),
    "Reject rate (%)": ("gaveurs-business", "Rejects"),
    "Conformity rate (%)": ("gaveurs-business", "Conformity"),
    "Active devices": ("gaveurs-devices", "Active"),
    "Offline devices": ("gaveurs-devices", "Offline"),
    "WebSocket connections": ("gaveurs-devices", "WebSockets open"),
    "Firmware versions distribution": ("gaveurs-devices", "Firmware"),
    "Open bugs (par severity)": ("gaveurs-bugs", "Open, by severity"),
    "Bugs resolved today": ("gaveurs-bugs", "Resolved today"),
    "Avg resolution time": ("gaveurs-bugs", "Average resolution"),
    "Critical bugs count": ("gaveurs-bugs", "Critical bugs open"),
}
UNITS = {"s": 1.0, "min": 60.0}


@pytest.fixture(scope="module")
def stage(postgres_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(postgres_dsn, tmp_path_factory.mktemp("guide")) as running:
        yield running


def test_every_block_of_the_guide_has_somebody_who_runs_it() -> None:
    assert set(blocks()) == set(HANDLERS)
    assert len(HANDLERS) == 26


def checklist() -> dict[str, str]:
    """The command of each line of the checklist in docs/operations.md."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    part = text.partition("## Before production\n")[2].partition("\n## ")[0]
    lines = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in part.splitlines() if line.startswith("| ")]
    return {first: command for first, command, _ in lines[1:]}


def test_every_line_of_the_checklist_has_its_command() -> None:
    assert list(checklist()) == re.findall(r"(?m)^- \[ \] (.+)$", section("Checklist Production"))


def test_the_checklists_curls_get_an_answer_where_keys_are_asked_for() -> None:
    lines = re.findall(r"`(curl [^`]+)`", " ".join(checklist().values()))
    assert len(lines) == 2
    with running_server(AUTH="keys") as server:
        made = ("keys", "create", "--name", "checklist", "--role", "viewer", "--data-dir", str(server.folder))
        key = subprocess.run(
            [sys.executable, "-m", "app.cli", *made], capture_output=True, text=True, timeout=30, check=True
        ).stdout.strip()
        for line in lines:
            command = line.replace("http://127.0.0.1:8000", server.url)
            assert command != line
            done = shell(command, home=ROOT, KEY=key)
            assert done.returncode == 0, done.stderr
            assert ("X-API-Key" in line) == (shell(command, home=ROOT, KEY="").returncode != 0)


def test_every_command_of_the_checklist_is_there() -> None:
    """Subcommands, targets, files and recorded rules exist."""
    commands = " ".join(checklist().values())
    for words in re.findall(r"gaveurs ([a-z]+(?: [a-z]+)?)", commands):
        assert has_command(words.split()), words
    targets = re.findall(r"make ([a-z-]+)", commands)
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    assert all(re.search(rf"(?m)^{target}:", makefile) for target in targets)
    for path in re.findall(r"(?:deploy|tests)/[\w./-]+", commands):
        assert (ROOT / path).is_file() or path.endswith("gaveurs-backend"), path
    recorded = (ROOT / "deploy" / "prometheus" / "rules" / "recording.yml").read_text()
    assert all(f"record: {name}\n" in recorded for name in re.findall(r"job:\w+:\w+", commands))


def has_command(words: list[str]) -> bool:
    """Among the command line's own; a second word is one where the first is a group."""
    command: Any = typer.main.get_command(cli)
    for word in words:
        if not hasattr(command, "commands"):
            return True
        if word not in command.commands:
            return False
        command = command.commands[word]
    return True


@pytest.mark.parametrize("name", HANDLERS)
def test_block(name: str, stage: Stage) -> None:
    HANDLERS[name](blocks()[name], stage)


def test_the_table_of_times_in_the_cache_is_the_settings_defaults() -> None:
    shown = {kind: re.fullmatch(r"(\d+)(s|min)", ttl) for kind, ttl, _ in rows("Stratégies TTL")}
    assert len(shown) == 4
    for kind, ttl in shown.items():
        assert ttl is not None
        assert Settings.model_fields[f"cache_ttl_{kind}_s"].default == float(ttl[1]) * UNITS[ttl[2]]


def test_the_dashboards_of_the_guide_have_their_panels() -> None:
    shown = re.findall(r"(?m)^   - (.+)$", section("Dashboards essentiels"))
    assert shown == list(DASHBOARDS)
    ours = in_files.dashboards()
    for uid, title in DASHBOARDS.values():
        assert title in ours[uid], (uid, title)


def conformance() -> dict[str, list[str]]:
    """The other cells of the table's lines, by the block they are of."""
    lines = [line for line in CONFORMANCE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {first: rest for first, *rest in cells if first in HANDLERS}


def test_the_page_of_conformance_says_of_each_block_what_became_of_it() -> None:
    told = conformance()
    assert list(told) == list(blocks()), "each block once, in the guide's order"
    for name, (verdict, proof) in told.items():
        assert verdict.startswith(("as written", "corrected")), name
        for path, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)", proof):
            assert f"def {test}(" in (ROOT / path).read_text(), (name, path, test)
        assert f"`{HANDLERS[name].__name__}`" in proof, name
