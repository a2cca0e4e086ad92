"""The Kubernetes overlays as `kubectl kustomize` renders them, and what hangs together in them."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from app.settings import PLACEHOLDER, Settings, load_settings
from tests.deploy.tools import DEPLOY, tool

OVERLAYS: Final = ("site", "region")
KUBECTLS: Final = ("kubectl-debian", "kubectl-current")
RENDER_DEADLINE_S: Final = 60
SECRET: Final = "s3cr3t"
SERVER: Final = "gaveurs-backend"
MIGRATION: Final = "gaveurs-migrate"
BACKUP: Final = "gaveurs-backup"
_HASH: Final = re.compile(r"\b(gaveurs-(?:settings|backup-settings|secrets|backup-secrets))-[a-z0-9]{10}\b")

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod's template, wherever it stands."""

    owner: str
    labels: dict[str, str]
    spec: Object

    @property
    def container(self) -> Object:
        [one] = self.spec["containers"]
        return dict(one)

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container.get("ports", [])}

    def volume(self, mount_path: str) -> Object:
        """What is mounted there."""
        [mount] = [mount for mount in self.container["volumeMounts"] if mount["mountPath"] == mount_path]
        [volume] = [volume for volume in self.spec["volumes"] if volume["name"] == mount["name"]]
        return dict(volume)


@dataclass(frozen=True, slots=True)
class Rendered:
    objects: tuple[Object, ...]
    warnings: str

    def of(self, kind: str) -> list[Object]:
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str, name: str = "") -> Object:
        [found] = [one for one in self.of(kind) if name in ("", one["metadata"]["name"])]
        return found

    @property
    def names(self) -> dict[str, set[str]]:
        return {kind: {one["metadata"]["name"] for one in self.of(kind)} for kind in {o["kind"] for o in self.objects}}

    def pods(self) -> Iterator[Pod]:
        for one in self.objects:
            spec = one["spec"].get("jobTemplate", one)["spec"] if "spec" in one else {}
            if "template" in spec:
                template = spec["template"]
                yield Pod(one["metadata"]["name"], template["metadata"]["labels"], template["spec"])

    def pod(self, owner: str) -> Pod:
        [found] = [pod for pod in self.pods() if pod.owner == owner]
        return found

    def environment(self, pod: Pod) -> dict[str, str]:
        """The variables that its container sees."""
        found: dict[str, str] = {}
        for source in pod.container["envFrom"]:
            found |= self.one("ConfigMap", source["configMapRef"]["name"])["data"]
        return found | {entry["name"]: entry["value"] for entry in pod.container.get("env", [])}

    def secret_files(self, pod: Pod) -> dict[str, bytes]:
        """What its container finds in /run/secrets."""
        secret = self.one("Secret", pod.volume("/run/secrets")["secret"]["secretName"])
        return {name: base64.b64decode(value) for name, value in secret["data"].items()}

    def comparable(self) -> dict[tuple[str, str], Object]:
        """Without what versions of kustomize write differently: suffixes of names, empty maps, base64's line breaks."""
        found = {}
        for one in yaml.safe_load_all(_HASH.sub(r"\1", yaml.safe_dump_all(self.objects))):
            meta = {key: value for key, value in one["metadata"].items() if value != {}}
            data = (
                {key: "".join(text.split()) for key, text in one["data"].items()} if one["kind"] == "Secret" else None
            )
            found[one["kind"], meta["name"]] = one | {"metadata": meta} | ({"data": data} if data else {})
        return found


def with_secrets(folder: Path, overlay: str) -> None:
    """The files that somebody makes from the templates."""
    for template in (folder / "kubernetes" / "overlays" / overlay / "secrets").glob("*.example"):
        template.with_suffix("").write_text(template.read_text().replace(PLACEHOLDER, SECRET))


def copy_of_deploy(folder: Path) -> Path:
    """Only what is the repository's: no secrets that somebody made."""
    made = folder / "deploy"
    shutil.copytree(DEPLOY, made, ignore=_secrets_that_are_no_templates)
    return made


def _secrets_that_are_no_templates(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if Path(folder).name == "secrets" and not name.endswith(".example")]


def kustomize(kubectl: str, folder: Path, overlay: str) -> subprocess.CompletedProcess[str]:
    command = [tool(kubectl), "kustomize", str(folder / "kubernetes" / "overlays" / overlay)]
    return subprocess.run(command, capture_output=True, text=True, timeout=RENDER_DEADLINE_S, check=False)


@cache
def rendered(overlay: str, kubectl: str = "kubectl-current") -> Rendered:
    with tempfile.TemporaryDirectory() as name:
        folder = copy_of_deploy(Path(name))
        with_secrets(folder, overlay)
        done = kustomize(kubectl, folder, overlay)
    assert done.returncode == 0, done.stderr
    return Rendered(tuple(yaml.safe_load_all(done.stdout)), done.stderr)


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a selector of matchLabels alone means these labels."""
    assert selector.keys() <= {"matchLabels"}
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def settings_of(found: Rendered, pod: Pod, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """As the service in this pod would load them; what it refuses fails."""
    monkeypatch.chdir(folder)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    secrets = folder / f"secrets-{pod.owner}"
    secrets.mkdir()
    for name, content in found.secret_files(pod).items():
        (secrets / name).write_bytes(content)
    for name, value in found.environment(pod).items():
        monkeypatch.setenv(name, value)
    assert found.environment(pod)["SECRETS_DIR"] == "/run/secrets"
    monkeypatch.setenv("SECRETS_DIR", str(secrets))
    return load_settings()
