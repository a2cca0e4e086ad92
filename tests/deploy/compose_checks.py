"""What Compose itself does not look at: whether the parts of deploy/compose.yaml fit each other and the application."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import yaml

from app.cli import cli
from app.core.health import Health
from app.settings import Settings
from scripts import containerfile
from scripts.rehearse_container import CONTAINERFILE
from tests.deploy.compose_images import OURS, READY, Service, files_of, image_of, listens
from tests.deploy.compose_parts import account_problems, bucket_problems, part_problems
from tests.deploy.tools import DEPLOY, ROOT, tool

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPOSE = DEPLOY / "compose.yaml"
HOST_PATHS = {"/var/lib/docker/containers"}
ADDRESS = re.compile(r"(?:https?://|@|^)([a-z]+):(\d+)(?:/|$)")
PROBES = {f"/health/{name}" for name in ("startup", "live", "ready") if hasattr(Health, name)}


def model(path: Path = COMPOSE) -> dict[str, Any]:
    """The file as Compose understands it: checked against its schema, merged, with variables at their defaults."""
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    command = [
        tool("docker-compose"),
        "--project-directory",
        str(DEPLOY),
        "-f",
        str(path),
        "config",
        "--format",
        "json",
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert "level=warning" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    declared = yaml.safe_load(path.read_text())  # Compose leaves out what no service uses
    return found | {
        "unused": {kind: declared[kind].keys() - found[kind].keys() for kind in ("volumes", "secrets", "networks")}
    }


def problems(found: dict[str, Any], secrets: Path) -> list[str]:
    """`secrets`: a folder that make_secrets.sh filled."""
    services: dict[str, Service] = found["services"]
    told = [*_unused(found), *_secrets(found, secrets), *_networks(found), *_scraped(services)]
    for name, service in services.items():
        for check in (_image, _ports, _mounts, _health, _waits, _hardened, _addresses, _application, part_problems):
            told += [f"{name}: {problem}" for problem in check(name, services, service)]
    told += [*bucket_problems(services, secrets), *account_problems(services, secrets)]
    for problem in _database_url(services, secrets):
        told.append(f"database_url: {problem}")
    return told


def once(service: Service) -> bool:
    return bool(service["restart"] == "no")


def shared(one: Service, other: Service) -> bool:
    return bool(set(one.get("networks", ())) & set(other.get("networks", ())))


def _image(_name: str, _services: dict[str, Service], service: Service) -> Iterator[str]:
    image, _, tag = service["image"].rpartition(":")
    if image == OURS:
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        if tag != version:
            yield f"the image is {tag}, pyproject says {version}"
    elif not re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-pg17|-alpine)?", tag):
        yield f"{tag} is no pinned version"


def _ports(_name: str, _services: dict[str, Service], service: Service) -> Iterator[str]:
    for port in service.get("ports", ()):
        if port["target"] not in listens(service):
            yield f"publishes {port['target']}, where nothing listens"
        if port.get("host_ip") != "127.0.0.1" and image_of(service) != OURS:
            yield f"publishes {port['target']} to the network"


def _mounts(_name: str, _services: dict[str, Service], service: Service) -> Iterator[str]:
    for mount in service.get("volumes", ()):
        if mount["type"] != "bind":
            continue
        if mount["source"] not in HOST_PATHS and not Path(mount["source"]).exists():
            yield f"mounts {mount['source']}, which does not exist"
        if not mount.get("read_only"):
            yield f"may write to {mount['source']}"


def _health(_name: str, services: dict[str, Service], service: Service) -> Iterator[str]:
    check = service.get("healthcheck", {})
    if once(service):
        waited_for = any(_name in other.get("depends_on", {}) for other in services.values())
        if not waited_for:
            yield "runs once, and nobody waits for it"
        return
    if check.get("disable") or not check.get("test"):
        yield "has no health check"
        return
    words = " ".join(check["test"])
    url = re.search(r"http://127\.0\.0\.1:(\d+)(/\S*)|'127\.0\.0\.1', (\d+).*?'GET', '([^']+)'", words)
    if url is None:
        return
    port, path = int(url[1] or url[3]), url[2] or url[4]
    known = PROBES if image_of(service) == OURS else {READY.get(image_of(service))}
    if port not in listens(service):
        yield f"its health check asks port {port}"
    if path not in known:
        yield f"its health check asks {path}"


def _waits(_name: str, services: dict[str, Service], service: Service) -> Iterator[str]:
    for other, how in service.get("depends_on", {}).items():
        if _does_without(service, other):
            if other != "redis" or how["condition"] != "service_started":
                yield f"works without {other}, and waits for it as {how['condition']}"
            continue
        wanted = "service_completed_successfully" if once(services[other]) else "service_healthy"
        if how["condition"] != wanted and how["condition"] != "service_started":
            yield f"waits for {other} as {how['condition']}"
        if how["condition"] == "service_started" and service.get("network_mode") != f"service:{other}":
            yield f"does not wait until {other} is ready"


def _does_without(service: Service, other: str) -> bool:
    """The server alone: a backup without its bucket fails. One that waits for a job waits for what that waits for, so of
    these only Redis, which waits for nobody, may be named, and only so that it is started.
    """
    serves = image_of(service) == OURS and (service.get("command") or ["serve"])[0] == "serve"
    return serves and other in ("redis", "buckets", "storage")


def _hardened(_name: str, _services: dict[str, Service], service: Service) -> Iterator[str]:
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    demands = {
        "privileged": not service.get("privileged"),
        "capabilities": service.get("cap_drop") == ["ALL"],
        "new privileges": "no-new-privileges:true" in service.get("security_opt", ()),
        "memory without bound": bool(limits.get("memory")),
        "log without bound": {"max-size", "max-file"} <= service.get("logging", {}).get("options", {}).keys(),
        "one-off containers' lines cannot be told": {"com.docker.compose.service", "com.docker.compose.oneoff"}
        <= set(service.get("logging", {}).get("options", {}).get("labels", "").split(",")),
        "no restart policy": service.get("restart") in ("unless-stopped", "no"),
        "writable root": image_of(service) != OURS or bool(service.get("read_only")),
        "Docker's socket": "docker.sock" not in json.dumps(service),
    }
    yield from (what for what, holds in demands.items() if not holds)


def _addresses(name: str, services: dict[str, Service], service: Service) -> Iterator[str]:
    """Whatever it is told to reach is a service, on a port of its, over a network of both."""
    for value in (service.get("environment") or {}).values():
        for host, port in ADDRESS.findall(str(value)):
            yield from _reaches(name, services, service, host, int(port))


def _reaches(name: str, services: dict[str, Service], service: Service, host: str, port: int) -> Iterator[str]:
    other = services.get(name if host == "localhost" else host)
    if other is None:
        yield f"is to reach {host}, which is no service"
    elif port not in listens(other):
        yield f"is to reach {host}:{port}, where nothing listens"
    elif other is not service and not shared(service, other):
        yield f"shares no network with {host}"


def _application(_name: str, services: dict[str, Service], service: Service) -> Iterator[str]:
    """Our own image: settings, command, and time to stop."""
    if image_of(service) != OURS:
        return
    environment = service.get("environment") or {}
    yield from (f"{name} is no setting" for name in environment if name.lower() not in Settings.model_fields)
    command = service.get("command") or containerfile.read(CONTAINERFILE)[-1].last("CMD").words()
    if command[0] not in typer.main.get_command(cli).commands:  # type: ignore[attr-defined]
        yield f"there is no command {command[0]}"
    if command[0] == "serve":
        granted = environment.get("TERMINATION_GRACE_PERIOD_S")
        if granted is None or service.get("stop_grace_period") not in (f"{granted}s", _minutes(float(granted))):
            yield f"TERMINATION_GRACE_PERIOD_S is {granted}, stop_grace_period {service.get('stop_grace_period')}"
        if environment.get("REDIS_HOST") not in services:
            yield "REDIS_HOST is no service"


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)}m{int(seconds % 60)}s"


def _unused(found: dict[str, Any]) -> Iterator[str]:
    yield from (f"{name} ({kind}) is not used" for kind, names in found["unused"].items() for name in names)


def _secrets(found: dict[str, Any], made: Path) -> Iterator[str]:
    services: dict[str, Service] = found["services"]
    used = {one["source"] for service in services.values() for one in service.get("secrets", ())}
    for name, secret in found["secrets"].items():
        if Path(secret["file"]).parent != DEPLOY / "compose" / "secrets" or not (made / name).is_file():
            yield f"secret {name}: make_secrets.sh does not make {secret['file']}"
    yield from (f"make_secrets.sh makes {path.name} for nobody" for path in made.iterdir() if path.name not in used)
    for name, service in services.items():
        for one in service.get("secrets", ()):
            if not _reads(service, one["source"]):
                yield f"{name}: does not read the secret {one['source']}"


def _reads(service: Service, secret: str) -> bool:
    if image_of(service) == OURS:
        return secret in Settings.model_fields
    words = [json.dumps({key: value for key, value in service.items() if key != "secrets"})]
    words += [path.read_text() for path in files_of(service)]
    return any(f"/run/secrets/{secret}" in text for text in words)


def _networks(found: dict[str, Any]) -> Iterator[str]:
    services = found["services"]
    if not found["networks"]["back"].get("internal"):
        yield "network back leads outside"
    for name in ("database", "redis", "storage"):
        if set(services[name]["networks"]) != {"back"}:
            yield f"{name} is reached from {sorted(services[name]['networks'])}"


def _scraped(services: dict[str, Service]) -> Iterator[str]:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    managers = [one for group in config["alerting"]["alertmanagers"] for one in group["static_configs"]]
    for group in [*managers, *(one for job in jobs.values() for one in job.get("static_configs", ()))]:
        for target in group["targets"]:
            host, _, port = target.partition(":")
            yield from (
                f"prometheus {told}"
                for told in _reaches("prometheus", services, services["prometheus"], host, int(port))
            )
    metrics_port = containerfile.read(CONTAINERFILE)[-1].environment()["METRICS_PORT"]
    if jobs["gaveurs-backend"]["static_configs"] != [{"targets": [f"backend:{metrics_port}"]}]:
        yield f"prometheus does not scrape backend:{metrics_port}"


def _database_url(services: dict[str, Service], made: Path) -> Iterator[str]:
    for host, port in ADDRESS.findall((made / "database_url").read_text().strip()):
        yield from _reaches("backend", services, services["backend"], host, int(port))
