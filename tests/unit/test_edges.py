from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.cursor import Cursor
from app.core.database import is_away
from app.core.errors import BadCursorError, ForbiddenError
from app.core.ids import uuid7
from app.core.security import Principal, Role, is_local, presented_key
from app.settings import BadSettings, load_settings
from app.sqal.cursor import HourCursor
from app.sqal.devices import StateLimits
from app.sqal.simulator.fleet import sensor_url

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), st.uuids())
def test_a_cursor_comes_back_and_is_safe_in_a_url(moment: datetime, key: UUID) -> None:
    cursor = Cursor(moment.replace(tzinfo=UTC), key)
    text = cursor.encode()
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", text)
    assert Cursor.decode(text) == cursor


@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", fullmatch=True),
)
def test_a_cursor_of_hours_comes_back_and_is_safe_in_a_url(moment: datetime, device_id: str) -> None:
    cursor = HourCursor(moment.replace(minute=0, second=0, microsecond=0, tzinfo=UTC), device_id)
    text = cursor.encode()
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", text)
    assert HourCursor.decode(text) == cursor
    with pytest.raises(BadCursorError):
        Cursor.decode(text)


@given(st.text(max_size=60))
def test_a_foreign_cursor_is_refused_not_crashed_on(text: str) -> None:
    for kind in (Cursor, HourCursor):
        with pytest.raises(BadCursorError):
            kind.decode(text)


def test_ids_are_version_7_and_sort_by_time() -> None:
    ids = [uuid7() for _ in range(100)]
    assert {(one.version, one.variant) for one in ids} == {(7, "specified in RFC 4122")}
    assert len(set(ids)) == 100
    moments = [one.int >> 64 for one in ids]
    assert moments == sorted(moments)
    assert len(set(moments)) > 1


@pytest.mark.parametrize(
    ("silent_s", "state"), [(0, "online"), (74.9, "online"), (75, "stale"), (299, "stale"), (300, "offline")]
)
def test_a_devices_state_follows_from_its_silence(silent_s: float, state: str) -> None:
    limits = StateLimits(75, 300)
    assert limits.state(NOW - timedelta(seconds=silent_s), NOW) == state
    assert limits.state(None, NOW) == "never_seen"


def scope(client: str = "127.0.0.1") -> dict[str, Any]:
    return {"client": (client, 5000)}


LOCAL_HOST = {b"host": b"localhost:8000"}


@pytest.mark.parametrize("host", [b"localhost", b"localhost:8000", b"127.0.0.1:8000", b"[::1]:8000"])
def test_a_local_peer_with_a_local_host_needs_no_key(host: bytes) -> None:
    assert is_local(scope(), {b"host": host}, ())
    assert is_local(scope("::1"), {b"host": host}, ())
    assert is_local(scope("127.8.9.1"), {b"host": host}, ())


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        ("192.168.1.5", LOCAL_HOST),
        ("127.0.0.1", {b"host": b"evil.example:8000"}),
        ("127.0.0.1", {b"host": b"localhost.evil.example"}),
        ("127.0.0.1", {}),
        ("127.0.0.1", LOCAL_HOST | {b"x-forwarded-for": b"127.0.0.1"}),
        ("127.0.0.1", LOCAL_HOST | {b"forwarded": b"for=127.0.0.1"}),
        ("127.0.0.1", LOCAL_HOST | {b"x-real-ip": b"10.0.0.1"}),
        ("127.0.0.1", LOCAL_HOST | {b"x-forwarded-port": b"80"}),
        ("127.0.0.1", LOCAL_HOST | {b"cf-connecting-ip": b"10.0.0.1"}),
        ("127.0.0.1", LOCAL_HOST | {b"sec-fetch-site": b"cross-site"}),
        ("127.0.0.1", LOCAL_HOST | {b"origin": b"https://evil.example"}),
        ("127.0.0.1", LOCAL_HOST | {b"origin": b"null"}),
        ("not an address", LOCAL_HOST),
    ],
)
def test_every_other_peer_needs_one(client: str, headers: dict[bytes, bytes]) -> None:
    assert not is_local(scope(client), headers, ())
    assert not is_local({"client": None}, LOCAL_HOST, ())


def test_a_named_origin_is_welcome() -> None:
    headers = LOCAL_HOST | {b"origin": b"https://dash.example"}
    assert is_local(scope(), headers, ("https://dash.example",))


def test_a_key_is_found_in_either_header() -> None:
    assert presented_key({b"authorization": b"Bearer gvk_1"}) == "gvk_1"
    assert presented_key({b"x-api-key": b"gvk_2"}) == "gvk_2"
    assert presented_key({b"authorization": b"Basic abc"}) == "Basic abc"  # a wrong key, not none
    assert presented_key({}) is None


def test_roles_allow_what_they_say() -> None:
    Principal("key", "1", frozenset({Role.ADMIN})).require(Role.DEVICE)
    with pytest.raises(ForbiddenError):
        Principal("key", "1", frozenset({Role.VIEWER})).require(Role.DEVICE)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("DATABASE_URL", "mysql://x@y/z", "DATABASE_URL: must look like postgresql://"),
        ("DATABASE_URL", "postgresql://u:secret@h:notaport/d", "DATABASE_URL: must look like"),
        ("REDIS_PORT", "70000", "REDIS_PORT: Input should be less than or equal to 65535"),
        ("REDIS_PORT", "abc", "REDIS_PORT: "),
        ("CORS_ORIGINS", "*", "CORS_ORIGINS: must name http"),
        ("DEVICE_OFFLINE_AFTER_S", "10", "DEVICE_OFFLINE_AFTER_S must be greater"),
    ],
)
def test_a_wrong_setting_is_one_clear_line_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings) as caught:
        load_settings()
    assert caught.value.line.startswith(line)
    assert "\n" not in caught.value.line
    assert "secret" not in caught.value.line


def test_origins_are_a_comma_separated_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", "http://localhost:3000, http://localhost:5173/")
    assert load_settings().cors_origins == ("http://localhost:3000", "http://localhost:5173")


def test_a_lost_connection_means_away_and_a_bad_value_does_not() -> None:
    for away in (
        ConnectionRefusedError(),
        TimeoutError(),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.AdminShutdownError(),
        asyncpg.CannotConnectNowError(),
        asyncpg.DiskFullError(),
        asyncpg.DeadlockDetectedError(),
    ):
        assert is_away(away), away
    for not_away in (
        asyncpg.DataError("x"),
        asyncpg.UniqueViolationError(),
        asyncpg.UndefinedTableError(),
        ValueError(),
    ):
        assert not is_away(not_away), not_away


@pytest.mark.parametrize(
    ("given_url", "url"),
    [
        ("ws://h:1", "ws://h:1/ws/sensors"),
        ("http://h:1/", "ws://h:1/ws/sensors"),
        ("https://h", "wss://h/ws/sensors"),
        ("ws://h:1/ws/sensors/", "ws://h:1/ws/sensors/"),
    ],
)
def test_the_simulator_finds_the_sensor_path(given_url: str, url: str) -> None:
    assert sensor_url(given_url) == url
