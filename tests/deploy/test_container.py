"""The container's steps, rehearsed without a container engine, and what the rehearsal must notice."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scripts import containerfile, rehearsal_run
from scripts.rehearsal_root import Engine, RehearsalError
from scripts.rehearse_container import CONTAINERFILE, build, check
from tests.deploy.tools import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 30.0  # for a container that comes up never, or never ends
NEVER = ("port 8000 does not answer /health/ready", "process 1 does not end on signal 15")
SHOWN = (
    "no compiler, pip or downloader in PATH",
    "the wheel runs, not the source tree",
    "only /tmp and the volume can be written",
    "`migrate` makes the schema",
    "ENTRYPOINT and CMD serve: /health/ready is 200",
    "a device's sample is acknowledged",
    "SIGTERM to process 1 drains it",
    "its receipt says lost_acked 0",
    "HEALTHCHECK fails when nothing serves",
    "`backup` saves the database and proves it",
    "`backup` works on a claim of mode 2777",
    "`backup` works on a claim of mode 2770",
    "attachments lie and the service runs on a claim of mode 2770",
    "`demo` runs with the embedded PostgreSQL",
)
# glibc's of Debian 13 and below: what pip takes there.
ARM64 = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, 42)] + ["--platform=manylinux2014_aarch64"]


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """The final stage's root, built once."""
    work = Path(tempfile.mkdtemp(prefix="gaveurs-image-", dir="/var/tmp"))
    try:
        yield build(CONTAINERFILE, work)
    finally:
        shutil.rmtree(work)


def changed(folder: Path, *changes: tuple[str, str]) -> Path:
    text = CONTAINERFILE.read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "Containerfile"
    path.write_text(text)
    return path


@pytest.mark.timeout(500)
def test_it_migrates_serves_and_drains(root: Path) -> None:
    done = check(CONTAINERFILE, root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in SHOWN if f"ok: {line}" not in done.stdout] == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"--port", "8000"', '"--port", "8001"', "port 8000 does not answer /health/ready"),
        ('"--host", "0.0.0.0", ', '"--hosts", "0.0.0.0", ', "it ended"),
        ("METRICS_PORT=9100", "METRICS_PORT=9101", "METRICS_PORT is the exposed one"),
        ("EXPOSE 8000 9100", "EXPOSE 8000", "EXPOSE 8000 9100"),
        ("'/health/live'", "'/health/lives'", "HEALTHCHECK succeeds while it serves"),
        ('CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]', "CMD serve", "not in exec form"),
        (
            'ENTRYPOINT ["gaveurs"]',
            'ENTRYPOINT ["sh", "-c", "gaveurs \\"$@\\"; exit $?", "-"]',
            "process 1 does not end on signal 15",
        ),
        ("USER 10001:10001", "USER root", "USER is root"),
        ("TMPDIR=/tmp", "TMPDIR=/tmp REDIS_PASSWORD=x", "no secret in ENV"),
        ("ARG VERSION=0.1.0", "ARG VERSION=0.0.9", "the version label is pyproject's"),
    ],
)
@pytest.mark.timeout(150)
def test_the_rehearsal_notices(root: Path, tmp_path: Path, old: str, new: str, complaint: str) -> None:
    patience_s = PATIENCE_S if complaint in NEVER else rehearsal_run.PATIENCE_S
    done = check(changed(tmp_path, (old, new)), root, patience_s)
    assert done.returncode == 1, done.stdout
    assert complaint in done.stderr


def test_a_file_that_is_not_the_locked_one_ends_the_build(tmp_path: Path) -> None:
    for name in (".dockerignore", "requirements.lock", "requirements-build.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "requirements.lock").write_text(f"h11==0.16.0 --hash=sha256:{'0' * 64}\n")
    stage = containerfile.read(CONTAINERFILE)[0]
    first = [one.name for one in stage.instructions].index("RUN")
    short = containerfile.Stage(stage.base, stage.name, stage.instructions[: first + 1])
    with pytest.raises(RehearsalError, match="DO NOT MATCH THE HASHES"):
        Engine(short, tmp_path / "root", {}, tmp_path).build()


def test_every_locked_wheel_exists_for_arm64(tmp_path: Path) -> None:
    """The rehearsal itself proves this machine's processor."""
    options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--python-version", "3.11", *ARM64]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", "requirements.lock", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(tmp_path.glob("numpy-*_aarch64.whl"))


def test_nothing_but_the_product_is_in_the_build() -> None:
    patterns = [one for one in (ROOT / ".dockerignore").read_text().splitlines() if one and not one.startswith("#")]
    inside = ["app/main.py", "app/web/main.js", "app/sqal/v1.zdict", "pyproject.toml", "requirements.lock"]
    outside = [
        ".env",
        "deploy/compose/secrets/database_url",
        ".git/config",
        "tests/support.py",
        "app/__pycache__/x.pyc",
    ]
    assert [path for path in inside if not containerfile.allowed(path, patterns)] == []
    assert [path for path in outside if containerfile.allowed(path, patterns)] == []


def test_what_the_reader_does_not_know_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text("FROM x\nONBUILD RUN y\n")
    with pytest.raises(containerfile.ContainerfileError, match="unknown instruction: ONBUILD"):
        containerfile.read(tmp_path / "Containerfile")


@pytest.mark.parametrize(
    ("user", "python", "said"),
    [
        ("1000", "exit 0", "check-deploy: run it as root"),
        ("0", "exit 1", "check-deploy: make .venv with a Python 3.11 that has a folder of its own"),
    ],
)
def test_what_the_rehearsal_needs_is_missed_before_anything_is_done(
    tmp_path: Path, user: str, python: str, said: str
) -> None:
    """One line, and code 1: nothing is skipped, nothing installed."""
    (tmp_path / "deploy" / "container").mkdir(parents=True)
    shutil.copy(CONTAINERFILE, tmp_path / "deploy" / "container")
    programs = {"bin/id": f"echo {user}", "bin/apt-get": "touch installed", ".venv/bin/python": python}
    for name, does in programs.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin:/usr/sbin:/sbin"}
    command = ["sh", str(ROOT / "scripts" / "check_deploy.sh")]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(said)
    assert not (tmp_path / "installed").exists()


def test_the_python_of_these_checks_is_one_that_can_be_put_into_the_image() -> None:
    script = (ROOT / "scripts" / "check_deploy.sh").read_text()
    program = script.partition("python -c '")[2].partition("'")[0]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for wanted, code in ((version, 0), ("2.7", 1)):
        assert subprocess.run([sys.executable, "-c", program, wanted], timeout=30, check=False).returncode == code
