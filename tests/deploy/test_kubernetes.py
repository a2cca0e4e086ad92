"""The overlays, rendered by the oldest and a current kubectl and held against Kubernetes' own schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml
from jsonschema_rs import Draft202012Validator

from app.settings import PLACEHOLDER, BadSettings, Settings, load_settings
from scripts import deploy_manifests
from tests.deploy.rendered import (
    KUBECTLS,
    OVERLAYS,
    Object,
    Rendered,
    copy_of_deploy,
    kustomize,
    rendered,
    with_secrets,
)
from tests.deploy.tools import DEPLOY

SCHEMAS: Final = Path(__file__).parent / "schemas"
# From the oldest where unhealthyPodEvictionPolicy, timeZone and matchLabelKeys are on by default to the newest.
VERSIONS: Final = ("1.27", "1.28", "1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
# What kustomize 2.0 takes, and newer ones still take: there is no form that is neither missing there nor deprecated here.
DEPRECATED: Final = {"bases": "resources", "patchesStrategicMerge": "patches", "patchesJson6902": "patches"}
APPLY_BYTES: Final = 262_144  # `kubectl apply` keeps the object in an annotation; larger ones need --server-side


def test_the_newest_schemas_are_among_them() -> None:
    assert kubernetes_validate.latest_version().startswith(f"{VERSIONS[-1]}.")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_both_kubectls_render_the_same(overlay: str) -> None:
    old, new = (rendered(overlay, kubectl) for kubectl in KUBECTLS)
    assert old.comparable() == new.comparable()
    assert old.warnings == ""


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_current_kubectl_warns_of_nothing_but_the_forms_that_the_old_one_needs(overlay: str) -> None:
    known = {
        f"# Warning: '{old}' is deprecated. Please use '{new}' instead."
        " Run 'kustomize edit fix' to update your Kustomization automatically."
        for old, new in DEPRECATED.items()
    }
    assert set(rendered(overlay).warnings.splitlines()) == known


@pytest.mark.parametrize("kubectl", KUBECTLS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_is_rendered_until_every_secret_has_its_file(overlay: str, kubectl: str, tmp_path: Path) -> None:
    folder = copy_of_deploy(tmp_path)
    with_secrets(folder, overlay)
    for template in (folder / "kubernetes" / "overlays" / overlay / "secrets").glob("*.example"):
        secret = template.with_suffix("")
        content = secret.read_bytes()
        secret.unlink()
        done = kustomize(kubectl, folder, overlay)
        assert done.returncode != 0
        assert secret.name in done.stderr
        secret.write_bytes(content)
    assert kustomize(kubectl, folder, overlay).returncode == 0


@pytest.mark.parametrize("kubectl", KUBECTLS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_image_by_its_digest_is_every_pods(overlay: str, kubectl: str, tmp_path: Path) -> None:
    """As the overlay has it in a comment."""
    folder = copy_of_deploy(tmp_path)
    with_secrets(folder, overlay)
    file = folder / "kubernetes" / "overlays" / overlay / "kustomization.yaml"
    begun, images, rest = file.read_text().partition("# images:\n")
    lines = rest.splitlines(keepends=True)
    taken = "".join(line.removeprefix("# ") for line in [images, *lines[:3]])
    file.write_text(begun + taken + "".join(lines[3:]))
    done = kustomize(kubectl, folder, overlay)
    assert done.returncode == 0, done.stderr
    found = Rendered(tuple(yaml.safe_load_all(done.stdout)), done.stderr)
    wanted = "registry.example.org/gaveurs-backend@sha256:" + "0" * 64
    assert [pod.container["image"] for pod in found.pods()] == [wanted] * 3


def templates() -> list[Path]:
    return sorted((DEPLOY / "kubernetes" / "overlays").glob("*/secrets/*.example"))


@pytest.mark.parametrize("template", templates(), ids=lambda one: f"{one.parent.parent.name}-{one.stem}")
def test_a_template_that_was_only_copied_is_refused_at_start(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / template.stem).write_text(template.read_text())
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    assert template.stem in Settings.model_fields
    with pytest.raises(BadSettings) as refused:
        load_settings(bug_attachments_url="s3://bucket", **_partner(template.stem))
    assert PLACEHOLDER in refused.value.line
    assert template.stem.upper() in refused.value.line


def _partner(name: str) -> dict[str, Any]:
    """An access key and its secret key go together: the other one is right."""
    for one, other in (("access_key", "secret_key"), ("secret_key", "access_key")):
        if name.endswith(one):
            return {name.removesuffix(one) + other: "right"}
    return {}


def test_no_secret_is_in_the_repository() -> None:
    for overlay in OVERLAYS:
        folder = DEPLOY / "kubernetes" / "overlays" / overlay / "secrets"
        assert (folder / ".gitignore").read_text().split() == ["*", "!.gitignore", "!*.example"]
    base = yaml.safe_load((DEPLOY / "kubernetes" / "base" / "kustomization.yaml").read_text())
    assert "secretGenerator" not in base
    for file in (DEPLOY / "kubernetes").rglob("*.yaml"):
        assert all(one is None or one.get("kind") != "Secret" for one in _documents(file)), file


def _documents(file: Path) -> list[Any]:
    return [one for one in yaml.safe_load_all(file.read_text()) if not isinstance(one, list)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_knows_every_field(overlay: str, version: str) -> None:
    for one in rendered(overlay).objects:
        if one["apiVersion"] == "monitoring.coreos.com/v1":
            continue  # the test below
        assert kubernetes_validate.validate(one, version, strict=True) == version, one["metadata"]["name"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_operators_objects_have_only_fields_that_it_knows(overlay: str) -> None:
    ours = [one for one in rendered(overlay).objects if one["apiVersion"] == "monitoring.coreos.com/v1"]
    assert {one["kind"] for one in ours} == {"ServiceMonitor", "PrometheusRule"}
    for one in ours:
        schema = json.loads((SCHEMAS / f"{one['kind'].lower()}-v1.json").read_text())
        Draft202012Validator(schema).validate(one)  # refuses a schema that is none


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_schemas_do_refuse_what_they_do_not_know(overlay: str) -> None:
    budget = rendered(overlay).one("PodDisruptionBudget")
    with pytest.raises(kubernetes_validate.ValidationError, match="unhealthyPodEvictionPolicy"):
        kubernetes_validate.validate(budget, "1.25", strict=True)
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        kubernetes_validate.validate(rendered(overlay).one("ServiceMonitor"), VERSIONS[-1], strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_object_can_be_applied_and_stands_in_our_namespace(overlay: str) -> None:
    found = rendered(overlay)
    names = [(one["kind"], one["metadata"]["name"]) for one in found.objects]
    assert len(names) == len(set(names))
    for one in found.objects:
        assert len(json.dumps(one)) < APPLY_BYTES, one["metadata"]["name"]
        if one["kind"] != "Namespace":
            assert one["metadata"]["namespace"] == "gaveurs"


def test_what_is_made_from_rules_settings_and_dashboards_is_up_to_date() -> None:
    stale = [path.name for path, text in deploy_manifests.files().items() if path.read_text() != text]
    assert not stale, "run `python -m scripts.deploy_manifests`"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_rule_reaches_the_operator_unchanged(overlay: str) -> None:
    groups: list[Object] = [
        group for rule in rendered(overlay).of("PrometheusRule") for group in rule["spec"]["groups"]
    ]
    files = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
    written = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    assert written
    by_name = {group["name"]: group for group in groups}
    assert by_name == {group["name"]: group for group in written}
    assert len(groups) == len(by_name) == len(written)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_dashboard_reaches_grafanas_sidecar(overlay: str) -> None:
    found: dict[str, str] = {}
    for one in rendered(overlay).of("ConfigMap"):
        if one["metadata"].get("labels", {}).get("grafana_dashboard") == "1":
            found |= one["data"]
    files = {file.name: file.read_text() for file in (DEPLOY / "grafana" / "dashboards").glob("*.json")}
    assert files
    assert found == files
