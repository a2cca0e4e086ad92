"""The embedded database's folder: as root and as an ordinary user."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from app.core.data_folder import Account, blocked_at, claim_folder
from app.core.errors import CannotStartError
from tests.support import Server, data_folder, running_server

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="what root has to do, only root has to do")


def test_the_data_path_is_in_the_servers_command_line(server: Server) -> None:
    assert str(server.folder / "postgres") in server.postmaster().cmdline()


def test_the_database_is_durable_checked_and_closed_to_others(server: Server) -> None:
    control = (server.folder / "postgres" / "global" / "pg_control").stat()
    assert control.st_uid == server.postmaster().uids().real
    command = " ".join(server.postmaster().cmdline())
    assert "fsync=on" in command
    assert "listen_addresses= " in command
    assert "trust" not in [
        line.split()[-1]
        for line in (server.folder / "postgres" / "pg_hba.conf").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700


def test_a_parent_that_cannot_be_entered_is_one_clear_line_and_left_as_it_is() -> None:
    with data_folder() as parent:
        parent.chmod(0o700)
        stranger = Account("stranger", 12_345, 12_345)
        assert blocked_at(parent / "data", stranger) == parent
        with pytest.raises(CannotStartError, match=f"user stranger cannot enter {parent}"):
            claim_folder(parent / "data", stranger)
        assert stat.S_IMODE(parent.stat().st_mode) == 0o700
        assert not (parent / "data").exists()


def test_a_long_path_gets_its_socket_elsewhere() -> None:
    with data_folder() as parent:
        parent.chmod(0o755)
        folder = parent / ("x" * 120)
        server = Server(folder)
        try:
            server.start()
            assert server.get("/health/ready")["status"] == "ready"
        finally:
            server.clean_up()


@root_only
def test_as_root_a_private_folder_is_handed_to_the_databases_user() -> None:
    with running_server() as server:
        owner = server.folder.stat().st_uid
        assert owner != 0
        assert server.postmaster().uids().real == owner
        assert Path(f"/proc/{server.running.pid}").stat().st_uid == 0
