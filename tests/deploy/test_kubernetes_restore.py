"""The restore and the upgrade that docs/kubernetes.md describes: the CronJob's pod, changed by its line, and how they end."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING, Any, Final

import kubernetes_validate
import pytest
import typer.main
import yaml

from app.cli import cli
from tests.deploy.rendered import BACKUP, KUBECTLS, OVERLAYS, SERVER, Object, Rendered, rendered, settings_of
from tests.deploy.tools import DEPLOY, ROOT, tool

if TYPE_CHECKING:
    from pathlib import Path

PATCH: Final = re.compile(
    r"\| kubectl (patch -f - .*?) -p \"\$\(cat \.\./\.\./([\w.-]+)\)\" (-o yaml) \| kubectl create -f -"
)


# A cluster's answers, as far as the page's lines ask: each call is written down, a job ends at the third look at it.
KUBECTL: Final = r"""#!/bin/sh
echo "$*" >>"$STATE/calls"
case "$*" in
*"get job "*) echo look >>"$STATE/looks"; [ "$(wc -l <"$STATE/looks")" -lt 3 ] || printf '%s' "$ENDS" ;;
*"get pod "*) echo pod/gaveurs-backend-1 ;;
*"logs -f "*) [ "$(wc -l <"$STATE/looks")" -ge 2 ] && echo "the job's words" ;;
*"create job "* | "kustomize "*) echo "kind: Job" ;;
*" -f - "* | *" -f -") grep . ;;
esac
"""
ENDS: Final = {"SuccessCriteriaMet Complete": 0, "FailureTarget Failed": 1}


def described(title: str = "Restore") -> str:
    text = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def created(found: Rendered) -> Object:
    """As `kubectl create job --from` makes it of the CronJob."""
    template = found.one("CronJob", BACKUP)["spec"]["jobTemplate"]
    meta = {"name": "gaveurs-restore", "namespace": "gaveurs", "labels": template["metadata"]["labels"]}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": template["spec"]}


def patched(kubectl: str, job: Object) -> Object:
    line = PATCH.search(described())
    assert line is not None
    patch = (DEPLOY / "kubernetes" / line[2]).read_text()
    command = [tool(kubectl), *line[1].split(), "-p", patch, *line[3].split()]
    done = subprocess.run(command, input=yaml.safe_dump(job), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    made: Object = yaml.safe_load(done.stdout)
    return made


@pytest.mark.parametrize("kubectl", KUBECTLS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_job_is_the_backups_pod_that_restores_once(
    overlay: str, kubectl: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rendered(overlay)
    job = created(found)
    made = patched(kubectl, job)
    assert kubernetes_validate.validate(made, "1.27", strict=True) == "1.27"
    assert made["spec"].pop("backoffLimit") == 0
    command = made["spec"]["template"]["spec"]["containers"][0].pop("command")
    before: Any = created(found)["spec"] | {"template": yaml.safe_load(yaml.safe_dump(job["spec"]["template"]))}
    before.pop("backoffLimit")
    before["template"]["spec"]["containers"][0].pop("command")
    assert made["spec"] == before
    program = typer.main.get_command(cli)
    context = program.make_context(command[0], command[1:2], resilient_parsing=True)
    restore = program.get_command(context, command[1])  # type: ignore[attr-defined]
    asked = restore.make_context(command[1], command[2:], parent=context).params
    assert (asked["where"], asked["replace"], asked["yes"]) == (None, True, True)
    assert settings_of(found, found.pod(BACKUP), tmp_path, monkeypatch).backup_to is not None


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_the_page_names_is_there(overlay: str) -> None:
    found = rendered(overlay)
    lines = re.findall(r"(?m)^(kubectl .*)$", described())
    assert len(lines) == 7
    named = set(re.findall(r"\b(deployment|cronjob)[/ ]([\w-]+)", "\n".join(lines)))
    assert named == {("deployment", SERVER), ("cronjob", BACKUP)}
    assert all(name in found.names[{"deployment": "Deployment", "cronjob": "CronJob"}[kind]] for kind, name in named)
    assert "component=server" in described()
    assert found.pod(SERVER).labels["app.kubernetes.io/component"] == "server"


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize(
    ("title", "job", "last"),
    [("Restore", "gaveurs-restore", "patch cronjob gaveurs-backup"), ("Upgrade", "gaveurs-migrate", "apply -k .")],
)
def test_a_job_that_failed_ends_what_is_typed(tmp_path: Path, title: str, job: str, last: str, ends: str) -> None:
    """And an earlier one does not stand in its way."""
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    typed = described(title).split("```")[1]
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "STATE": str(tmp_path), "ENDS": ends, "EVERY_S": "0"}
    folder = DEPLOY / "kubernetes" / "overlays" / "site"
    done = subprocess.run(
        ["sh"], input=typed, cwd=folder, env=env, capture_output=True, text=True, timeout=30, check=False
    )
    calls = (tmp_path / "calls").read_text().splitlines()
    assert done.returncode == ENDS[ends], done.stderr
    assert "the job's words" in done.stdout
    assert f"-n gaveurs delete job {job} --ignore-not-found" in calls
    assert (last in calls[-1]) == (ends == "SuccessCriteriaMet Complete")
    assert ("--replicas=1" in "".join(calls)) == (title == "Restore" and ENDS[ends] == 0)


def test_what_cannot_be_made_is_not_followed(tmp_path: Path) -> None:
    """The job that is not there ends it at once."""
    (tmp_path / "kubectl").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "kubectl").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["sh", str(DEPLOY / "kubernetes" / "follow-job.sh"), "gaveurs-restore"]
    assert subprocess.run(command, env=env, timeout=30, check=False).returncode != 0
