"""Runs a rehearsed root as a container: another user, read-only root, no capabilities, nothing but its own environment.

It is started in a network namespace of its own (by `rehearse_container`), so that the image's ports are free, and a
real PostgreSQL listens in there too.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from websockets.asyncio.client import connect

from scripts import containerfile
from scripts.rehearsal_root import ROOT, RehearsalError, inside, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.containerfile import Stage

USER_ID: Final = 10001
PATIENCE_S: Final = 60.0  # for it to come up, and for it to drain: an idle one takes 4 s, Kubernetes grants 90
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
# Read-only, the volume and /tmp apart; /tmp and the volume cannot run programs that are put there.
MOUNTS: Final = (
    'mount --bind "$VOLUME_FROM" "$0$VOLUME" && mount -o remount,bind,nosuid,nodev,noexec "$0$VOLUME"',
    'mount --bind -o ro "$SECRETS_FROM" "$0/run/secrets"',
    'mount -t tmpfs -o nosuid,nodev,noexec,size=64m tmpfs "$0/tmp"',
    'mount -o remount,bind,ro "$0"',
)
PRIVILEGES: Final = (
    f"/usr/bin/setpriv --reuid={USER_ID} --regid={USER_ID} --clear-groups"
    " --no-new-privs --bounding-set=-all --inh-caps=-all"
)


class Container:
    """The final stage's settings over its root."""

    def __init__(self, stage: Stage, root: Path, folder: Path, patience_s: float = PATIENCE_S) -> None:
        self.stage, self._root, self._folder, self._patience_s = stage, root, folder, patience_s
        if stage.last("USER").rest != f"{USER_ID}:{USER_ID}":
            raise RehearsalError(f"USER is {stage.last('USER').rest}, not {USER_ID}:{USER_ID}")
        self.volume = stage.last("VOLUME").rest
        for name in ("data", "secrets"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
            os.chown(folder / name, USER_ID, USER_ID)
        self._data = folder / "data"
        (root / "run" / "secrets").mkdir(exist_ok=True)

    def secret(self, name: str, value: str) -> None:
        path = self._folder / "secrets" / name
        path.write_text(f"{value}\n")
        path.chmod(0o400)
        os.chown(path, USER_ID, USER_ID)

    def forget(self, name: str) -> None:
        (self._folder / "secrets" / name).unlink()

    @contextlib.contextmanager
    def handed_out(self, mode: int) -> Iterator[None]:
        """Another, empty volume, as Kubernetes hands out a claim for an `fsGroup`: root's, its group ours."""
        own, claim = self._data, self._folder / f"claim-{mode:o}"
        claim.mkdir(exist_ok=True)
        os.chown(claim, 0, USER_ID)
        claim.chmod(mode)
        self._data = claim
        try:
            yield
        finally:
            self._data = own

    def command(self, words: list[str]) -> tuple[list[str], dict[str, str]]:
        """How `words` run in it, and the environment: the image's, without HOME."""
        folder = self.stage.last("WORKDIR").rest
        steps = [*PRIVILEGES.split(), "/bin/sh", "-c", f'cd {folder} && exec "$0" "$@"', *words]
        env = self.stage.environment()
        own = {"VOLUME": self.volume, "VOLUME_FROM": str(self._data), "SECRETS_FROM": f"{self._folder}/secrets"}
        return inside(self._root, [*MOUNTS, f"unset {' '.join(own)} HOME PWD OLDPWD"], steps), env | own

    def run(self, *words: str) -> str:
        """The output of one command; RehearsalError when it fails."""
        command, env = self.command(list(words))
        return run(*command, env=env, deadline_s=60)

    def entry(self, *arguments: str) -> list[str]:
        """ENTRYPOINT with these arguments, or with CMD's."""
        return [*self.stage.last("ENTRYPOINT").words(), *(arguments or self.stage.last("CMD").words())]

    def health_check(self) -> bool:
        words = json.loads(self.stage.last("HEALTHCHECK").rest.partition("CMD ")[2])
        command, env = self.command(words)
        return subprocess.run(command, env=env, capture_output=True, timeout=20, check=False).returncode == 0  # noqa: S603

    def ports(self) -> list[int]:
        return [int(port) for port in self.stage.last("EXPOSE").words()]

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[Running]:
        command, env = self.command(self.entry(*arguments))
        log = self._folder / "log"
        with log.open("wb") as output, subprocess.Popen(command, env=env, stdout=output, stderr=output) as process:  # noqa: S603
            try:
                yield Running(process, log, self._patience_s)
            finally:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Process 1 and with it all of its namespace: what `unshare --kill-child` arranges does not outlive the change of
    user.
    """
    with contextlib.suppress(OSError):  # it has ended already
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
    process.kill()


class Running:
    def __init__(self, process: subprocess.Popen[bytes], log: Path, patience_s: float) -> None:
        self._process, self._log, self._patience_s = process, log, patience_s

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, port: int, path: str) -> str:
        """The body of a 200, within the deadline."""
        deadline = time.monotonic() + self._patience_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RehearsalError(f"it ended: {self.log()[-2000:]}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, body = get(port, path)
                if status == http.HTTPStatus.OK:
                    return body
            time.sleep(0.1)
        raise RehearsalError(f"port {port} does not answer {path} with 200: {self.log()[-2000:]}")

    def stop(self, number: int) -> int:
        """The signal to process 1 of the container, and its exit code."""
        outer = self._process.pid
        [first] = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        status = Path(f"/proc/{first}/status").read_text()
        if f"NSpid:\t{first}\t1\n" not in status:
            raise RehearsalError(f"process {first} is not process 1 of its namespace")
        os.kill(int(first), number)
        try:
            return self._process.wait(self._patience_s)
        except subprocess.TimeoutExpired as error:
            raise RehearsalError(f"process 1 does not end on signal {number}: is it a shell?") from error


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


async def send_sample(port: int, key: str) -> dict[str, Any]:
    """A device's sample, and what it was answered."""
    sample = (ROOT / "tests" / "data" / "trimmed_message.json").read_text()
    url = f"ws://127.0.0.1:{port}/ws/sensors"
    async with asyncio.timeout(20), connect(url, additional_headers={"Authorization": f"Bearer {key}"}) as device:
        await device.recv()
        await device.send(json.dumps(json.loads(sample)))
        answer: dict[str, Any] = json.loads(await device.recv())
        return answer


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Debian's PostgreSQL on this namespace's loopback; yields a URL with a password."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not binaries:
        raise RehearsalError("install Debian's postgresql package first")
    password = secrets.token_hex(16)
    data, as_postgres = folder / "postgres", ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data.mkdir()
    (folder / "password").write_text(password)
    for path in (data, folder / "password"):
        shutil.chown(path, "postgres", "postgres")
    programs = str(binaries[-1])
    options = ["-U", "gaveurs", "--auth=scram-sha-256", f"--pwfile={folder}/password", "--encoding=UTF8", "--locale=C"]
    run(*as_postgres, f"{programs}/initdb", "-D", str(data), *options)
    arguments = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={data}", "-c", "fsync=off"]
    command = [*as_postgres, f"{programs}/postgres", "-D", str(data), *arguments]
    with (folder / "postgres.log").open("wb") as log, subprocess.Popen(command, stderr=log) as server:  # noqa: S603
        try:
            _wait_for_it()
            yield f"postgresql://gaveurs:{password}@127.0.0.1:5432/postgres"
        finally:
            server.send_signal(signal.SIGINT)


def _wait_for_it() -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 5432), 1):
            return
        time.sleep(0.05)
    raise RehearsalError("PostgreSQL did not start")


def main() -> None:
    """Arguments: the Containerfile, the final stage's root, a folder to work in, seconds of patience."""
    from scripts.rehearsal_checks import check_all  # noqa: PLC0415 - it needs this module

    path, root, folder = map(Path, sys.argv[1:4])
    loopback_up()
    try:
        container = Container(containerfile.read(path)[-1], root, folder, float(sys.argv[4]))
        with postgres(folder) as url:
            check_all(container, url)
    except (RehearsalError, containerfile.ContainerfileError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
