"""Debian's own PostgreSQL, another version than the embedded one, on a socket folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import data_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PATIENCE_S = 120.0


def bin_folder() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    assert found, "install Debian's postgresql package: `make check-deploy` does"
    return found[-1]


def as_postgres(*command: object, env: Mapping[str, str] | None = None, check: bool = True) -> str:
    """Run as the user `postgres` where we are root, which PostgreSQL refuses."""
    drop = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*drop, *map(str, command)],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S, cwd="/", env=os.environ | dict(env or {}),
    )  # fmt: skip
    assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout + done.stderr


@dataclass
class Cluster:
    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql://gaveurs@/{database}?host={self.folder}"

    def create(self) -> None:
        """Make it, stopped."""
        options = ("-U", "gaveurs", "--auth=trust", "--encoding=UTF8", "--locale=C")
        as_postgres(bin_folder() / "initdb", "-D", self.data, *options)

    def configure(self, **settings: str) -> None:
        lines = {"listen_addresses": "", "unix_socket_directories": str(self.folder)} | settings
        text = "".join(f"{name} = '{value}'\n" for name, value in lines.items())
        with (self.data / "postgresql.conf").open("a") as config:
            config.write(text)

    def start(self) -> None:
        """Also from a recovery: ready when it takes connections."""
        log = self.folder / "log"
        command = [bin_folder() / "pg_ctl", "-D", self.data, "-l", log, "-t", "60", "-w", "start"]
        assert "server started" in as_postgres(*command, check=False), log.read_text()

    def stop(self, mode: str = "fast") -> None:
        as_postgres(bin_folder() / "pg_ctl", "-D", self.data, "-m", mode, "-w", "stop", check=False)

    def ask(self, question: str, database: str = "postgres") -> str:
        """psql's answer, its values alone."""
        return as_postgres(
            bin_folder() / "psql", "-XAtq", "-h", self.folder, "-U", "gaveurs", "-d", database, "-c", question
        ).strip()

    def until(self, question: str, answer: str, patience_s: float = 60.0) -> None:
        deadline = time.monotonic() + patience_s
        while (said := self.ask(question)) != answer:
            assert time.monotonic() < deadline, (question, said)
            time.sleep(0.2)


@contextmanager
def new_cluster() -> Iterator[Cluster]:
    with data_folder() as folder:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        cluster = Cluster(folder)
        cluster.create()
        try:
            yield cluster
        finally:
            cluster.stop("immediate")
