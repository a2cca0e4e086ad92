"""deploy/compose/make_secrets.sh, when something was lost, changed or is to be changed: what it leaves fits, or it says so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.deploy.tools import DEPLOY

if TYPE_CHECKING:
    from pathlib import Path

MAKE = DEPLOY / "compose" / "make_secrets.sh"
PAIRS = [
    ("postgres_password", "database_url"),
    ("redis_password", "redis_auth"),
    ("bug_attachments_s3_access_key", "s3_identities"),
    ("bug_attachments_s3_secret_key", "s3_identities"),
    ("backup_s3_access_key", "s3_identities"),
    ("backup_s3_secret_key", "s3_identities"),
]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    subprocess.run(["sh", str(MAKE), str(folder)], check=True, capture_output=True, timeout=20)
    return folder


def make_again(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"]} | variables
    command = ["sh", str(MAKE), str(folder)]
    return subprocess.run(command, env=env, check=False, capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize(("source", "made"), PAIRS)
def test_secrets_that_do_not_fit_are_named(secrets: Path, tmp_path: Path, source: str, made: str) -> None:
    folder = tmp_path / "secrets"
    shutil.copytree(secrets, folder)
    right = (folder / source).read_text()
    for lost in (True, False):
        (folder / source).unlink(missing_ok=True)
        if not lost:
            (folder / source).write_text("changed alone\n")
        done = make_again(folder)
        assert done.returncode == 1
        named = source.replace("access", "secret") if not lost else source  # of a pair of keys, one
        assert f"{folder}/{named}" in done.stderr
        assert f"{folder}/{made}" in done.stderr
        assert lost != (folder / source).exists()
    (folder / source).unlink()
    (folder / source).write_text(right)
    assert make_again(folder).returncode == 0


@pytest.mark.parametrize(("source", "made"), PAIRS)
def test_secrets_that_are_deleted_together_are_made_to_fit(
    secrets: Path, tmp_path: Path, source: str, made: str
) -> None:
    folder = tmp_path / "secrets"
    shutil.copytree(secrets, folder)
    before = {name: (folder / name).read_text() for name in (source, made)}
    for name in before:
        (folder / name).unlink()
    assert make_again(folder).returncode == 0
    assert all((folder / name).read_text() != text for name, text in before.items())
    assert (folder / source).read_text().strip() in (folder / made).read_text()
    page = (DEPLOY.parent / "docs" / "deployment.md").read_text()
    row = re.search(rf"(?m)^\|[^|]*\|[^|]*`{source.partition('_s3_')[0]}[^|]*`{made}`", page)
    assert row is not None or source.startswith("backup")


def test_a_secret_that_only_made_another_is_made_of_it_again(secrets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    shutil.copytree(secrets, folder)
    for made in {made for _, made in PAIRS}:
        (folder / made).unlink()
    assert make_again(folder).returncode == 0
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        path.name: path.read_text() for path in secrets.iterdir()
    }


def test_keys_of_backups_elsewhere_are_not_our_stores(secrets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    shutil.copytree(secrets, folder)
    (folder / "backup_s3_secret_key").unlink()
    (folder / "backup_s3_secret_key").write_text("of another place\n")
    assert make_again(folder).returncode == 1
    assert make_again(folder, BACKUP_TO="s3://gaveurs-backups/prefix").returncode == 1
    assert make_again(folder, BACKUP_TO="s3://elsewhere/prefix").returncode == 0
