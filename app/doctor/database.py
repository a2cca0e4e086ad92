"""The database: whether it can be reached at all, and then everything that it tells."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg

from app.core.apart import apart
from app.core.database import CONNECT_DEADLINE_S, DATABASE_ERRORS
from app.core.errors import in_a_line
from app.doctor.backup_means import check_programs
from app.doctor.backups import judge_backups
from app.doctor.clock import judge_offset
from app.doctor.database_facts import DatabaseFacts, ask_database
from app.doctor.database_judge import TOPIC, judge_database, judge_extensions, judge_migrations
from app.doctor.finding import Finding, note, problem
from app.doctor.folders import lock_holder

if TYPE_CHECKING:
    from app.doctor.patient import Patient

ASK_S: Final = 5.0
AWAY: Final = "samples are answered busy and kept by their devices; reads come from the cache or get 503"
NOT_ASKED: Final = "migrations, extensions, backups and the database's clock were not looked at"


async def check_database(patient: Patient) -> list[Finding]:
    dsn = await apart(lambda: _address(patient))
    if dsn is None:
        what = f"the embedded PostgreSQL in {patient.settings.data_dir} does not run now"
        return [note(TOPIC, what, NOT_ASKED, "gaveurs serve, and then the doctor again")]
    try:
        facts = await _ask(dsn)
    except (*DATABASE_ERRORS, ValueError) as error:
        return [problem(TOPIC, f"{shown(dsn)}: {_in_words(error)}", f"{AWAY}; {NOT_ASKED}", _what_to_do(error))]
    return [
        *judge_database(facts, patient),
        *judge_migrations(facts),
        *judge_extensions(facts),
        *judge_backups(facts, patient),
        *await check_programs(patient, dsn, facts),
        *judge_offset("the database", facts.offset_s, facts.trip_s),
    ]


def _address(patient: Patient) -> str | None:
    """None for an embedded server that nobody runs: to start it would be to change something."""
    settings = patient.settings
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    if lock_holder(settings.data_dir) is None:
        return None
    try:
        dsn: str = json.loads((settings.data_dir / "connection.json").read_text())["dsn"]
    except (OSError, ValueError, KeyError):
        return None
    return dsn


async def _ask(dsn: str) -> DatabaseFacts:
    connection: Any = await asyncpg.connect(
        dsn, timeout=CONNECT_DEADLINE_S, server_settings={"application_name": "gaveurs-doctor", "timezone": "UTC"}
    )
    try:
        async with asyncio.timeout(ASK_S):
            return await ask_database(connection)
    finally:
        connection.terminate()


def shown(dsn: str) -> str:
    """Where, and as whom; never the password."""
    parts = urlsplit(dsn)
    host = parts.hostname or (parse_qs(parts.query).get("host") or ["?"])[0]
    if dsn.count("@") > 1:  # which of them ends the password is a matter of opinion
        return f"{host}:{parts.port or 5432}"
    return f"{parts.username or ''}@{host}:{parts.port or 5432}{parts.path}"


WORDS: Final[tuple[tuple[type[BaseException], str, str], ...]] = (
    (
        asyncpg.InvalidPasswordError,
        "the password is wrong, or there is no such role",
        "correct DATABASE_URL, or: ALTER ROLE ... PASSWORD '...'; or CREATE ROLE ... LOGIN PASSWORD '...';",
    ),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "there is no such role, or it is not let in from this address",
        "CREATE ROLE ... LOGIN; or correct DATABASE_URL, or the server's pg_hba.conf",
    ),
    (asyncpg.InvalidCatalogNameError, "there is no such database", "CREATE DATABASE ... OWNER ...;"),
    (
        asyncpg.TooManyConnectionsError,
        "all its connections are taken",
        "SELECT * FROM pg_stat_activity; or max_connections",
    ),
    (asyncpg.CannotConnectNowError, "it is starting or stopping", "wait; its log says how far it is"),
    (asyncpg.InsufficientPrivilegeError, "the role may not read our tables", "GRANT USAGE ON SCHEMA public TO ...;"),
    (ConnectionRefusedError, "nobody listens there", "start PostgreSQL, or correct host and port in DATABASE_URL"),
    (FileNotFoundError, "there is no socket in that folder", "start PostgreSQL, or correct the host in DATABASE_URL"),
    (ssl.SSLError, "TLS fails", "sslmode and sslrootcert in DATABASE_URL must fit the server's certificate"),
    (
        TimeoutError,
        f"no answer within {CONNECT_DEADLINE_S:g} s",
        "see its load, and what is between (firewall, NetworkPolicy)",
    ),
    (OSError, "it cannot be reached", "correct the host in DATABASE_URL, or the name server's answer"),
)


def _in_words(error: BaseException) -> str:
    words = next((said for kind, said, _ in WORDS if isinstance(error, kind)), "it cannot be asked")
    return f"{words} ({in_a_line(error)})"


def _what_to_do(error: BaseException) -> str:
    return next((do for kind, _, do in WORDS if isinstance(error, kind)), "see the server's log")
