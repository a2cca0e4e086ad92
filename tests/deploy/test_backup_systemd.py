"""The units of deploy/systemd, read by systemd itself."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import typer.main
from pydantic import SecretStr

from app.cli import cli
from app.settings import Settings
from tests.deploy.tools import DEPLOY, ROOT, tool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNITS = DEPLOY / "systemd"
EXPOSURE = 2.0


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """As they would be installed, with a program that is there."""
    for source in UNITS.glob("gaveurs-*"):
        (tmp_path / source.name).write_text(source.read_text().replace("/opt/gaveurs/bin/gaveurs", "/bin/true"))
    return tmp_path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [tool("systemd-analyze"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_systemd_finds_nothing_wrong(units: Path) -> None:
    names = sorted(str(path) for path in units.iterdir())
    assert len(names) == 2
    done = analyze("verify", "--man=no", "--recursive-errors=no", *names)
    about_ours = [line for line in done.stderr.splitlines() if "gaveurs" in line]
    assert (done.returncode, about_ours) == (0, [])


def test_the_service_is_hardened(units: Path) -> None:
    done = analyze(
        "security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", str(units / "gaveurs-backup.service")
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_timer_comes_every_night(units: Path) -> None:
    (line,) = [
        line for line in (units / "gaveurs-backup.timer").read_text().splitlines() if line.startswith("OnCalendar")
    ]
    done = analyze("calendar", "--iterations=2", line.partition("=")[2])
    assert done.returncode == 0
    assert done.stdout.count("02:30:00") >= 2


def lines(key: str) -> list[str]:
    """Values of a key of the service, those that are commented too."""
    text = (UNITS / "gaveurs-backup.service").read_text(encoding="utf-8")
    found = re.findall(rf"(?m)^#?{key}=(.*)$", text)
    assert found, key
    return found


def test_the_command_is_one_of_the_command_line() -> None:
    program = typer.main.get_command(cli)
    for line in lines("ExecStart"):
        path, *arguments = shlex.split(line)
        context = program.make_context(path.rpartition("/")[2], arguments[:1], resilient_parsing=True)
        command = program.get_command(context, arguments[0])  # type: ignore[attr-defined]
        assert command is not None, line
        assert arguments[1:] or getattr(command, "invoke_without_command", True), line
        command.make_context(arguments[0], arguments[1:], parent=context)  # raises where an option is unknown
        assert path.rpartition("/")[2] in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def test_its_variables_and_secrets_are_settings() -> None:
    variables = [line.partition("=") for line in lines("Environment")]
    secrets = [line.partition(":") for line in lines("LoadCredential")]
    assert {name.lower() for name, _, _ in variables} | {name for name, _, _ in secrets} <= Settings.model_fields.keys()
    assert ("SECRETS_DIR", "=", "%d") in variables
    for name, _, path in secrets:
        assert path.rpartition("/")[2] == name
        assert SecretStr in inside(Settings.model_fields[name].annotation), name


def inside(annotation: Any) -> Iterator[Any]:
    yield annotation
    for one in getattr(annotation, "__args__", ()):
        yield from inside(one)


def test_it_is_given_more_time_than_a_backup_may_take() -> None:
    (granted,) = lines("TimeoutStartSec")
    assert int(granted.removesuffix("h")) * 3600 > Settings(_env_file=None).backup_deadline_s
