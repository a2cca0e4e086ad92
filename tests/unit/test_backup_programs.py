"""Which of PostgreSQL's programs are taken, how they are told where to connect, what of a dump fits another server."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.backup.dump import HEAD, TRANSACTION_TIMEOUT, contents_for, without_transaction_timeout
from app.backup.errors import BackupError, NotProvenError
from app.backup.inventory import compare
from app.backup.likeness import like
from app.backup.manifest import Inventory, Sequence, Table
from app.backup.programs import Programs, choose, environment, needs_tls
from app.backup.schedule import Period, keep_backing_up
from app.settings import BadSettings, load_settings
from tests.unit.test_backup_rotation import EPOCH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEBIAN = Programs(Path("/usr/lib/postgresql/15/bin"), 15, "15.18")
NEWER = Programs(Path("/usr/lib/postgresql/17/bin"), 17, "17.2")
WHEEL = Programs(Path("/wheel"), 18, "18.4", embedded=True)
LISTING = """;
; Archive created at 2026-11-24
3; 3079 16384 EXTENSION - pg_trgm
3500; 0 0 COMMENT - EXTENSION pg_trgm
4; 3079 16385 EXTENSION - timescaledb
5; 2615 2200 SCHEMA - public gaveurs
217; 1259 16386 TABLE public samples gaveurs
"""


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://u:p%40w@h:5/db?sslmode=require", "h 5 u p@w db require"),
        ("postgresql://u@/db?host=%2Ftmp%2FX&port=5432", "/tmp/X 5432 u - db -"),
        ("postgresql://[::1]:7/x", "::1 7 - - x -"),
        ("postgresql://h/x", "h - - - x -"),
    ],
)
def test_a_connection_goes_by_the_environment(dsn: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSSLMODE")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert " ".join(environment(dsn).get(name, "-") for name in names) == expected
    assert needs_tls(dsn) == ("require" in dsn)


def test_programs_are_the_servers_own_or_the_nearest_later_ones() -> None:
    every = (WHEEL, DEBIAN, NEWER)
    assert choose(every, at_least=15, best=15, tls=False) == DEBIAN
    assert choose(every, at_least=16, best=16, tls=False) == NEWER
    assert choose(every, at_least=15, best=18, tls=False) == WHEEL
    with pytest.raises(BackupError, match="PostgreSQL 18 or later are needed"):
        choose(every, at_least=18, best=18, tls=True)


def test_of_a_list_what_the_target_lacks_or_has_is_left_out() -> None:
    contents, lacking = contents_for(LISTING, {"plpgsql", "pg_trgm"})
    assert lacking == ["timescaledb"]
    assert [line for line in contents.splitlines() if not line.startswith(";")] == [
        "3; 3079 16384 EXTENSION - pg_trgm",
        "217; 1259 16386 TABLE public samples gaveurs",
    ]


@pytest.mark.parametrize("step", [1, 7, HEAD, 10 * HEAD])
def test_the_setting_that_an_older_server_refuses_goes_from_the_head_alone(step: int) -> None:
    row = b"x" * HEAD + TRANSACTION_TIMEOUT
    script = b"SET lock_timeout = 0;\n" + TRANSACTION_TIMEOUT + row

    async def chunks() -> AsyncIterator[bytes]:
        for begin in range(0, len(script), step):
            yield script[begin : begin + step]

    async def filtered() -> bytes:
        return b"".join([chunk async for chunk in without_transaction_timeout(chunks())])

    assert asyncio.run(filtered()) == b"SET lock_timeout = 0;\n" + row


def inventory(rows: int = 2, checksum: str = "7", last: int = 5, indexes: int = 1, revision: str = "0005") -> Inventory:
    return Inventory(revision, [Table("public.a", rows, checksum)], [Sequence("public.s", last)], {"indexes": indexes})


def test_a_sequence_may_be_further_on() -> None:
    compare(inventory(), inventory(last=6))


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (inventory(rows=1), "public.a has 1 rows instead of 2"),
        (inventory(checksum="8"), "public.a has other rows than were saved"),
        (inventory(last=4), "sequence public.s is at 4 instead of 5"),
        (inventory(indexes=0), "0 instead of 1 indexes"),
        (inventory(revision="0004"), "schema 0004 instead of 0005"),
        (Inventory("0005", [], [], {"indexes": 1}), "table public.a is missing; sequence public.s"),
    ],
)
def test_every_difference_is_told(found: Inventory, says: str) -> None:
    with pytest.raises(NotProvenError, match=says):
        compare(inventory(), found)


def test_the_next_backup_is_due_by_the_age_of_the_newest() -> None:
    period = Period(1_000, random=0.5)
    assert period.wait_s(None, EPOCH, failed=False) == 0
    assert period.wait_s(EPOCH, EPOCH, failed=False) == 1_025
    assert period.wait_s(EPOCH, EPOCH.replace(hour=4), failed=False) == 0
    assert period.wait_s(None, EPOCH, failed=True) == 250
    assert period.wait_s(EPOCH.replace(year=2036), EPOCH, failed=False) == 1_025


async def test_one_made_by_hand_during_the_wait_puts_the_next_off() -> None:
    """The newest is due in a moment; while that is waited for, somebody makes another."""
    begun = EPOCH
    known, asked, attempts, stop = [begun - timedelta(seconds=999.95)], list[int](), list[int](), asyncio.Event()

    async def newest() -> datetime:
        asked.append(1)
        if len(asked) == 2:
            known.append(begun)
            asyncio.get_running_loop().call_later(0.05, stop.set)
        return known[-1]

    async def attempt() -> bool:
        attempts.append(1)
        stop.set()
        return True

    async with asyncio.timeout(10):
        assert await keep_backing_up(Period(1_000, random=0), newest, attempt, lambda: begun, stop)
    assert (len(asked), attempts) == (2, [])


def test_a_database_like_another_is_asked_for_in_each_servers_words() -> None:
    assert "datlocprovider" not in like(14)
    assert "LOCALE_PROVIDER" not in like(14)
    for major, there, absent in (
        (15, "daticulocale", "daticurules"),
        (16, "daticurules", "datlocale"),
        (17, "datlocale", "daticulocale"),
    ):
        assert there in like(major)
        assert absent not in like(major)
    assert "BUILTIN_LOCALE" not in like(16)


@pytest.mark.parametrize(
    "wrong",
    [{"backup_age_recipients": "AGE-SECRET-KEY-1"}, {"backup_to": "s3://UPPER"}, {"backup_s3_access_key": "alone"}],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(BadSettings):
        load_settings(**wrong)
    assert load_settings(backup_to="/var/backups/gaveurs").backup_to == "/var/backups/gaveurs"
    assert load_settings(backup_to="s3://bucket/prefix").backup_to == "s3://bucket/prefix"
