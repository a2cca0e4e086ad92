"""The log of a real process: every line is of the schema, none holds a secret or a person, and nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

from jsonschema_rs import Draft202012Validator

from tests import prepared
from tests.bug_client import REPORT
from tests.log_catalogue import ROOT
from tests.support import Server, data_folder, device, free_port, running_server, trimmed
from tests.webhook_receiver import receiving

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SCHEMA = Draft202012Validator(json.loads((ROOT / "deploy/logs/schema.json").read_text()))
REDIS = "Redis/secret+one"
DATABASE = "Data base/secret@two"
HOOK = "T0HookPathSecretFour"
KEY = "gvk_0123456789ab_" + "SecretThree" * 3 + "AAAAAAAAAA"
NAME, MAIL = "Zébulon Quasimodo", "zebulon.quasimodo@conserverie.example.fr"


def in_order(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        SCHEMA.validate(line)
    return lines


def assert_none_of(secrets: Iterable[str], text: str) -> None:
    for secret in secrets:
        for form in (secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]):
            assert form not in text, f"{form!r} stands in the log"


def everything_logged(folder: Path, server: Server) -> str:
    """Ours, and what the embedded PostgreSQL keeps for itself."""
    files = [*(folder / "postgres" / "log").glob("*"), folder / "postgres-start.log"]
    return server.log() + "".join(file.read_text(errors="replace") for file in files)


def wait_for(server: Server, event: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if any(one["event"] == event for one in server.events()):
            return
        time.sleep(0.05)
    raise AssertionError(server.log()[-2_000:])


def report(server: Server, **changes: Any) -> tuple[int, bytes, dict[str, str]]:
    bug = REPORT | {"reportedBy": NAME, "reportedByEmail": MAIL}
    return server.request("/api/bugs", method="POST", body=bug | changes)


def test_nothing_secret_or_personal_is_logged_by_a_process_that_works_and_fails() -> None:
    own = {
        "WEBHOOK_ALLOW_LOOPBACK": "true",
        "WEBHOOK_RETRY_S": "0.1",
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(free_port()),
        "REDIS_PASSWORD": REDIS,
    }
    with receiving() as receiver, running_server(LOG_LEVEL="debug", FAULT_SWITCHES="true", **own) as server:
        asked: list[int] = []

        def ask(path: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> None:
            asked.append(server.request_raw(path, data, method="POST" if data else "GET", headers=headers)[0])

        hooks = [
            json.loads(server.request("/api/bugs/webhooks", method="POST", body={"url": f"{url}/{HOOK}?s={HOOK}"})[1])
            for url in (receiver.url, f"http://127.0.0.1:{free_port()}")
        ]
        secrets = (REDIS, KEY, NAME, MAIL, HOOK, *(hook["secret"] for hook in hooks))
        asked.append(report(server)[0])
        receiver.wait(1)
        wait_for(server, "a webhook delivery is dead")
        asked.append(report(server, severity=NAME)[0])
        asked.append(report(server, title="\x00" + NAME)[0])
        hook = {"url": f"https://u:{quote(REDIS, safe='')}@127.0.0.1/{KEY}"}
        asked.append(server.request("/api/bugs/webhooks", method="POST", body=hook)[0])
        ask(f"/api/bugs?reporter={quote(MAIL)}&key={KEY}&password={quote(REDIS)}")
        ask(f"/nothing/{quote(MAIL)}/{KEY}")
        ask("/api/bugs", f'{{"title": "{NAME}", {KEY}'.encode())
        shown = {"X-API-Key": KEY, "Authorization": f"Bearer {KEY}", "Cookie": f"gaveurs_key={KEY}"}
        ask("/api/sqal/samples", headers=shown)
        asked.append(
            server.request("/api/admin/faults/database", method="PUT", body={"kind": "error", "expires_s": 60})[0]
        )
        asked.append(report(server)[0])
        asked.append(server.request("/api/admin/faults/database", method="DELETE")[0])
        assert {200 <= status < 300 for status in asked} == {True, False}, asked
        assert 503 in asked, asked
        server.stop()
        events = in_order(server.log())
        assert_none_of(secrets, everything_logged(server.folder, server))
    seen = {event["event"] for event in events}
    assert {"dependency away", "fault switched on", "request"} <= seen
    assert "lost_acked" in events[-1]


def test_a_refused_database_password_is_not_logged(postgres_dsn: str) -> None:
    parts = urlsplit(postgres_dsn)
    wrong = urlunsplit(
        parts._replace(netloc=f"{parts.username}:{quote(DATABASE, safe='')}@{parts.netloc.rpartition('@')[2]}")
    )
    env = os.environ | {"DATABASE_URL": wrong, "LOG_LEVEL": "debug"}
    with data_folder() as folder:
        command = [sys.executable, "-m", "app.cli"]
        once = subprocess.run([*command, "migrate"], env=env, capture_output=True, text=True, timeout=60, check=False)
        assert once.returncode != 0
        server = Server(folder, DATABASE_URL=wrong, LOG_LEVEL="debug").start(wait=False)
        try:
            deadline = time.monotonic() + 30
            while "atabase" not in server.log() and server.running.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            server.stop()
            in_order(server.log())
            assert_none_of((DATABASE,), server.log() + once.stdout + once.stderr)
            assert "password authentication failed" in once.stderr or "atabase" in server.log()
        finally:
            server.clean_up()


async def test_acks_go_on_while_nobody_reads_the_log_and_the_receipt_comes_when_somebody_does() -> None:
    with data_folder() as folder:
        prepared.copy_into(folder)
        server = Server(folder, LOG_LEVEL="debug")
        server.process = process = subprocess.Popen(  # noqa: ASYNC220 - it takes a millisecond
            server.command, env=server._env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4_096)
        try:
            await asyncio.to_thread(wait_ready_unread, server)
            for _ in range(60):  # 4 kB are full after some 25
                await asyncio.to_thread(server.request, "/api/sqal/samples?limit=1")
            async with asyncio.timeout(10), device(server) as box:
                assert (await box.ask(trimmed()))["type"] == "ack"
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.5)
            text = (await asyncio.wait_for(asyncio.to_thread(process.communicate), 30))[1].decode()
            assert process.returncode == 0
        finally:
            server.clean_up()
    events = in_order(text)
    assert sum(event["event"] == "request" for event in events) >= 60
    assert events[-1]["lost_acked"] == 0


def wait_ready_unread(server: Server) -> None:
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if server.request("/health/ready")[0] == 200:
                return
        time.sleep(0.05)
    raise AssertionError("the server did not become ready")
