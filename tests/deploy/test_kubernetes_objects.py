"""The objects fit together: references, selectors, network policies, what pods may do, how many there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from app.application import create_app
from app.bugs.uploads import FORM_OVERHEAD_BYTES
from app.core.metrics import Metrics
from app.core.server import make_server
from app.resources import WATCHERS
from app.settings import Settings
from tests.deploy.rendered import (
    BACKUP,
    MIGRATION,
    OVERLAYS,
    SERVER,
    Pod,
    Rendered,
    rendered,
    selects,
    settings_of,
)
from tests.deploy.tools import DEPLOY, ROOT

HOUR_S: Final = 3_600
TARGET_LABELS: Final = {"namespace", "service", "pod", "container", "endpoint", "job", "instance"}
EXTERNAL: Final = {("Secret", "gaveurs-tls")}  # made by cert-manager or by hand


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> Rendered:
    return rendered(request.param)


REFERENCES: Final = {
    "secretName": "Secret",
    "claimName": "PersistentVolumeClaim",
    "serviceAccountName": "ServiceAccount",
    "configMapRef": "ConfigMap",
}


def _references(value: Any) -> Iterator[tuple[str, str]]:
    """(kind, name) of every object that is named anywhere inside."""
    if isinstance(value, list):
        for inner in value:
            yield from _references(inner)
    elif isinstance(value, dict):
        for key, inner in value.items():
            assert key not in ("configMap", "secretRef", "configMapKeyRef", "secretKeyRef"), "not known here"
            if key in REFERENCES:
                yield REFERENCES[key], inner["name"] if isinstance(inner, dict) else inner
            else:
                yield from _references(inner)


def test_what_is_referred_to_exists_and_what_exists_is_referred_to(overlay: Rendered) -> None:
    wanted = {reference for one in overlay.objects for reference in _references(one.get("spec", {}))}
    kinds = {"Secret", "PersistentVolumeClaim", "ServiceAccount", "ConfigMap"}
    dashboards = {one["metadata"]["name"] for one in overlay.of("ConfigMap") if "labels" in one["metadata"]}
    there = {(kind, name) for kind in kinds for name in overlay.names.get(kind, ()) if name not in dashboards}
    assert wanted - EXTERNAL == there


def test_selectors_mean_the_servers_pods_and_no_others(overlay: Rendered) -> None:
    deployment = overlay.one("Deployment")["spec"]
    selectors = [{"matchLabels": service["spec"]["selector"]} for service in overlay.of("Service")]
    selectors += [deployment["selector"], overlay.one("PodDisruptionBudget")["spec"]["selector"]]
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]
    selectors += [one["labelSelector"] for one in spread]
    for selector in selectors:
        assert [pod.owner for pod in overlay.pods() if selects(selector, pod.labels)] == [SERVER]
    assert {one["topologyKey"] for one in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}


def test_the_ingress_leads_to_the_service_and_lets_pass_what_it_takes(
    overlay: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingress = overlay.one("Ingress")
    [rule] = ingress["spec"]["rules"]
    [path] = rule["http"]["paths"]
    backend = path["backend"]["service"]
    ports = overlay.one("Service", backend["name"])["spec"]["ports"]
    assert backend["port"]["name"] in {port["name"] for port in ports if port["targetPort"] == "http"}
    assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]
    says = {key.rpartition("/")[2]: value for key, value in ingress["metadata"]["annotations"].items()}
    settings = settings_of(overlay, overlay.pod(SERVER), tmp_path, monkeypatch)
    assert int(says["proxy-body-size"].removesuffix("m")) * 2**20 >= settings.bug_attachment_bytes + FORM_OVERHEAD_BYTES
    ping = make_server(create_app(settings)).config.ws_ping_interval
    assert ping is not None
    assert min(int(says["proxy-read-timeout"]), int(says["proxy-send-timeout"])) > 2 * ping
    assert says["proxy-buffering"] == says["proxy-request-buffering"] == "off"
    assert settings.trusted_proxies


def test_prometheus_finds_the_pods_under_the_job_that_rules_name(overlay: Rendered) -> None:
    spec = overlay.one("ServiceMonitor")["spec"]
    [service] = [one for one in overlay.of("Service") if selects(spec["selector"], one["metadata"]["labels"])]
    [endpoint] = spec["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert service["spec"]["publishNotReadyAddresses"] is True
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    job = service["metadata"]["labels"][spec["jobLabel"]]
    assert job in {one["job_name"] for one in scraped["scrape_configs"]}
    ours = {label for family in Metrics().registry.families.values() for label in family.label_names}
    assert ours & TARGET_LABELS == {"endpoint"}  # which is a route, and would be renamed exported_endpoint
    assert endpoint["honorLabels"] is True


def test_the_upgrade_that_is_described_leaves_out_the_server_alone(overlay: Rendered) -> None:
    """`kubectl apply -l app.kubernetes.io/component!=server`."""
    label = "app.kubernetes.io/component"
    left = [one["kind"] for one in overlay.objects if one["metadata"].get("labels", {}).get(label) == "server"]
    assert sorted(left) == ["Deployment", "Service"]


# What a job leaves


def test_a_finished_jobs_claim_is_given_back_and_its_evidence_stays(overlay: Rendered) -> None:
    """A generic ephemeral volume lives as long as its pod, and that as long as its job."""
    backup = overlay.one("CronJob", BACKUP)["spec"]
    ephemeral = {pod.owner for pod in overlay.pods() if any("ephemeral" in one for one in pod.spec["volumes"])}
    assert ephemeral == {BACKUP}
    assert HOUR_S <= backup["jobTemplate"]["spec"]["ttlSecondsAfterFinished"] <= 12 * HOUR_S  # not two nights at once
    assert (backup["successfulJobsHistoryLimit"], backup["failedJobsHistoryLimit"]) == (1, 1)
    assert overlay.one("Job", MIGRATION)["spec"]["ttlSecondsAfterFinished"] >= 3 * 24 * HOUR_S


# What a pod may do


def test_pods_may_do_nothing_that_they_need_not(overlay: Rendered) -> None:
    labels = overlay.one("Namespace")["metadata"]["labels"]
    assert {value for key, value in labels.items() if key.startswith("pod-security")} == {"restricted"}
    assert not {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"} & overlay.names.keys()
    assert overlay.one("ServiceAccount")["automountServiceAccountToken"] is False
    for pod in overlay.pods():
        assert pod.spec["automountServiceAccountToken"] is False
        assert pod.spec["enableServiceLinks"] is False
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert {security["runAsUser"], security["runAsGroup"], security["fsGroup"]} == {10001}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod.container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert pod.container["resources"]["limits"].keys() == {"memory"}


def test_what_is_written_has_a_volume_with_a_bound(
    overlay: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pod in overlay.pods():
        settings = settings_of(overlay, pod, tmp_path, monkeypatch)
        for folder in _written(settings, pod):
            volume = pod.volume(folder)
            assert not volume.get("persistentVolumeClaim", {}).get("readOnly", False), folder
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": "a claim has its own"}), folder


def _written(settings: Settings, pod: Pod) -> Iterator[str]:
    yield "/tmp"
    if pod.owner == SERVER:
        yield str(settings.data_dir)
    if pod.owner == BACKUP:
        assert settings.backup_to is not None
        yield str(settings.backup_work_dir)
        if "://" not in settings.backup_to:
            yield settings.backup_to


def test_attachments_in_a_folder_are_in_the_backups_sight(
    overlay: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writable: the store makes its folder, or fails, when it is opened."""
    settings = settings_of(overlay, overlay.pod(SERVER), tmp_path, monkeypatch)
    if settings.bug_attachments_url is None:
        data = str(settings.data_dir)
        kept, seen = (overlay.pod(name).volume(data)["persistentVolumeClaim"] for name in (SERVER, BACKUP))
        assert seen == kept
        mounts = overlay.pod(BACKUP).container["volumeMounts"]
        assert [one.get("readOnly", False) for one in mounts if one["mountPath"] == data] == [False]
    else:
        assert overlay.of("PersistentVolumeClaim") == []


# Numbers of pods


def test_replicas_budget_and_autoscaler_agree(
    overlay: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = overlay.one("Deployment")["spec"]
    assert "replicas" not in deployment
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    away = overlay.one("PodDisruptionBudget")["spec"]["maxUnavailable"]
    scalers = overlay.of("HorizontalPodAutoscaler")
    least = scalers[0]["spec"]["minReplicas"] if scalers else 1
    assert away == 1
    if any(claim["spec"]["accessModes"] == ["ReadWriteOnce"] for claim in overlay.of("PersistentVolumeClaim")):
        assert least == 1
    if scalers:
        assert least - away >= 2
        assert scalers[0]["spec"]["scaleTargetRef"]["name"] == SERVER
        settings = settings_of(overlay, overlay.pod(SERVER), tmp_path, monkeypatch)
        most = scalers[0]["spec"]["maxReplicas"] + deployment["strategy"]["rollingUpdate"]["maxSurge"]
        page = (ROOT / "docs" / "kubernetes.md").read_text()
        assert f"{most * connections(settings)} connections" in page


def connections(settings: Settings) -> int:
    """Of one process to PostgreSQL: its pools, the check's, the live feed's."""
    return settings.database_reads + settings.database_writers + WATCHERS + settings.database_bugs + 1 + 1


def test_the_backup_runs_once_a_night_and_is_given_time(
    overlay: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = overlay.one("CronJob")["spec"]
    settings = settings_of(overlay, overlay.pod(BACKUP), tmp_path, monkeypatch)
    minute, hour, *days = spec["schedule"].split()
    assert days == ["*", "*", "*"]
    assert int(minute) < 60
    assert int(hour) != 2  # between 2 and 3 clocks are set
    assert spec["timeZone"] == settings.timezone
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] > settings.backup_deadline_s
