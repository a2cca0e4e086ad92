"""What docs/runbooks.md tells somebody to type to Alertmanager is typed to one."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

from tests.deploy.real_alertmanager import running_alertmanager
from tests.deploy.tools import DEPLOY, ROOT, tool

if TYPE_CHECKING:
    from pathlib import Path


DOES = {"promtool": ["check config"], "amtool": ["check-config", "silence add"]}


def written(program: str, what: str) -> list[str]:
    """The arguments of each line for `program` that does `what`."""
    lines = re.findall(rf"`{program} ([^`]+)`", (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8"))
    assert {line for line in lines if not any(one in line for one in DOES[program])} == set()
    found = [line for line in lines if what in line]
    assert found
    return found


def test_configurations_are_checked() -> None:
    for program in ("promtool", "amtool"):
        for line in written(program, DOES[program][0]):
            words = shlex.split(line)
            folder = DEPLOY / ("alertmanager" if words[-1] == "alertmanager.yml" else "prometheus")
            done = subprocess.run([tool(program), *words], capture_output=True, timeout=60, check=False, cwd=folder)
            assert done.returncode == 0, (line, done.stdout, done.stderr)


def test_silences_are_taken(tmp_path: Path) -> None:
    lines = written("amtool", "silence add")
    with running_alertmanager(tmp_path / "alertmanager") as (server, _):
        for line in lines:
            words = shlex.split(line.replace("http://127.0.0.1:9093", server.url).replace("SITE", "LL"))
            assert server.url in " ".join(words)
            done = subprocess.run(
                [tool("amtool"), *words], capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path
            )
            assert done.returncode == 0, done.stdout + done.stderr
        silences = json.loads(server.get("/api/v2/silences"))
    assert [[m["value"] for m in one["matchers"] if m["name"] == "site"] for one in silences] == [["LL"]] * len(lines)
