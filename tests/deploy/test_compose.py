"""deploy/compose.yaml, by Compose itself and by checks of our own; each of these is seen failing."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.settings import load_settings
from tests.deploy.compose_checks import COMPOSE, model, problems
from tests.deploy.compose_images import OURS, image_of
from tests.deploy.tools import DEPLOY, tool
from tests.redis_server import binary, die_with_owner, exchange
from tests.support import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

MAKE = DEPLOY / "compose" / "make_secrets.sh"


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    subprocess.run(["sh", str(MAKE), str(folder)], check=True, capture_output=True, timeout=20)
    return folder


def test_the_parts_fit(secrets: Path) -> None:
    assert problems(model(), secrets) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (":-8000}:8000", ":-8000}:8001", "backend: publishes 8001, where nothing listens"),
        ("'127.0.0.1', 9100", "'127.0.0.1', 9101", "backend: its health check asks port 9101"),
        ("'/health/ready'", "'/health/readiness'", "backend: its health check asks /health/readiness"),
        ("127.0.0.1:9090/-/ready", "127.0.0.1:9090/ready", "prometheus: its health check asks /ready"),
        ("127.0.0.1:9093:9093", "9093:9093", "alertmanager: publishes 9093 to the network"),
        ("      REDIS_HOST: redis", "      REDIS_HOTS: redis", "backend: REDIS_HOTS is no setting"),
        ("stop_grace_period: 90s", "stop_grace_period: 60s", "backend: TERMINATION_GRACE_PERIOD_S is 90, stop_grace_period 1m0s"),
        ("PROMETHEUS_URL: http://prometheus:9090", "PROMETHEUS_URL: http://prometheus:9091", "grafana: is to reach prometheus:9091, where nothing listens"),
        ("STORE_URL: http://loki:3100", "STORE_URL: http://log:3100", "shipper: is to reach log, which is no service"),
        ("grafana/grafana:11.6.1", "grafana/grafana:latest", "grafana: latest is no pinned version"),
        ("image: gaveurs-backend:0.1.0", "image: gaveurs-backend:0.2.0", "backend: the image is 0.2.0, pyproject says 0.1.0"),
        ("./logs/loki.yaml", "./logs/loki.yml", "loki: mounts /there/deploy/logs/loki.yml, which does not exist"),
        ("command: [migrate]", "command: [migrates]", "migrate: there is no command migrates"),
        ("back: {internal: true}", "back: {}", "network back leads outside"),
        ("secrets: [postgres_password]", "secrets: [postgres_password, redis_password]", "database: does not read the secret redis_password"),
        ("volumes:\n  alertmanager: {}", "volumes:\n  old: {}\n  alertmanager: {}", "old (volumes) is not used"),
        ("  database_url: {file: ./compose/secrets/database_url}", "  database_url: {file: ./compose/database_url}", "secret database_url: make_secrets.sh does not make /there/deploy/compose/database_url"),
        ("secrets:\n  alertmanager_h", "secrets:\n  old: {file: ./old}\n  alertmanager_h", "old (secrets) is not used"),
        ("redis: {condition: service_started}", "redis: {condition: service_healthy}", "backend: works without redis, and waits for it as service_healthy"),
        ("      redis: {condition: service_started}", "      buckets: {condition: service_started}", "backend: works without buckets, and waits for it as service_started"),
        (",com.docker.compose.oneoff", "", "backend: one-off containers' lines cannot be told"),
        ("  cap_drop: [ALL]", "  cap_drop: [NET_RAW]", "backend: capabilities"),
        ("  read_only: true\n  tmpfs: [", "  tmpfs: [", "backend: writable root"),
        ("      reader: {condition: service_completed_successfully}", "      reader: {condition: service_started}", "grafana: does not wait until reader is ready"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_noticed(secrets: Path, tmp_path: Path, old: str, new: str, problem: str) -> None:
    text = COMPOSE.read_text()
    assert text.count(old) == 1, old
    (tmp_path / "compose.yaml").write_text(text.replace(old, new))
    told = problems(model(tmp_path / "compose.yaml"), secrets)
    assert problem.replace("/there/deploy", str(DEPLOY)) in told


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[database_url, redis_password, bug", "[database_url, bug", "backend: is not given the secret redis_password"),
        ('bug_attachments_s3_secret_key]\n    volumes: ["backend:', 'backup_s3_secret_key]\n    volumes: ["backend:', "backend: is not given the secret bug_attachments_s3_secret_key"),
        (", backup_s3_access_key, backup_s3_secret_key]\n    volumes", "]\n    volumes", "backup: is not given the secret backup_s3_access_key"),
        ("secrets: [postgres_password, grafana_reader_password]", "secrets: [grafana_reader_password]", "reader: is not given the secret postgres_password"),
        ("secrets: [redis_auth, redis_password]", "secrets: [redis_password]", "redis: is not given the secret redis_auth"),
        ("secrets: [grafana_admin_password, grafana_reader_password]", "secrets: [grafana_admin_password]", "grafana: is not given the secret grafana_reader_password"),
        ('backend:/var/lib/gaveurs"', 'backend:/var/lib/gaveur"', "backend: keeps /var/lib/gaveurs, which is no volume"),
        ('prometheus:/prometheus"', 'prometheus:/prom"', "prometheus: keeps /prometheus, which is no volume"),
        ("database:/var/lib/postgresql/data", "database:/var/lib/postgresql", "database: keeps /var/lib/postgresql/data, which is no volume"),
        ('loki:/loki"]', 'loki:/var/lib/loki"]', "loki: keeps /loki, which is no volume"),
        ("--config.file=/etc/prometheus/prometheus.yml", "--config.file=/etc/prometheus.yml", "prometheus: looks for /etc/prometheus.yml, which is not mounted"),
        ("-config.file=/etc/loki/loki.yaml", "-config.file=/etc/loki/local.yaml", "loki: looks for /etc/loki/local.yaml, which is not mounted"),
        ("./grafana/dashboards:/etc/grafana/dashboards", "./grafana/dashboards:/etc/grafana/boards", "grafana: looks for /etc/grafana/dashboards, which is not mounted"),
        ("-s3.port=8333", "-s3.port=8334", "backend: is to reach storage:8333, where nothing listens"),
        ("      - --storage.tsdb.path=/prometheus\n", "      - --storage.tsdb.path=/prometheus\n      - --web.listen-address=:9091\n", "prometheus: its health check asks port 9090"),
        ('  tmpfs: ["/tmp:size=64m,mode=1777,noexec,nosuid,nodev"]\n', "", "backend: cannot write to /tmp"),
        ('["/tmp:size=64m,mode=1777,noexec', '["/tmp:mode=1777,noexec', "backend: /tmp is a tmpfs without bound"),
        ("for bucket in gaveurs-attachments gaveurs-backups;", "for bucket in gaveurs-attachments;", "backup: nobody makes the bucket gaveurs-backups"),
        ("BACKUP_TO:-s3://gaveurs-backups", "BACKUP_TO:-s3://gaveurs-attachments", "backup: its key is not for the bucket gaveurs-attachments"),
        ("--auth-host=scram-sha-256", "--auth-host=trust", "database: its volume is not made with --auth-host=scram-sha-256"),
        ("POSTGRES_DB: gaveurs", "POSTGRES_DB: other", "database_url is for another user, database or password than `database` makes"),
        ("    command: [postgres, -c, timescaledb.max_background_workers=0]\n", "", "database: TimescaleDB's scheduler would be a session that forbids a restore"),
        ("PGUSER: gaveurs", "PGUSER: postgres", "reader: connects to ('database', 'postgres', 'gaveurs')"),
        ("memory: 1g}, reservations", "memory: 128m}, reservations", "backend: 128 MiB of memory, where 472 are needed"),
        ("memory: 384m", "memory: 256m", "redis: 256 MiB of memory, where 336 are needed"),
        ("TS_TUNE_MEMORY: 2GB", "TS_TUNE_MEMORY: 4GB", "database: 3072 MiB of memory, where 4096 are needed"),
        ("PROMETHEUS_URL: http", "PROM_URL: http", "grafana: its files name PROMETHEUS_URL, which is not set"),
        ("STORE_URL: http", "LOKI_URL: http", "shipper: its files name STORE_URL, which is not set"),
        ("      REDIS_HOST: redis", "      REDIS_HOST: redis\n      REDIS_PORT: 6380", "backend: is to reach Redis on 6380, where nothing listens"),
    ],
)  # fmt: skip
def test_what_would_not_work_is_noticed(secrets: Path, tmp_path: Path, old: str, new: str, problem: str) -> None:
    text = COMPOSE.read_text()
    assert text.count(old) == 1, old
    (tmp_path / "compose.yaml").write_text(text.replace(old, new))
    assert problem in problems(model(tmp_path / "compose.yaml"), secrets)


@pytest.mark.parametrize(
    ("path", "old", "new", "problem"),
    [
        ("logs/loki.yaml", "http_listen_port: 3100", "http_listen_port: 3101", "shipper: is to reach loki:3100, where nothing listens"),
        ("logs/loki.yaml", "path_prefix: /loki", "path_prefix: /data", "loki: keeps /data, which is no volume"),
        ("compose/redis.conf", "bind * -::*", "bind 127.0.0.1", "redis: listens to itself alone"),
        ("compose/redis.conf", "maxmemory 256mb", "maxmemory 2gb", "redis: 384 MiB of memory, where 2576 are needed"),
        ("compose/redis.conf", "appendonly no", "port 6380", "backend: is to reach Redis on 6379, where nothing listens"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_noticed(
    secrets: Path, tmp_path: Path, path: str, old: str, new: str, problem: str
) -> None:
    changed, text = tmp_path / "changed", (DEPLOY / path).read_text()
    assert text.count(old) == 1, old
    changed.write_text(text.replace(old, new))
    (tmp_path / "compose.yaml").write_text(COMPOSE.read_text().replace(f"./{path}:", f"{changed}:"))
    assert problem in problems(model(tmp_path / "compose.yaml"), secrets)


def test_no_password_is_among_a_commands_arguments() -> None:
    """Everybody on the machine can read those."""
    command = re.compile(
        r"\b(psql|pg_dump|pg_restore|pg_isready|redis-cli)\b[^`\n]*(\$\{?DATABASE_URL|database_url|://\S+:\S+@| -a \S)"
    )
    places = [
        *(DEPLOY.parent / "docs").glob("*.md"),
        *DEPLOY.rglob("*.yaml"),
        *DEPLOY.rglob("*.sql"),
        *DEPLOY.rglob("*.sh"),
    ]
    told = {
        f"{path.name}: {line.strip()}"
        for path in places
        for line in path.read_text().splitlines()
        if command.search(line)
    }
    assert told == set()


def test_compose_refuses_what_its_schema_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(
        COMPOSE.read_text().replace("    read_only: true\n", "    readonly: true\n", 1)
    )
    with pytest.raises(AssertionError, match="readonly"):
        model(tmp_path / "compose.yaml")


def test_our_containers_accept_what_they_are_given(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    ours = {name: one for name, one in model()["services"].items() if image_of(one) == OURS}
    assert ours.keys() == {"backend", "migrate", "backup"}
    for name, service in ours.items():
        (tmp_path / name).mkdir()
        for secret in service["secrets"]:
            shutil.copy(secrets / secret["source"], tmp_path / name)
        with monkeypatch.context() as environment:
            environment.setenv("SECRETS_DIR", str(tmp_path / name))
            for variable, value in (service.get("environment") or {}).items():
                environment.setenv(variable, value)
            assert load_settings().database_url is not None


def test_secrets_are_random_readable_inside_and_kept(secrets: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    again = subprocess.run(["sh", str(MAKE), str(secrets)], check=True, capture_output=True, text=True, timeout=20)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    assert again.stderr.count("is still to be replaced") == sum("replace-me" in text for text in before.values()) == 4
    subprocess.run(["sh", str(MAKE), str(tmp_path / "other")], check=True, capture_output=True, timeout=20)
    alike = {name for name, text in before.items() if (tmp_path / "other" / name).read_text() == text}
    assert alike == {name for name in before if name.startswith("alertmanager_")}
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o444}


def test_secrets_stay_out_of_the_repository_and_of_the_image() -> None:
    inside = DEPLOY / "compose" / "secrets" / "database_url"
    done = subprocess.run(["git", "check-ignore", "-q", str(inside)], cwd=DEPLOY, timeout=20, check=False)
    assert done.returncode == 0


@pytest.fixture
def redis(secrets: Path, tmp_path: Path) -> Iterator[tuple[int, str]]:
    """A server with our file; its secret is elsewhere than in the container."""
    text = (DEPLOY / "compose" / "redis.conf").read_text()
    assert "include /run/secrets/redis_auth\n" in text
    port, config = free_port(), tmp_path / "redis.conf"
    config.write_text(text.replace("/run/secrets", str(secrets)) + f"dir {tmp_path}\n")
    command = [binary(), str(config), "--port", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=die_with_owner) as server:  # noqa: PLW1509
        yield port, (secrets / "redis_password").read_text().strip()
        server.terminate()


def test_redis_takes_its_file(redis: tuple[int, str]) -> None:
    port, password = redis
    deadline = time.monotonic() + 30
    while True:
        try:
            info = exchange("127.0.0.1", port, password, ("INFO", "memory"), 2)
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert "maxmemory_policy:allkeys-lfu" in info
    assert "maxmemory:268435456" in info
    with pytest.raises(Exception, match="NOAUTH"):
        exchange("127.0.0.1", port, None, ("PING",), 20)


@pytest.mark.parametrize(
    "command",
    [
        ("promtool", "check", "config", "prometheus/prometheus.yml"),
        ("amtool", "check-config", "alertmanager/alertmanager.yml"),
    ],
)
def test_mounted_configurations_pass_their_own_tools(command: tuple[str, ...]) -> None:
    words = [tool(command[0]), *command[1:-1], str(DEPLOY / command[-1])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
