"""What the manifests name exists in the product: settings, ports, routes, commands."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main
from pydantic import SecretStr

from app.cli import cli
from app.settings import SHUTDOWN_MARGIN_S, Settings, load_settings
from tests.deploy.memory import BUSY_BYTES, bytes_of, needed_bytes
from tests.deploy.rendered import BACKUP, MIGRATION, OVERLAYS, SERVER, Rendered, rendered, settings_of
from tests.deploy.tools import ROOT
from tests.support import free_port, running_server

GUIDE: Final = {  # docs/production_infrastructure_guide.md, "Configuration Kubernetes"
    "startupProbe": ("/health/startup", 8000, 0, 5, 30),
    "livenessProbe": ("/health/live", 8000, 10, 30, 3),
    "readinessProbe": ("/health/ready", 8000, 5, 10, 3),
}
WINDOW_S: Final = 3  # SHUTDOWN_PROPAGATION_S' default: so long must somebody wait


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> Rendered:
    return rendered(request.param)


def test_every_pod_is_there(overlay: Rendered) -> None:
    assert {pod.owner for pod in overlay.pods()} == {SERVER, MIGRATION, BACKUP}


# Settings


def test_every_variable_and_every_secret_is_a_setting(overlay: Rendered) -> None:
    for pod in overlay.pods():
        variables, secrets = overlay.environment(pod), overlay.secret_files(pod)
        assert {name.lower() for name in variables} <= Settings.model_fields.keys()
        assert secrets.keys() <= Settings.model_fields.keys()
        assert all(_is_secret(name) for name in secrets)
        assert not [name for name in variables if _is_secret(name.lower())]


def _is_secret(name: str) -> bool:
    return SecretStr in _inside(Settings.model_fields[name].annotation)


def _inside(annotation: Any) -> Iterator[Any]:
    """It, and what it is made of: X of `X | None`, of `Annotated[X, ...]`."""
    yield annotation
    for one in getattr(annotation, "__args__", ()):
        yield from _inside(one)


def test_the_service_accepts_its_settings(overlay: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pod in overlay.pods():
        settings = settings_of(overlay, pod, tmp_path, monkeypatch)
        assert settings.database_url is not None
        assert (settings.environment, settings.auth) == ("production", "keys")


def test_only_the_backup_knows_where_backups_are_and_has_their_keys(overlay: Rendered) -> None:
    """A server with the place and no keys would ask the cloud's machine for some."""
    assert "BACKUP_TO" in overlay.environment(overlay.pod(BACKUP))
    for owner in (SERVER, MIGRATION):
        pod = overlay.pod(owner)
        named = overlay.secret_files(pod).keys() | {name.lower() for name in overlay.environment(pod)}
        assert "database_url" in named
        assert not [name for name in named if name.startswith("backup_")]


def test_memory_has_room_for_what_queue_and_cache_may_hold(
    overlay: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = overlay.pod(SERVER)
    settings = settings_of(overlay, pod, tmp_path, monkeypatch)
    resources = pod.container["resources"]
    assert bytes_of(resources["limits"]["memory"]) >= needed_bytes(settings)
    assert bytes_of(resources["requests"]["memory"]) >= BUSY_BYTES + settings.ingest_queue_bytes
    monkeypatch.setenv("INGEST_QUEUE_BYTES", str(2**30))
    assert bytes_of(resources["limits"]["memory"]) < needed_bytes(load_settings())


def test_a_pod_ends_within_its_grace_period(overlay: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = overlay.pod(SERVER)
    settings = settings_of(overlay, pod, tmp_path, monkeypatch)
    granted = pod.spec["terminationGracePeriodSeconds"]
    hook = pod.container["lifecycle"]["preStop"]["exec"]["command"]
    slept = re.search(r"sleep\((\d+)\)$", hook[-1])
    assert hook[:2] == ["python", "-c"]
    assert slept is not None
    assert settings.termination_grace_period_s == granted
    assert int(slept[1]) + settings.shutdown_budget_s + SHUTDOWN_MARGIN_S <= granted
    assert int(slept[1]) + settings.shutdown_propagation_s >= WINDOW_S


def test_a_pod_that_is_stuck_is_not_waited_for(overlay: Rendered) -> None:
    """Liveness failed, so it cannot drain: what it is granted is time without service. The hook's sleep counts."""
    container = overlay.pod(SERVER).container
    hook = container["lifecycle"]["preStop"]["exec"]["command"]
    slept = int(re.findall(r"sleep\((\d+)\)$", hook[-1])[0])
    granted = {name: container[name].get("terminationGracePeriodSeconds") for name in GUIDE}
    assert granted == {"startupProbe": None, "livenessProbe": slept + 5, "readinessProbe": None}


# Ports, probes, commands


def test_ports_are_the_services_own(overlay: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = overlay.pod(SERVER)
    settings = settings_of(overlay, pod, tmp_path, monkeypatch)
    command = pod.container["command"]
    assert pod.ports == {"http": int(command[command.index("--port") + 1]), "metrics": settings.metrics_port}
    assert settings.metrics_host == "0.0.0.0"
    for service in overlay.of("Service"):
        for port in service["spec"]["ports"]:
            assert pod.ports[port["targetPort"]] == port["port"]


def test_the_probes_are_the_guides(overlay: Rendered) -> None:
    container = overlay.pod(SERVER).container
    for name, (path, port, delay, period, failures) in GUIDE.items():
        probe = dict(container[name])
        assert 1 < probe.pop("timeoutSeconds") <= period
        probe.pop("terminationGracePeriodSeconds", None)  # the test of the grace periods
        assert probe == {
            "httpGet": {"path": path, "port": port},
            "initialDelaySeconds": delay,
            "periodSeconds": period,
            "failureThreshold": failures,
        }
        assert port == overlay.pod(SERVER).ports["http"]


def test_a_real_server_with_the_pods_settings_answers_what_is_probed_and_scraped() -> None:
    found = rendered("site")
    pod = found.pod(SERVER)
    [endpoint] = found.one("ServiceMonitor")["spec"]["endpoints"]
    here = {"METRICS_HOST": "127.0.0.1", "METRICS_PORT": str(free_port())}
    elsewhere = ("DATA_DIR", "SECRETS_DIR", "REDIS_HOST")
    given = {name: value for name, value in found.environment(pod).items() if name not in elsewhere}
    with running_server(**given | here) as server:
        for name in GUIDE:
            assert server.request(pod.container[name]["httpGet"]["path"])[0] == 200, name
        assert server.request("/api/sqal/samples")[0] == 401
        assert server.request(endpoint["path"])[0] in (401, 404)
        server.url = f"http://127.0.0.1:{here['METRICS_PORT']}"
        status, body, _ = server.request(endpoint["path"])
    assert status == 200, body
    assert b"samples_committed_total" in body


def test_every_command_is_one_of_the_command_line(overlay: Rendered) -> None:
    program = typer.main.get_command(cli)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for pod in overlay.pods():
        name, *arguments = pod.container["command"]
        assert name in scripts
        context = program.make_context(name, arguments[:1], resilient_parsing=True)
        command = program.get_command(context, arguments[0])  # type: ignore[attr-defined]
        assert command is not None, arguments
        assert arguments[1:] or getattr(command, "invoke_without_command", True), f"{arguments} only has subcommands"
        command.make_context(arguments[0], arguments[1:], parent=context)  # raises where an option is unknown


def test_the_image_is_this_version(overlay: Rendered) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {pod.container["image"] for pod in overlay.pods()} == {f"gaveurs-backend:{version}"}
