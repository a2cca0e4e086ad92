"""What each image of deploy/compose.yaml makes of its command, its files and its environment; from their documentation."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import yaml

from scripts import containerfile
from scripts.rehearse_container import CONTAINERFILE
from tests.deploy.tools import DEPLOY

OURS: Final = "gaveurs-backend"
Service = dict[str, Any]
# The path that says that it is ready.
READY: Final = {
    "prom/prometheus": "/-/ready",
    "prom/alertmanager": "/-/ready",
    "grafana/grafana": "/api/health",
    "grafana/loki": "/ready",
    "chrislusf/seaweedfs": "/healthz",
}
# Where an image writes beside its data; with a read-only root that must be a tmpfs.
SCRATCH: Final = {OURS: "/tmp", "redis": "/data", "grafana/grafana": "/tmp", "grafana/loki": "/tmp"}


def image_of(service: Service) -> str:
    return str(service["image"]).rpartition(":")[0]


def environment_of(service: Service) -> dict[str, str]:
    return dict(service.get("environment") or {})


def option(service: Service, name: str, default: str) -> str:
    """`-name=value` or `--name=value` of its command."""
    values = [re.fullmatch(rf"--?{re.escape(name)}=(.*)", word) for word in service.get("command") or ()]
    return next((found[1] for found in values if found is not None), default)


def mounted(service: Service, inside: str) -> Path | None:
    """The file or folder of the repository that the container finds there."""
    for mount in service.get("volumes", ()):
        target = Path(mount["target"])
        if mount["type"] == "bind" and Path(inside).is_relative_to(target):
            return Path(mount["source"]) / Path(inside).relative_to(target)
    return None


def text_of(service: Service, inside: str) -> str:
    """Nothing where nothing is mounted, which is a problem of its own."""
    path = mounted(service, inside)
    return path.read_text() if path is not None and path.is_file() else ""


def redis_says(service: Service, word: str, default: str) -> str:
    lines = re.findall(rf"(?m)^{word} (.+)$", text_of(service, _redis_conf(service)))
    return lines[-1] if lines else default


def _redis_conf(service: Service) -> str:
    return next((word for word in service.get("command") or () if word.endswith(".conf")), "/none")


def _loki(service: Service) -> Any:
    return yaml.safe_load(text_of(service, option(service, "config.file", "/none"))) or {}


def _last_port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _ours(service: Service) -> set[int]:
    stage = containerfile.read(CONTAINERFILE)[-1]
    words = list(service.get("command") or stage.last("CMD").words())
    app = {int(words[words.index("--port") + 1])} if "--port" in words else set()
    return (
        app | {int((stage.environment() | environment_of(service))["METRICS_PORT"])} if words[0] == "serve" else set()
    )


LISTENS: Final[dict[str, Callable[[Service], set[int]]]] = {
    OURS: _ours,
    "timescale/timescaledb": lambda one: {int(environment_of(one).get("PGPORT", "5432"))},
    "redis": lambda one: {int(redis_says(one, "port", "6379"))},
    "chrislusf/seaweedfs": lambda one: {int(option(one, "s3.port", "8333"))},
    "prom/prometheus": lambda one: {_last_port(option(one, "web.listen-address", ":9090"))},
    "prom/alertmanager": lambda one: {_last_port(option(one, "web.listen-address", ":9093"))},
    "grafana/grafana": lambda one: {int(environment_of(one).get("GF_SERVER_HTTP_PORT", "3000"))},
    "grafana/loki": lambda one: {int(_loki(one).get("server", {}).get("http_listen_port", 3100))},
    "balabit/syslog-ng": lambda _: set(),
}
KEEPS: Final[dict[str, Callable[[Service], str]]] = {
    OURS: lambda _: containerfile.read(CONTAINERFILE)[-1].last("VOLUME").rest,
    "timescale/timescaledb": lambda one: environment_of(one).get("PGDATA", "/var/lib/postgresql/data"),
    "chrislusf/seaweedfs": lambda one: option(one, "dir", "/tmp"),
    "prom/prometheus": lambda one: option(one, "storage.tsdb.path", "data"),
    "prom/alertmanager": lambda one: option(one, "storage.path", "data"),
    "grafana/grafana": lambda one: environment_of(one).get("GF_PATHS_DATA", "/var/lib/grafana"),
    "grafana/loki": lambda one: str(_loki(one).get("common", {}).get("path_prefix")),
    "balabit/syslog-ng": lambda _: "/var/lib/syslog-ng",
}
# The files and folders of ours that it reads.
READS: Final[dict[str, Callable[[Service], list[str]]]] = {
    "redis": lambda one: [_redis_conf(one)],
    "prom/prometheus": lambda one: [option(one, "config.file", "prometheus.yml")],
    "prom/alertmanager": lambda one: [option(one, "config.file", "alertmanager.yml")],
    "grafana/grafana": lambda one: ["/etc/grafana/provisioning", *_dashboards(one)],
    "grafana/loki": lambda one: [option(one, "config.file", "/none")],
    "balabit/syslog-ng": lambda one: [environment_of(one).get("CONFIG", "/etc/syslog-ng") + "/syslog-ng.conf"],
}


def _dashboards(service: Service) -> list[str]:
    text = text_of(service, "/etc/grafana/provisioning/dashboards/gaveurs.yaml")
    return [one["options"]["path"] for one in (yaml.safe_load(text) or {"providers": []})["providers"]]


def listens(service: Service) -> set[int]:
    return LISTENS[image_of(service)](service)


def files_of(service: Service) -> list[Path]:
    """Of the repository, in its sight."""
    sources = [Path(one["source"]) for one in service.get("volumes", ()) if one["type"] == "bind"]
    ours = [source for source in sources if source.is_relative_to(DEPLOY)]
    return [file for source in ours for file in ([source] if source.is_file() else source.rglob("*")) if file.is_file()]


def effective(text: str) -> str:
    """Without lines that are comments."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("#", "--")))
