"""Who may do what, over HTTP and on sockets, and what the command line does about it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.bug_client import make_key
from tests.support import Server, data_folder, device, free_port, running_server, trimmed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    with running_server(arguments=("--auth", "keys")) as running:
        yield running


def gaveurs(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_HOST")}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments, "--data-dir", str(folder)],
        capture_output=True,
        text=True,
        env=clean | env,
        timeout=60,
        check=False,
    )


def bearer(value: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {value}"}


def test_a_browser_keeps_its_key_in_a_cookie_that_other_pages_cannot_use(guarded: Server) -> None:
    def sign_in(value: str) -> tuple[int, dict[str, str]]:
        status, _, headers = guarded.request("/api/session", method="POST", body={"key": value})
        return status, headers

    operator = make_key(guarded, "operator")
    status, headers = sign_in(operator)
    assert status == 200
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(headers["set-cookie"].split("; "))
    assert sign_in("gvk_wrong")[0] == 401
    assert sign_in(make_key(guarded, "device"))[0] == 403  # it opens no page
    mine = f"gaveurs_key={operator}"
    host = f"127.0.0.1:{guarded.port}"
    for cookie in (mine, f'prefs={{"a": 1}}; {mine}', f"foo; x=a b; {mine}; y=2"):
        assert guarded.request("/api/sqal/samples", headers={"Cookie": cookie})[0] == 200
    assert guarded.request("/api/sqal/samples", headers={"Cookie": mine, "Origin": f"http://{host}"})[0] == 200
    for origin in ("http://evil.example", "http://[x", "null", f"http://{host}.evil.example"):
        assert guarded.request("/api/sqal/samples", headers={"Cookie": mine, "Origin": origin})[0] == 403
    assert guarded.request("/api/sqal/samples", headers={"Origin": "http://[x"})[0] == 401
    assert guarded.request("/", headers={"Origin": "http://[x"})[0] == 200


def test_without_a_key_only_probes_answer(guarded: Server) -> None:
    assert guarded.request("/health/live")[0] == 200
    for path in ("/api/sqal/samples", "/docs", "/openapi.json", "/nowhere"):
        status, body, headers = guarded.request(path)
        assert (status, json.loads(body)["code"], headers["www-authenticate"]) == (401, "unauthorized", "Bearer")


def test_the_first_admin_key_is_in_a_private_file_and_not_in_the_log(guarded: Server) -> None:
    path = guarded.folder / "admin.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    value = path.read_text().strip()
    assert value not in guarded.log()
    assert guarded.request("/api/sqal/samples", headers=bearer(value))[0] == 200
    assert guarded.request("/api/sqal/samples", headers={"X-API-Key": value})[0] == 200


@pytest.mark.parametrize("wrong", ["", "nonsense", "gvk_000000000000_" + "x" * 43])
def test_a_wrong_key_is_refused_even_where_none_is_needed(server: Server, guarded: Server, wrong: str) -> None:
    assert guarded.request("/api/sqal/samples", headers=bearer(wrong))[0] == 401
    if wrong:
        assert server.request("/api/sqal/samples", headers=bearer(wrong))[0] == 401


async def test_roles_hold_over_http_and_on_sockets(guarded: Server) -> None:
    viewer, operator, box = make_key(guarded, "viewer"), make_key(guarded, "operator"), make_key(guarded, "device")
    patch: dict[str, Any] = {"method": "PATCH", "body": {"site_code": "LL"}}
    assert guarded.request("/api/sqal/devices/X", headers=bearer(viewer), **patch)[0] == 403
    assert guarded.request("/api/sqal/devices/X", headers=bearer(operator), **patch)[0] == 200
    assert guarded.request("/api/sqal/samples", headers=bearer(box))[0] == 403
    async with device(guarded, additional_headers=bearer(box)) as client:
        assert (await client.ask(trimmed()))["status"] == "saved"
    for headers, status in ((bearer(viewer), 403), ({}, 401), (bearer("x"), 401)):
        with pytest.raises(InvalidStatus) as refused:
            async with connect(guarded.ws_url, additional_headers=headers):
                pass
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body)["status"] == status


def test_a_revoked_key_is_useless_within_seconds(guarded: Server) -> None:
    value = make_key(guarded, "viewer")
    key_id = value.split("_")[1]
    assert gaveurs(guarded.folder, "keys", "revoke", key_id).returncode == 0
    assert guarded.request("/api/sqal/samples", headers=bearer(value))[0] == 401
    listed = json.loads(gaveurs(guarded.folder, "keys", "list").stdout)
    assert next(entry for entry in listed if entry["key_id"] == key_id)["revoked_at"]
    assert not any("hash" in entry for entry in listed)
    unknown = gaveurs(guarded.folder, "keys", "revoke", "none")
    assert (unknown.returncode, unknown.stderr) == (2, "gaveurs: there is no such key\n")


async def test_a_revoked_key_loses_its_open_socket(guarded: Server) -> None:
    value = make_key(guarded, "device")
    async with device(guarded, additional_headers=bearer(value)) as client:
        assert (await client.ask(trimmed(sample_id="before")))["status"] == "saved"
        assert gaveurs(guarded.folder, "keys", "revoke", value.split("_")[1]).returncode == 0
        with pytest.raises(ConnectionClosed):
            await client.receive()
        assert client.socket.close_code == 1008


async def test_open_mode_serves_local_peers_only(server: Server) -> None:
    assert server.request("/api/sqal/samples")[0] == 200
    for headers in (
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"Host": "evil.example"},
        {"Origin": "https://evil.example"},
    ):
        assert server.request("/api/sqal/samples", headers=headers)[0] == 401
        with pytest.raises(InvalidStatus) as refused:
            async with connect(server.ws_url, additional_headers=headers):
                pass
        assert refused.value.response.status_code in (400, 401)


def test_a_wide_bind_needs_keys_by_default() -> None:
    with running_server(arguments=("--host", "0.0.0.0")) as wide:
        assert wide.request("/api/sqal/samples")[0] == 401


def test_no_origin_is_welcome_unless_named(server: Server) -> None:
    headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "GET"}
    assert "access-control-allow-origin" not in server.request("/api/sqal/samples", headers=headers)[2]
    with running_server(CORS_ORIGINS="http://localhost:3000") as named:
        allowed = named.request("/api/sqal/samples", method="OPTIONS", headers=headers)
        assert allowed[2]["access-control-allow-origin"] == "http://localhost:3000"
        assert "access-control-allow-credentials" not in allowed[2]


def test_a_second_owner_and_a_taken_port_are_one_clear_line(server: Server) -> None:
    second = gaveurs(server.folder, "serve", "--port", str(free_port()))
    assert second.returncode == 2
    assert f"the data folder {server.folder} is in use by process" in second.stderr
    assert "Traceback" not in second.stderr
    with data_folder() as folder:
        taken = gaveurs(folder, "serve", "--port", str(server.port))
        assert taken.returncode == 2
        assert taken.stderr.startswith(f"gaveurs: cannot listen on 127.0.0.1:{server.port}")


def test_a_wrong_setting_is_one_clear_line() -> None:
    with data_folder() as folder:
        done = gaveurs(folder, "serve", REDIS_PORT="many")
        assert done.returncode == 2
        assert done.stderr.startswith("gaveurs: REDIS_PORT: ")
        assert done.stderr.count("\n") == 1
        done = gaveurs(folder, "serve", "--port", "0", DEFAULT_RECIPE="nope")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith("gaveurs: DEFAULT_RECIPE or SITE_RECIPES: there is no recipe 'nope'")
        assert gaveurs(folder, "serve", SAMPLE_RETENTION_DAYS="999999999").returncode == 2
        done = gaveurs(folder, "serve", "--auth", "sometimes")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_the_command_line_works_with_and_without_a_running_server() -> None:
    with data_folder() as folder:
        done = gaveurs(folder, "migrate")
        assert (done.returncode, done.stdout) == (0, "schema 0006\n"), done.stderr
        done = gaveurs(folder, "devices", "set", "ESP32_LL_01", "--site-code", "MT", "--trust-defects")
        assert (json.loads(done.stdout)["site_code"], json.loads(done.stdout)["trust_defects"]) == ("MT", True)
        assert gaveurs(folder, "devices", "set", "X", "--recipe", "none").stderr == "gaveurs: there is no such recipe\n"
        server = Server(folder)
        try:
            server.start()
            assert server.get("/api/sqal/devices/ESP32_LL_01")["state"] == "never_seen"
            assert json.loads(gaveurs(folder, "quarantine", "list").stdout) == []
        finally:
            server.clean_up()
