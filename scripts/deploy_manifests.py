"""Writes the manifests that repeat what is said elsewhere: `python -m scripts.deploy_manifests [--check]`.

From the rules of Prometheus their PrometheusRule objects; from the settings how long a pod may take to end; from the
list of dashboards the ConfigMaps that Grafana's sidecar looks for. With --check nothing is written: code 1 where a file
differs.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from app.settings import SHUTDOWN_MARGIN_S, Settings

ROOT: Final = Path(__file__).parents[1]
DEPLOY: Final = ROOT / "deploy"
KUBERNETES: Final = DEPLOY / "kubernetes"
# Until no ingress controller and no node sends a connection here any more: endpoints reach them within a second or two,
# kube-proxy gathers changes for up to one more.
PRESTOP_S: Final = 5
WRITTEN: Final = "# Written by scripts/deploy_manifests.py: change what it is made from.\n"


def files() -> dict[Path, str]:
    """What there should be."""
    return {
        KUBERNETES / "base" / "shutdown.yaml": _text(shutdown()),
        KUBERNETES / "monitoring" / "prometheus-rules.yaml": _text(*prometheus_rules()),
        DEPLOY / "grafana" / "kustomization.yaml": _text(dashboards()),
    }


def grace_period_s(settings: Settings) -> int:
    """The kubelet's patience counts the preStop hook too."""
    return math.ceil(PRESTOP_S + settings.shutdown_budget_s + SHUTDOWN_MARGIN_S)


def base_settings() -> Settings:
    """As the base's ConfigMap sets them, whatever the environment of this process says."""
    made = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())["configMapGenerator"]
    pairs = (literal.partition("=") for literal in made[0]["literals"])
    given: dict[str, Any] = {name.lower(): value for name, _, value in pairs}
    # The folder of secrets is the pod's; the bound that is computed here must not be checked against its default.
    given |= {"secrets_dir": None, "termination_grace_period_s": 3_600}
    unset = {name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()}
    return Settings(_env_file=os.devnull, **(unset | given))


def shutdown() -> dict[str, Any]:
    """A patch of the Deployment: the hook, the grace period, and the same number for the service to check itself by."""
    seconds = grace_period_s(base_settings())
    # Python, which the image surely has; `preStop.sleep` needs Kubernetes 1.30.
    hook = {"exec": {"command": ["python", "-c", f"import time; time.sleep({PRESTOP_S})"]}}
    container = {
        "name": "backend",
        "lifecycle": {"preStop": hook},
        "env": [{"name": "TERMINATION_GRACE_PERIOD_S", "value": str(seconds)}],
    }
    pod = {"terminationGracePeriodSeconds": seconds, "containers": [container]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "gaveurs-backend"},
        "spec": {"template": {"spec": pod}},
    }


def prometheus_rules() -> list[dict[str, Any]]:
    """An object for each file of rules, its groups unchanged."""
    return [_prometheus_rule(file) for file in sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))]


def _prometheus_rule(file: Path) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": f"gaveurs-{file.stem.replace('_', '-')}",
            "labels": {"app.kubernetes.io/name": "gaveurs-backend"},
        },
        "spec": yaml.safe_load(file.read_text()),
    }


def dashboards() -> dict[str, Any]:
    """A kustomization: a ConfigMap for each dashboard, since together they are larger than one may be."""
    found = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "generatorOptions": {"disableNameSuffixHash": True, "labels": {"grafana_dashboard": "1"}},
        "configMapGenerator": [
            {"name": f"dashboard-{file.stem.removeprefix('gaveurs-')}", "files": [f"dashboards/{file.name}"]}
            for file in found
        ],
    }


def _text(*objects: dict[str, Any]) -> str:
    return WRITTEN + yaml.safe_dump_all(objects, sort_keys=False, width=120, allow_unicode=True)


def main() -> None:
    """Write, or compare."""
    stale = [path for path, text in files().items() if not path.is_file() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} differs: run `python -m scripts.deploy_manifests`")
        sys.exit(1 if stale else 0)
    for path in stale:
        path.write_text(files()[path])
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
