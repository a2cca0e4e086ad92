"""What cannot be right is refused at start, in one line that names the variable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app import secret_files
from app.settings import BadSettings, Settings, load_settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No `.env`, and nothing of ours in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)


def refused(monkeypatch: pytest.MonkeyPatch, **env: str) -> str:
    """The line that a person reads."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings) as error:
        load_settings()
    assert error.value.code == 2
    assert "\n" not in error.value.line
    return error.value.line


def test_the_defaults_are_accepted() -> None:
    settings = load_settings()
    assert (settings.environment, settings.fault_switches, settings.trusted_proxies) == ("development", False, ())
    assert settings.shutdown_budget_s < settings.termination_grace_period_s


LIMITS = (
    "WS_CONNECTS_PER_MINUTE",
    "WS_CONNECTIONS_PER_CLIENT",
    "WS_MESSAGES_PER_SECOND",
    "WS_MESSAGES_BURST",
    "WS_MESSAGE_BYTES_AVERAGE",
    "WS_DEVICES_PER_CONNECTION",
    "WS_MAX_SENSORS",
    "WS_MAX_DASHBOARDS",
    "REST_REQUESTS_PER_SECOND",
    "REST_BURST",
    "CACHE_MAX_ENTRIES",
    "CACHE_MAX_BYTES",
    "BREAKER_FAILURE_THRESHOLD",
    "BREAKER_SUCCESS_THRESHOLD",
    "BREAKER_HALF_OPEN_MAX_CALLS",
    "INGEST_QUEUE_ROWS",
)
TIMES = (
    "CACHE_TTL_LATEST_SAMPLE_S",
    "CACHE_TTL_DASHBOARD_METRICS_S",
    "CACHE_TTL_DEVICE_STATS_S",
    "CACHE_TTL_HOURLY_AGGREGATES_S",
    "CACHE_TTL_BUG_SUMMARY_S",
    "CACHE_TTL_BUG_FIGURES_S",
    "BREAKER_TIMEOUT_S",
    "QUERY_DEADLINE_S",
    "COMMIT_DEADLINE_S",
    "DATABASE_POOL_WAIT_S",
    "REQUEST_DEADLINE_S",
    "SHUTDOWN_DEADLINE_S",
    "LOOP_BLOCKED_AFTER_S",
)


@pytest.mark.parametrize("name", [*LIMITS, *TIMES])
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_limit_or_a_time_of_zero_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert refused(monkeypatch, **{name: value}).startswith(f"{name}: Input should be ")


@pytest.mark.parametrize(
    ("name", "value"), [*((name, "nan") for name in (*LIMITS, *TIMES)), *((name, "inf") for name in (*LIMITS, *TIMES))]
)
def test_a_limit_or_a_time_without_a_number_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert refused(monkeypatch, **{name: value}).startswith(f"{name}: Input should be ")


@pytest.mark.parametrize("value", ["9", "251", "0", "fast"])
def test_a_timeout_of_redis_outside_its_range_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert refused(monkeypatch, REDIS_TIMEOUT_MS=value).startswith("REDIS_TIMEOUT_MS: Input should be ")


@pytest.mark.parametrize("value", ["10", "250"])
def test_the_ends_of_that_range_are_accepted(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("REDIS_TIMEOUT_MS", value)
    assert load_settings().redis_timeout_ms == float(value)


def test_a_shutdown_longer_than_the_grace_is_refused_with_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(monkeypatch, TERMINATION_GRACE_PERIOD_S="60") == (
        "the SHUTDOWN_* times add up to 73 s; with a margin of 5 s they must fit into TERMINATION_GRACE_PERIOD_S (60 s)"
    )
    monkeypatch.setenv("SHUTDOWN_PROPAGATION_S", "12")
    monkeypatch.setenv("TERMINATION_GRACE_PERIOD_S", "87")  # 12 + 20 + 30 + 20, and the margin
    assert load_settings().shutdown_budget_s == 82
    assert "TERMINATION_GRACE_PERIOD_S (86.9 s)" in refused(monkeypatch, TERMINATION_GRACE_PERIOD_S="86.9")


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ({"REQUEST_DEADLINE_S": "31"}, "REQUEST_DEADLINE_S must be less than SHUTDOWN_REQUESTS_S"),
        ({"REQUEST_DEADLINE_S": "30"}, "REQUEST_DEADLINE_S must be less than SHUTDOWN_REQUESTS_S"),
        ({"DATABASE_POOL_WAIT_S": "5"}, "DATABASE_POOL_WAIT_S must be less than QUERY_DEADLINE_S"),
        ({"QUERY_DEADLINE_S": "1.5"}, "DATABASE_POOL_WAIT_S must be less than QUERY_DEADLINE_S"),
        ({"QUERY_DEADLINE_S": "10"}, "QUERY_DEADLINE_S must be less than REQUEST_DEADLINE_S"),
        ({"COMMIT_DEADLINE_S": "20"}, "COMMIT_DEADLINE_S must be less than SHUTDOWN_DEADLINE_S"),
        ({"DEVICE_STALE_AFTER_S": "300"}, "DEVICE_OFFLINE_AFTER_S must be greater than DEVICE_STALE_AFTER_S"),
        ({"LOOP_BLOCKED_EXIT_S": "2"}, "LOOP_BLOCKED_EXIT_S must be greater than LOOP_BLOCKED_AFTER_S"),
        ({"INGEST_GROUP_ROWS": "4097"}, "INGEST_GROUP_ROWS must not exceed INGEST_QUEUE_ROWS"),
    ],
)
def test_who_waits_gives_up_after_whom_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], line: str
) -> None:
    assert refused(monkeypatch, **env) == line


@pytest.mark.parametrize("value", ["proxy.example", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/8,*", "300.1.1.1"])
def test_a_proxy_that_is_no_address_or_network_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    line = refused(monkeypatch, TRUSTED_PROXIES=value)
    assert line == "TRUSTED_PROXIES: must be addresses or networks such as 10.0.0.0/8, comma-separated"


def test_proxies_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTED_PROXIES", "10.0.0.0/8, ::1,192.168.1.7,")
    assert load_settings().trusted_proxies == ("10.0.0.0/8", "::1", "192.168.1.7")


def test_fault_switches_in_production_need_a_second_word(monkeypatch: pytest.MonkeyPatch) -> None:
    line = refused(monkeypatch, ENVIRONMENT="production", FAULT_SWITCHES="true")
    assert line == "FAULT_SWITCHES is refused in production unless FAULT_SWITCHES_IN_PRODUCTION allows it"
    monkeypatch.setenv("FAULT_SWITCHES_IN_PRODUCTION", "true")
    assert load_settings().fault_switches


def test_an_environment_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(monkeypatch, ENVIRONMENT="staging").startswith("ENVIRONMENT: Input should be 'development' or ")


def test_a_secret_is_not_in_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    line = refused(monkeypatch, DATABASE_URL="postgres//user:geheim@host/db")
    assert line == "DATABASE_URL: must look like postgresql://user:password@host:5432/database"


def secrets(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


URL = "postgresql://gaveurs:p%40ss@db:5432/gaveurs"


def test_secrets_come_from_files_named_like_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = secrets(
        tmp_path / "s", database_url=f"{URL}\n", redis_password=" kept blank \r\n", sites="LL,MT\n", notes="?"
    )
    monkeypatch.setenv("SECRETS_DIR", str(folder))
    settings = load_settings()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == URL
    assert settings.redis_password is not None
    assert settings.redis_password.get_secret_value() == " kept blank "
    assert settings.sites == ("LL", "MT")


def test_the_environment_and_dotenv_win_over_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = secrets(tmp_path / "s", redis_host="file", redis_prefix="file", redis_db="3")
    (tmp_path / ".env").write_text(f"SECRETS_DIR={folder}\nREDIS_PREFIX=dotenv\n")
    monkeypatch.setenv("REDIS_HOST", "environment")
    settings = load_settings()
    assert (settings.redis_host, settings.redis_prefix, settings.redis_db) == ("environment", "dotenv", 3)


def test_secrets_that_kubernetes_links_are_followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It mounts ..data -> ..2026_01_01, and files as links through it; other engines link out of the folder."""
    elsewhere = secrets(tmp_path / "elsewhere", redis_password="linked")
    folder = secrets(tmp_path / "s")
    (folder / "..data").symlink_to(elsewhere)
    (folder / "redis_password").symlink_to(folder / "..data" / "redis_password")
    monkeypatch.setenv("SECRETS_DIR", str(folder))
    settings = load_settings()
    assert settings.redis_password is not None
    assert settings.redis_password.get_secret_value() == "linked"


def test_the_usual_folder_is_read_where_it_exists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(secret_files, "USUAL_FOLDER", tmp_path / "absent")
    assert load_settings().redis_password is None
    monkeypatch.setattr(secret_files, "USUAL_FOLDER", secrets(tmp_path / "s", redis_host="cache"))
    settings = load_settings()
    assert (settings.redis_host, settings.redis_port) == ("cache", 6379)


def test_secrets_that_cannot_be_read_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert refused(monkeypatch, SECRETS_DIR=str(absent)) == f"SECRETS_DIR: {absent} is not a folder"
    folder = secrets(tmp_path / "s")
    (folder / "redis_password").mkdir()
    line = refused(monkeypatch, SECRETS_DIR=str(folder))
    assert line == f"REDIS_PASSWORD: {folder}/redis_password cannot be read: Is a directory"
    (folder / "redis_password").rmdir()
    (folder / "redis_password").write_bytes(b"\xff")
    assert refused(monkeypatch) == f"REDIS_PASSWORD: {folder}/redis_password is not UTF-8 text"
    (folder / "redis_password").write_text("\n")
    assert refused(monkeypatch) == f"REDIS_PASSWORD: {folder}/redis_password is empty"


def test_a_wrong_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRETS_DIR", str(secrets(tmp_path / "s", database_url="mysql://user:hidden@db/x")))
    assert "hidden" not in refused(monkeypatch)


@pytest.mark.parametrize("name", ["REDIS_PASSWORD", "DATABASE_URL"])
def test_a_secret_that_still_is_its_template_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    line = refused(monkeypatch, **{name: "postgresql://gaveurs:CHANGE-ME@db/gaveurs"})
    assert line == f"{name} still holds its template's CHANGE-ME"
