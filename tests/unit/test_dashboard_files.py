"""Dashboards that cannot be written or read: one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app import cli
from app.cli_dashboards import build
from app.core.errors import CannotStartError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("check", [True, False])
def test_a_path_that_does_not_serve_is_one_line(check: bool, tmp_path: Path) -> None:
    (tmp_path / "a folder.json").mkdir()
    with pytest.raises(CannotStartError, match=r"a folder\.json: Is a directory$"):
        build(tmp_path, check=check)


def test_below_a_file_there_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("sys.argv", ["gaveurs", "dashboards", "build", "--output", str(tmp_path / "file" / "below")])
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == f"gaveurs: {tmp_path}/file/below: Not a directory\n"


def test_a_file_that_is_no_text_is_outdated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(tmp_path)
    (tmp_path / "gaveurs-slo.json").write_bytes(b"\xff")
    capsys.readouterr()
    build(tmp_path)
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path}/gaveurs-slo.json"]
