"""The rehearsal of the container leaves nothing behind, and what keeps it from running is a line."""

from __future__ import annotations

import select
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from scripts import rehearse_container
from scripts.rehearsal_root import RehearsalError, run
from scripts.rehearse_container import NAMESPACES

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 30.0
# As Debian's PostgreSQL, which is another user: what `unshare` arranges does not outlive that.
OTHER_USER = "setpriv --reuid=65534 --regid=65534 --clear-groups sleep infinity & echo started; wait"


def test_what_it_starts_ends_with_it() -> None:
    """The pipe's end is what is seen of the end of all that hold it."""
    command = [*NAMESPACES, "sh", "-c", OTHER_USER]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as rehearsal:
        assert rehearsal.stdout is not None
        assert rehearsal.stdout.readline() == b"started\n"
        rehearsal.kill()
        assert select.select([rehearsal.stdout], [], [], PATIENCE_S)[0], "somebody goes on"
        assert rehearsal.stdout.read() == b""


def test_a_program_that_is_not_there_or_does_not_end_is_a_line() -> None:
    with pytest.raises(RehearsalError, match="no-such-program cannot be run: No such file or directory"):
        run("no-such-program")
    with pytest.raises(RehearsalError, match=r"sleep 1000: it did not end within 0\.01 s"):
        run("sleep", "1000", deadline_s=0.01)


def test_a_file_that_is_not_there_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["rehearse_container", str(tmp_path / "Containerfile")])
    with pytest.raises(SystemExit, match=r"^rehearse_container: .*Containerfile"):
        rehearse_container.main()
