"""A data folder with an initialised cluster and our schema, made once for a run of tests and copied by each that only
needs one that is empty: initialising and migrating cost more than most tests.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg

from app.core.database import DATABASE_ERRORS
from app.core.embedded_postgres import EmbeddedPostgres
from app.core.migrations import migrate

PLACE = "GAVEURS_TEST_PREPARED"
TEMPLATE = "gaveurs_empty"
KEPT = ("postgres", "password")


def begin() -> None:
    """Choose where, before workers are started; they inherit it."""
    folder = Path(tempfile.mkdtemp(prefix="gaveurs-prepared-", dir="/tmp"))
    folder.chmod(0o755)
    os.environ[PLACE] = str(folder)


def end() -> None:
    shutil.rmtree(os.environ.pop(PLACE), ignore_errors=True)


def copy_into(folder: Path) -> None:
    """Make `folder` as it is after a first start, but for what the service itself puts there."""
    place = os.environ.get(PLACE)
    if place is None:
        return
    made = Path(place) / "data"
    with (Path(place) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first of several workers makes it
        if not (made / "whole").exists():
            made.mkdir()
            with ThreadPoolExecutor(1) as pool:  # a loop may be running here
                pool.submit(asyncio.run, _make(made)).result()
            (made / "whole").touch()
    for name in KEPT:
        subprocess.run(["cp", "-a", str(made / name), str(folder / name)], check=True)


async def _make(folder: Path) -> None:
    embedded = EmbeddedPostgres(folder)
    embedded.prepare()
    await embedded.start()
    try:
        await until_it_answers(embedded.dsn)
        await migrate(embedded.dsn)
        connection = await asyncpg.connect(embedded.dsn.replace("/postgres?", "/template1?"))
        try:
            await connection.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE postgres")
        finally:
            await connection.close()
    finally:
        await embedded.stop()


async def until_it_answers(dsn: str) -> None:
    while True:
        try:
            connection = await asyncpg.connect(dsn)
        except DATABASE_ERRORS:
            await asyncio.sleep(0.05)
        else:
            await connection.close()
            return
