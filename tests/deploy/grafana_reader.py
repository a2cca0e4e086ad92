"""The role by which Grafana reads, made by the shipped script, and a connection as that role."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from tests.deploy.tools import DEPLOY, tool

SCRIPT: Final = DEPLOY / "grafana" / "grafana_reader.sql"
PASSWORD: Final = "s3cret of the reader"


def make_reader(dsn: str, folder: Path) -> None:
    """As the script's own first lines say; `dsn` is the owner's."""
    secret = folder / "grafana_reader_password"
    secret.write_text(PASSWORD + "\n")
    command = [tool("psql"), "-X", "-q", dsn, "-v", f"password_file={secret}", "-f", str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@asynccontextmanager
async def reader(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    parts = urlsplit(dsn)
    place = f"grafana_reader@{parts.netloc.rpartition('@')[2]}"
    connection = await asyncpg.connect(urlunsplit(parts._replace(netloc=place)), password=PASSWORD, timeout=10)
    try:
        yield connection
    finally:
        await connection.close()
