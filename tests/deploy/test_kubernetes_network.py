"""Network policies: who may reach whom, as the settings need it, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
import yaml

from app.settings import Settings
from tests.deploy.rendered import (
    BACKUP,
    MIGRATION,
    OVERLAYS,
    SERVER,
    Object,
    Pod,
    Rendered,
    copy_of_deploy,
    kustomize,
    rendered,
    selects,
    settings_of,
    with_secrets,
)

NAMESPACE: Final = "kubernetes.io/metadata.name"


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> Rendered:
    return rendered(request.param)


def _peers(rule: Object, key: str) -> set[str]:
    """Namespaces and networks; a rule without them is for everybody."""
    assert rule[key]
    found = set()
    for peer in rule[key]:
        if "ipBlock" in peer:
            found.add(peer["ipBlock"]["cidr"])
        else:
            found.add(peer["namespaceSelector"]["matchLabels"][NAMESPACE])
    return found


def _allowed(found: Rendered, pod: Pod, direction: str) -> set[tuple[str, int]]:
    """(peer, port) that the policies leave this pod."""
    pairs = set()
    for policy in found.of("NetworkPolicy"):
        spec = policy["spec"]
        if direction not in spec["policyTypes"] or not selects(spec["podSelector"], pod.labels):
            continue
        for rule in spec.get(direction.lower(), []):
            numbers = [pod.ports.get(port["port"], port["port"]) for port in rule["ports"]]
            pairs |= {
                (peer, number)
                for peer in _peers(rule, "from" if direction == "Ingress" else "to")
                for number in numbers
            }
    assert all(isinstance(number, int) for _, number in pairs), pairs
    return pairs


def test_nothing_is_allowed_that_no_policy_names(overlay: Rendered) -> None:
    spec = overlay.one("NetworkPolicy", "default-deny")["spec"]
    assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ours = [one for one in overlay.of("NetworkPolicy") if one["metadata"]["name"] not in OTHERS]
    for policy in ours:
        assert any(selects(policy["spec"]["podSelector"], pod.labels) for pod in overlay.pods())


def test_only_the_ingress_controller_and_prometheus_come_in(overlay: Rendered) -> None:
    assert _allowed(overlay, overlay.pod(SERVER), "Ingress") == {("ingress-nginx", 8000), ("monitoring", 9100)}
    for job in (MIGRATION, BACKUP):
        assert _allowed(overlay, overlay.pod(job), "Ingress") == set()


def test_each_pod_reaches_what_its_settings_name(
    overlay: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pod in overlay.pods():
        settings = settings_of(overlay, pod, tmp_path, monkeypatch)
        allowed = _allowed(overlay, pod, "Egress")
        assert _database_and_redis(settings) <= allowed
        assert ("kube-system", 53) in allowed
        buckets = _buckets(settings, pod)
        webhooks = pod.owner == SERVER
        assert (("0.0.0.0/0", 443) in allowed) == bool(buckets or webhooks)
        assert all(urlsplit(endpoint or "https://").scheme == "https" for endpoint in buckets)
        assert {port for _, port in allowed} <= {53, 443, 5432, 6379}


def _database_and_redis(settings: Settings) -> set[tuple[str, int]]:
    assert settings.database_url is not None
    assert settings.redis_host is not None
    database = urlsplit(settings.database_url.get_secret_value())
    assert database.hostname is not None
    hosts = [(database.hostname, database.port or 5432), (settings.redis_host, settings.redis_port)]
    return {(host.split(".")[1], port) for host, port in hosts}


def _buckets(settings: Settings, pod: Pod) -> list[str | None]:
    """The endpoints that this pod writes to or reads from."""
    found = []
    if settings.bug_attachments_url and pod.owner != MIGRATION:
        found.append(settings.bug_attachments_s3_endpoint)
    if (settings.backup_to or "").startswith("s3:") and pod.owner == BACKUP:
        found.append(settings.backup_s3_endpoint)
    return found


# Each rule as it is meant, to the last field: a name server of another label, UDP that became SCTP, a peer that lost half of its
# selector would each be another rule, and all of them valid.
OURS: Final = "app.kubernetes.io/name: gaveurs-backend"
POLICIES: Final[Object] = yaml.safe_load(f"""
default-deny: {{podSelector: {{}}, policyTypes: [Ingress, Egress]}}
from-ingress-controller:
  podSelector: {{matchLabels: {{{OURS}, app.kubernetes.io/component: server}}}}
  policyTypes: [Ingress]
  ingress:
  - from:
    - namespaceSelector: {{matchLabels: {{{NAMESPACE}: ingress-nginx}}}}
      podSelector: {{matchLabels: {{app.kubernetes.io/name: ingress-nginx}}}}
    ports: [{{port: http}}]
from-prometheus:
  podSelector: {{matchLabels: {{{OURS}, app.kubernetes.io/component: server}}}}
  policyTypes: [Ingress]
  ingress:
  - from:
    - namespaceSelector: {{matchLabels: {{{NAMESPACE}: monitoring}}}}
      podSelector: {{matchLabels: {{app.kubernetes.io/name: prometheus}}}}
    ports: [{{port: metrics}}]
to-name-server:
  podSelector: {{matchLabels: {{{OURS}}}}}
  policyTypes: [Egress]
  egress:
  - to:
    - namespaceSelector: {{matchLabels: {{{NAMESPACE}: kube-system}}}}
      podSelector: {{matchLabels: {{k8s-app: kube-dns}}}}
    ports: [{{port: 53, protocol: UDP}}, {{port: 53, protocol: TCP}}]
to-databases:
  podSelector: {{matchLabels: {{{OURS}}}}}
  policyTypes: [Egress]
  egress:
  - to: [{{namespaceSelector: {{matchLabels: {{{NAMESPACE}: databases}}}}}}]
    ports: [{{port: 5432}}, {{port: 6379}}]
to-https: &https
  podSelector: {{matchLabels: {{{OURS}, app.kubernetes.io/component: server}}}}
  policyTypes: [Egress]
  egress:
  - to:
    - ipBlock: {{cidr: 0.0.0.0/0, except: [169.254.0.0/16, 100.100.100.200/32]}}
    - ipBlock: {{cidr: "::/0", except: ["fe80::/10", "fd00:ec2::254/128"]}}
    ports: [{{port: 443}}]
backup-to-bucket:
  <<: *https
  podSelector: {{matchLabels: {{{OURS}, app.kubernetes.io/component: backup}}}}
acme-solver:
  podSelector: {{matchLabels: {{acme.cert-manager.io/http01-solver: "true"}}}}
  policyTypes: [Ingress]
  ingress:
  - from:
    - namespaceSelector: {{matchLabels: {{{NAMESPACE}: ingress-nginx}}}}
      podSelector: {{matchLabels: {{app.kubernetes.io/name: ingress-nginx}}}}
    ports: [{{port: 8089}}]
""")
OTHERS: Final = {"acme-solver"}  # for pods that are not ours


def test_each_policy_says_what_it_is_meant_to(overlay: Rendered) -> None:
    found = {one["metadata"]["name"]: one["spec"] for one in overlay.of("NetworkPolicy")}
    bucket = overlay.environment(overlay.pod(BACKUP))["BACKUP_TO"].startswith("s3:")
    assert found == {name: spec for name, spec in POLICIES.items() if bucket or name != "backup-to-bucket"}


def test_a_site_may_take_a_bucket_by_the_changes_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of_deploy(tmp_path)
    site = folder / "kubernetes" / "overlays" / "site"
    named = " ".join((site / "claims.yaml").read_text().replace("\n# ", " ").split())
    keys = ["secrets/backup_s3_access_key", "secrets/backup_s3_secret_key"]
    for word in ["BACKUP_TO=s3://...", "BACKUP_S3_ENDPOINT=https://...", "`../../backup-to-bucket`", *keys]:
        assert word in named
    changed = yaml.safe_load((site / "kustomization.yaml").read_text())
    changed["bases"].append("../../backup-to-bucket")
    changed["configMapGenerator"][1]["literals"] = [
        "BACKUP_TO=s3://bucket",
        "BACKUP_S3_ENDPOINT=https://s3.example.org",
    ]
    changed["secretGenerator"][1]["files"] += keys
    (site / "kustomization.yaml").write_text(yaml.safe_dump(changed))
    with_secrets(folder, "site")
    for key in keys:
        (site / key).write_text("key")
    done = kustomize("kubectl-debian", folder, "site")
    assert done.returncode == 0, done.stderr
    found = Rendered(tuple(yaml.safe_load_all(done.stdout)), done.stderr)
    settings = settings_of(found, found.pod(BACKUP), tmp_path, monkeypatch)
    assert (settings.backup_to, bool(settings.backup_s3_secret_key)) == ("s3://bucket", True)
    assert ("0.0.0.0/0", 443) in _allowed(found, found.pod(BACKUP), "Egress")
