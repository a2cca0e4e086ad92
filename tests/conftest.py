"""One real PostgreSQL for the whole run; a fresh database for each test that asks for one."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import settings

from app.core.embedded_postgres import EmbeddedPostgres
from app.core.migrations import migrate
from tests import prepared
from tests.support import data_folder, running_server, wait_for_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support import Server


# How long an example takes says something of the machine, nothing of the code.
settings.register_profile("gaveurs", deadline=None)
settings.load_profile("gaveurs")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        prepared.begin()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        prepared.end()


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """TEST_DATABASE_URL (a superuser's), or an embedded server of our own."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    with data_folder() as folder:
        prepared.copy_into(folder)
        embedded = EmbeddedPostgres(folder)
        embedded.prepare()
        asyncio.run(embedded.start())
        try:
            asyncio.run(wait_for_database(embedded.dsn))
            yield embedded.dsn
        finally:
            asyncio.run(embedded.stop())


@asynccontextmanager
async def new_database(postgres_dsn: str, template: str) -> AsyncIterator[str]:
    name = f"test_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(postgres_dsn)
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield urlunsplit(urlsplit(postgres_dsn)._replace(path=f"/{name}"))
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@pytest.fixture
async def empty_dsn(postgres_dsn: str) -> AsyncIterator[str]:
    """A database with nothing in it."""
    async with new_database(postgres_dsn, "template1") as dsn:
        yield dsn


@pytest.fixture(scope="session")
def template_database(postgres_dsn: str) -> str:
    """A database with our schema and nothing in it, to be copied."""

    async def make() -> None:
        admin = await asyncpg.connect(postgres_dsn)
        try:
            await admin.execute("SELECT pg_advisory_lock(1)")  # several workers may share the server
            if not await admin.fetchval("SELECT true FROM pg_database WHERE datname = $1", prepared.TEMPLATE):
                async with new_database(postgres_dsn, "template1") as dsn:
                    await migrate(dsn)
                    await admin.execute(f"CREATE DATABASE {prepared.TEMPLATE} TEMPLATE {urlsplit(dsn).path[1:]}")
        finally:
            await admin.close()

    asyncio.run(make())
    return prepared.TEMPLATE


@pytest.fixture
async def dsn(postgres_dsn: str, template_database: str) -> AsyncIterator[str]:
    """A database with our schema."""
    async with new_database(postgres_dsn, template_database) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A running `gaveurs serve` with its embedded database, shared by a module's tests."""
    with running_server() as running:
        yield running
