"""An embedded PostgreSQL under a small supervisor: one owner, a direct child, durable, restarted when it dies."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from app.core.data_folder import SERVER_MAJOR, Account, FolderLock, choose_account, claim_folder, find_binaries
from app.core.errors import CannotStartError, in_a_line
from app.core.files import told, write_private
from app.core.logging import get_logger

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

LAUNCHER = Path(__file__).with_name("launch_postgres.py")
SOCKET_PATH_LIMIT = 100  # sockaddr_un holds 107 bytes; PostgreSQL appends /.s.PGSQL.5432
USER = "gaveurs"
PORT = 5432  # names the socket file only: nothing listens on TCP
START_DEADLINE_S = 60.0
STOP_STEPS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 3.0), (signal.SIGKILL, 2.0))
WORDS_DEADLINE_S = 2.0
STOP_DEADLINE_S = sum(deadline_s for _, deadline_s in STOP_STEPS) + 1.0
SERVER_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "max_connections": "60",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "password_encryption": "scram-sha-256",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    # A new 16 MB WAL segment every two seconds under load: filling it with zeros first held commits for 80 ms.
    "wal_init_zero": "off",
    "min_wal_size": "1GB",
    "timezone": "UTC",
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "postgres-%a.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_error_verbosity": "terse",  # no DETAIL: it quotes rows, and rows may name people
}
HANDED_OVER = "redirecting log output to logging collector process"
STARTING = re.compile(r" LOG:  starting PostgreSQL ")
FATAL = re.compile(r" (?:FATAL|PANIC):  ")
LAST_BYTES = 65_536

log = get_logger("gaveurs.postgres")


class FolderInUseError(CannotStartError):
    """Another process owns the data folder (and runs its server)."""


class EmbeddedPostgres:
    """PostgreSQL in `folder/postgres`.

    `prepare()` checks the folder and takes its lock; `start()` brings the server up, `watch()` brings it up again
    whenever it dies, `stop()` ends it. The owner's death ends it too. CannotStartError, one clear line, for what only a
    person can mend.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.data = self.folder / "postgres"
        self._lock = FolderLock(self.folder)
        self._account: Account | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._sockets: Path | None = None

    @property
    def dsn(self) -> str:
        """Where the running server answers; holds the password. CannotStartError while it is only starting."""
        try:
            text: str = json.loads((self.folder / "connection.json").read_text())["dsn"]
        except (OSError, ValueError, KeyError) as error:
            why = f"the database in {self.folder} is only starting: try again ({in_a_line(error)})"
            raise CannotStartError(why) from error
        return text

    def prepare(self) -> None:
        with self._told():
            self._account = choose_account(self.folder)
            claim_folder(self.folder, self._account)
            if not self._lock.take():
                raise FolderInUseError(
                    f"the data folder {self.folder} is in use by process {self._lock.owner()}; "
                    "stop it or give another one with --data-dir"
                )
            try:
                self._check_version()
            except BaseException:
                self._lock.release()
                raise

    def _told(self) -> AbstractContextManager[None]:
        return told(f"the data folder {self.folder} cannot be used")

    def _check_version(self) -> None:
        if self._version.exists() and (made_by := self._version.read_text().strip()) != str(SERVER_MAJOR):
            raise CannotStartError(
                f"{self.data} was made by PostgreSQL {made_by}, this is {SERVER_MAJOR}:"
                " dump it there and restore it here"
            )

    @property
    def _version(self) -> Path:
        return self.data / "PG_VERSION"

    @property
    def _owner(self) -> Account:
        if self._account is None:
            raise RuntimeError("prepare() comes first")
        return self._account

    async def start(self) -> None:
        """Initialise the cluster if there is none, end an orphan, start the server. It may still be recovering.

        One that was there before is not made anew: its files may come back (a volume that is not mounted).
        """
        with self._told():
            is_made = self._version.exists()
            if self._child is not None and not is_made:
                raise CannotStartError(f"the database's files have gone from {self.data}")
            binaries = await asyncio.to_thread(find_binaries, self.folder, self._owner)
            if not is_made:
                await asyncio.to_thread(self._initialise, binaries)
            await self._end_orphan()
            self._sockets = self._socket_folder()
            self._write_connection()
            self._spawn(binaries)

    async def watch(self) -> None:
        """Start the server again whenever it exits, with growing pauses; runs until cancelled."""
        pause = 0.2
        while True:
            started = asyncio.get_running_loop().time()
            code = await self._exited()
            if asyncio.get_running_loop().time() - started > START_DEADLINE_S:
                pause = 0.2
            await self._all_is_written()
            log.error(
                "embedded PostgreSQL ended; starting it again", exit_code=code, pause_s=pause, said=self._last_words()
            )
            is_started = False
            while not is_started:
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
                is_started = await self._started_again()

    async def _started_again(self) -> bool:
        try:
            await self.start()
        except CannotStartError as error:
            log.error("embedded PostgreSQL could not be started; trying again", reason=str(error))  # noqa: TRY400
            return False
        return True

    async def _all_is_written(self) -> None:
        """The log collector ends after the server, once it has written what was said."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WORDS_DEADLINE_S):
                while self._running():  # noqa: ASYNC110 - strangers' children cannot be waited for
                    await asyncio.sleep(0.02)

    def _last_words(self) -> str:
        """Its last line, or, once it has a log of its own, the last FATAL or PANIC there since it started."""
        try:
            lines = _last_lines(self.folder / "postgres-start.log")
            if lines and lines[-1].endswith(HANDED_OVER):
                lines += self._fatal_lines()
        except OSError as error:
            return in_a_line(error)
        return lines[-1] if lines else ""

    def _fatal_lines(self) -> list[str]:
        logs = sorted((self.data / "log").glob("postgres-*.log"), key=lambda path: path.stat().st_mtime)
        fatal: list[str] = []
        for line in _last_lines(logs[-1]) if logs else ():
            if STARTING.search(line):
                fatal.clear()
            elif FATAL.search(line):
                fatal.append(line)
        return fatal

    async def stop(self) -> None:
        """Fast shutdown, then harder ones; returns when the server is gone."""
        if self._child is not None:
            for number, deadline_s in STOP_STEPS:
                if self._child.poll() is not None:
                    break
                self._child.send_signal(number)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._exited(), deadline_s)
        self.release()

    def release(self) -> None:
        """Give the folder up; the server must not be running."""
        if self._sockets is not None and self._sockets.parent != self.folder:
            shutil.rmtree(self._sockets, ignore_errors=True)  # who cleans /tmp takes what is left
        self._sockets = None
        self._lock.release()

    async def _exited(self) -> int:
        """Polls: a child watcher would have to be shared with whoever runs the event loop."""
        if self._child is None:
            raise RuntimeError("start() comes first")
        while (code := self._child.poll()) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return code

    def _command(self, program: Path, *arguments: str, owner: int) -> list[str]:
        account = self._owner
        launcher = [sys.executable, "-I", "-S", str(LAUNCHER), str(owner), str(account.uid), str(account.gid)]
        return [*launcher, str(program), *arguments]

    def _initialise(self, binaries: Path) -> None:
        """initdb into a folder beside the final one, renamed when complete: a kill in the middle leaves no half."""
        password = secrets.token_urlsafe(24)
        staging = self.folder / "postgres.new"
        if staging.exists():
            shutil.rmtree(staging)
        secret = self._secret_file(password)
        options = ["-D", str(staging), "-U", USER, f"--pwfile={secret}", "--auth=scram-sha-256", "--data-checksums"]
        options += ["--encoding=UTF8", "--locale=C", "--no-instructions"]
        done = subprocess.run(  # noqa: S603 - our own binaries
            self._command(binaries / "initdb", *options, owner=0), capture_output=True, text=True, check=False, cwd="/"
        )
        if done.returncode != 0:
            raise CannotStartError(f"initdb failed in {staging}: {(done.stderr.strip().splitlines() or [''])[-1]}")
        staging.rename(self.data)

    def _secret_file(self, password: str) -> Path:
        """The database password, readable by its user alone (0600)."""
        path = self.folder / "password"
        write_private(path, password)
        if os.geteuid() == 0:
            os.chown(path, self._owner.uid, self._owner.gid)
        return path

    def _socket_folder(self) -> Path:
        """Inside the data folder, or in a private temporary one when that path would be too long for a socket. The
        same one at each start, made again if it was cleaned away: addresses that are in use name it.
        """
        inside = self.folder / "run"
        if self._sockets is not None:
            made = self._sockets
            if made.exists():
                return made
            made.mkdir(mode=0o700)
        elif len(os.fsencode(inside)) + len("/.s.PGSQL.5432") <= SOCKET_PATH_LIMIT:
            inside.mkdir(mode=0o700, exist_ok=True)
            made = inside
        else:
            made = Path(tempfile.mkdtemp(prefix="gaveurs-", dir="/tmp"))
        if os.geteuid() == 0:
            os.chown(made, self._owner.uid, self._owner.gid)
        return made

    def _write_connection(self) -> None:
        """`connection.json` (0600): how the command line reaches a database that another process owns."""
        password = (self.folder / "password").read_text()
        host = quote(str(self._sockets), safe="")
        dsn = f"postgresql://{USER}:{quote(password, safe='')}@/postgres?host={host}&port={PORT}"
        write_private(self.folder / "connection.json", json.dumps({"dsn": dsn}))

    def _spawn(self, binaries: Path) -> None:
        settings = SERVER_SETTINGS | {"unix_socket_directories": str(self._sockets)}
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "postgres-start.log").open("wb") as output:
            self._child = subprocess.Popen(  # noqa: S603 - our own binaries; forked by the loop's own, lasting thread
                self._command(binaries / "postgres", "-D", str(self.data), *arguments, owner=os.getpid()),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
            )
        log.info("embedded PostgreSQL starting", data=str(self.data), pid=self._child.pid, user=self._owner.name)

    async def _end_orphan(self) -> None:
        """End a server that outlived its owner: we hold the folder's lock, so it belongs to nobody."""
        for number, deadline_s in ((signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0)):
            for pid in self._running():
                log.warning(
                    "ending a PostgreSQL process left behind by an owner that died", pid=pid, signal=number.name
                )
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
                    os.kill(pid, number)
            with suppress(TimeoutError):
                async with asyncio.timeout(deadline_s):
                    while self._running():  # noqa: ASYNC110 - strangers' children cannot be waited for
                        await asyncio.sleep(0.02)
                return
        raise CannotStartError(f"a PostgreSQL process left behind in {self.data} cannot be ended")

    def _running(self) -> list[int]:
        """Live PostgreSQL processes of this folder: by what they are and where they work, or by `postmaster.pid`."""
        if Path("/proc").is_dir():
            return [pid for pid in _process_ids() if _serves(pid, self.data)]
        try:
            leader = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            os.kill(leader, 0)
        except (OSError, ValueError, IndexError):
            return []
        return [leader]


def _last_lines(path: Path) -> list[str]:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
        return file.read().decode(errors="replace").strip().splitlines()


def _process_ids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _serves(pid: int, data: Path) -> bool:
    """A program named postgres that works in `data`, as each of its processes does. Zombies have neither."""
    try:
        return (
            Path(f"/proc/{pid}/exe").readlink().name.startswith("postgres")
            and Path(f"/proc/{pid}/cwd").readlink() == data.resolve()
        )
    except OSError:
        return False
