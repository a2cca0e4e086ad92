"""PostgreSQL's own programs: which of those on this machine fit, and how they are told where to connect."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from app.backup.errors import BackupError
from app.core.data_folder import Account, find_binaries
from app.core.errors import CannotStartError, in_a_line
from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

log = get_logger("gaveurs.backup")

DEBIAN: Final = Path("/usr/lib/postgresql")
ANSWER_S: Final = 3.0  # several may hang, and the doctor waits 12 s for all of them
NEEDED: Final = ("pg_dump", "pg_restore", "psql")
_VERSION: Final = re.compile(r"\(PostgreSQL\) (\d+)(\S*)")
_TLS: Final = {"require", "verify-ca", "verify-full"}
# What libpq reads from the environment, by its name in a URL. What else a URL holds is the driver's own.
VARIABLES: Final = {
    "host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD",
    "dbname": "PGDATABASE", "database": "PGDATABASE", "passfile": "PGPASSFILE", "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "sslcrl": "PGSSLCRL",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION", "channel_binding": "PGCHANNELBINDING",
    "gssencmode": "PGGSSENCMODE", "krbsrvname": "PGKRBSRVNAME", "options": "PGOPTIONS",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Programs:
    """pg_dump, pg_restore and psql of one version. Those of the embedded PostgreSQL speak no TLS."""

    folder: Path
    major: int
    version: str
    embedded: bool = False

    def path(self, name: str) -> str:
        return str(self.folder / name)


def environment(dsn: str) -> dict[str, str]:
    """Our environment with the connection in libpq's variables: a command line is for everybody to read."""
    url = urlsplit(dsn)
    login, _, place = url.netloc.rpartition("@")
    user, _, password = login.partition(":")
    host, _, port = (place.removeprefix("[")).rpartition("]" if place.startswith("[") else ":")
    if not host and ":" not in place:
        host, port = port, ""
    given = {"host": host, "port": port.lstrip(":"), "user": user, "password": password, "dbname": url.path.lstrip("/")}
    said = {name: unquote(value) for name, value in given.items() if value} | dict(parse_qsl(url.query))
    found = {VARIABLES[name]: value for name, value in said.items() if name in VARIABLES}
    return os.environ | found | {"PGCONNECT_TIMEOUT": "10", "PGAPPNAME": "gaveurs-backup"}


def needs_tls(dsn: str) -> bool:
    return environment(dsn).get("PGSSLMODE") in _TLS


def _known(folder: Path, *, embedded: bool = False) -> Programs | None:
    if not all(os.access(folder / name, os.X_OK) for name in NEEDED):
        return None
    program = folder / NEEDED[0]
    try:
        told = subprocess.run(  # noqa: S603
            [program, "--version"], capture_output=True, text=True, errors="replace", check=False, timeout=ANSWER_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("a program of PostgreSQL cannot be run", program=str(program), reason=in_a_line(error))
        return None
    found = _VERSION.search(told.stdout)
    return Programs(folder, int(found[1]), found[1] + found[2], embedded) if found else None


def _folders() -> list[Path]:
    """Debian's by version, then what PATH finds, but for Debian's wrapper, which chooses a version by itself."""
    folders = [*DEBIAN.glob("*/bin")]
    on_path = shutil.which(NEEDED[0])
    if on_path and Path(on_path).resolve().name == NEEDED[0]:
        folders.append(Path(on_path).resolve().parent)
    return folders


@lru_cache(maxsize=4)
def installed(work: Path) -> tuple[Programs, ...]:
    """All of this machine: the system's, and the embedded PostgreSQL's (copied into `work` where it must be)."""
    found = [_known(folder) for folder in _folders()]
    with suppress(CannotStartError):  # not installed: the system's own do
        found.append(_known(find_binaries(work, Account("", os.geteuid(), os.getegid())), embedded=True))
    return tuple(one for one in found if one is not None)


def choose(programs: Sequence[Programs], *, at_least: int, best: int, tls: bool) -> Programs:
    """Of version `best`, else the nearest above `at_least`. BackupError with what to install when there is none."""
    fitting = [one for one in programs if one.major >= at_least and not (tls and one.embedded)]
    if not fitting:
        known = ", ".join(f"{one.version} in {one.folder}" for one in programs) or "none"
        raise BackupError(
            f"pg_dump, pg_restore and psql of PostgreSQL {at_least} or later are needed"
            f"{' (with TLS, which the embedded ones lack)' if tls else ''}: install postgresql-client-{at_least};"
            f" found: {known}"
        )
    return min(fitting, key=lambda one: (one.major != best, one.major, one.embedded))
