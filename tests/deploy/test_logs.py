"""Shipping by the real syslog-ng: lines of the real program, in the files of Docker and of the kubelet, into a store."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jsonschema_rs import Draft202012Validator

from tests.deploy.log_store import log_store
from tests.deploy.tools import DEPLOY, tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.deploy.log_store import LogStore

CONFIG = DEPLOY / "logs" / "syslog-ng"
SCHEMA = Draft202012Validator(json.loads((DEPLOY / "logs" / "schema.json").read_text()))
LEVELS = {"debug", "info", "warning", "error", "critical", "unknown"}
POD = "gaveurs_backend-7d9f-x1_0f0e-11"
PROGRAM = """
import logging, structlog
from app.core.logging import configure_logging, get_logger
configure_logging("debug")
log = get_logger("gaveurs.test")
with structlog.contextvars.bound_contextvars(request_id="r-1"):
    log.info("request", method="GET", path="/api/sqal/samples", status=200, ms=1.25)
log.warning("hard", text="\\"quoted\\" \\\\ tab\\t \\x1b[31m \\u2028 \\udc80 {} $(x) ${y} é", nested={"a": [1, {"b": None}]})
log.error("about a device", device_id="ESP32_LL_01", huge="x" * 100_000)
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
logging.getLogger("library").critical("of\\nothers")
log.debug("fine")
"""
KEY = "gvk_0123456789ab_" + "Ab-_9" * 8 + "abc"
PLAIN = 'plain text of another program: \x1b[31m "quoted" \\ it\'s'


def real_lines() -> list[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=30)
    lines = done.stderr.splitlines()
    for line in lines:
        SCHEMA.validate(json.loads(line))
    assert len(lines) == 6
    return lines


def docker_line(
    line: str,
    service: str | None = "backend",
    moment: str = "2026-07-01T10:11:13.123456789Z",
    *,
    one_off: bool = False,
) -> str:
    labels = {"com.docker.compose.service": service, "com.docker.compose.oneoff": str(one_off)}
    attrs = {} if service is None else {"attrs": labels}
    return json.dumps({"log": line + "\n", "stream": "stderr", **attrs, "time": moment}) + "\n"


def kubelet_line(line: str, *, moment: str = "2026-07-01T12:11:13.123456789+02:00") -> str:
    return f"{moment} stderr F {line}\n"


def docker_file(folder: Path) -> Path:
    (folder / "0123456789ab").mkdir(parents=True)
    return folder / "0123456789ab" / "0123456789ab-json.log"


def kubelet_file(folder: Path) -> Path:
    (folder / POD / "backend").mkdir(parents=True)
    return folder / POD / "backend" / "0.log"


@contextmanager
def shipping(state: Path, lines: Path, store: LogStore, source: str, target: str) -> Iterator[None]:
    state.mkdir(exist_ok=True)
    command = [tool("syslog-ng"), "-F", "--no-caps", "-e", "-f", str(CONFIG / "syslog-ng.conf")]
    command += ["-R", str(state / "persist"), "-p", str(state / "pid"), "-c", str(state / "ctl")]
    where = {"CONFIG": str(CONFIG), "SHIP_FROM": source, "SHIP_TO": target, "LINES": str(lines), "NAMESPACE": "gaveurs"}
    output = state / "output"
    with output.open("wb") as said:
        env = where | {"STORE_URL": f"http://127.0.0.1:{store.port}"}
        process = subprocess.Popen(command, env=env, stdout=said, stderr=said)
    try:
        yield
        assert process.poll() is None, output.read_text()
    finally:
        process.terminate()
        process.wait(15)


def until(ready: Callable[[], bool], what: str, deadline_s: float = 20.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not ready():
        assert time.monotonic() < deadline, f"in {deadline_s} s not: {what}"
        time.sleep(0.05)


def nanoseconds(timestamp: str) -> str:
    moment = datetime.fromisoformat(timestamp)
    return f"{int(moment.timestamp())}{moment.microsecond:06}000"


WRAPPED = {"docker": (docker_file, docker_line), "kubernetes": (kubelet_file, kubelet_line)}


@pytest.mark.parametrize("source", WRAPPED)
def test_loki_gets_each_line_with_its_time_two_labels_and_its_ids(tmp_path: Path, source: str) -> None:
    make_file, wrap = WRAPPED[source]
    lines = real_lines()
    make_file(tmp_path / "lines").write_text("".join(wrap(line) for line in [*lines, PLAIN]))
    with log_store() as store, shipping(tmp_path / "state", tmp_path / "lines", store, source, "loki"):
        until(lambda: len(store.entries()) >= len(lines) + 1, "all lines")
        entries = store.entries()
    assert [entry[2] for entry in entries] == [*lines, PLAIN]
    for (labels, moment, line, metadata), written in zip(entries, [json.loads(line) for line in lines], strict=False):
        assert labels == {"service": "backend", "level": written["level"]}
        assert labels["level"] in LEVELS
        assert moment == nanoseconds(written["timestamp"]), line
        ids = {
            name: written[name] for name in ("logger", "request_id", "connection_id", "device_id") if name in written
        }
        assert metadata == ids | {"instance": "0123456789ab" if source == "docker" else "backend-7d9f-x1"}
    assert entries[-1][0] == {"service": "backend", "level": "unknown"}
    assert entries[-1][1] == "1782900673123456000"


@pytest.mark.parametrize("source", WRAPPED)
def test_a_time_of_any_length_is_read_and_no_time_costs_the_line(tmp_path: Path, source: str) -> None:
    """RFC3339Nano, as Go writes it, has no zeros at its end."""
    make_file, wrap = WRAPPED[source]
    fractions = {
        ".123456789": "123456", ".12345678": "123456", ".123456": "123456", ".12345": "123450", ".0001": "000100",
        ".123": "123000", ".1": "100000", "": "000000",
    }  # fmt: skip
    good = {f"2026-07-01T10:11:13{end}{zone}": micro for end, micro in fractions.items() for zone in ("Z", "+00:00")}
    bad = ["nonsense", "2026-07-01T10:11:13", "2026-13-41T99:11:13.5Z", "-"]
    written = "".join(wrap(f"at {moment}", moment=moment) for moment in [*good, *bad])
    make_file(tmp_path / "lines").write_text(written)
    began = time.time_ns()
    with log_store() as store, shipping(tmp_path / "state", tmp_path / "lines", store, source, "loki"):
        until(lambda: len(store.entries()) >= len(good) + len(bad), "all lines")
        moments = {entry[2].removeprefix("at "): entry[1] for entry in store.entries()}
    assert {moment: moments[moment] for moment in good} == {
        moment: f"1782900673{micro}000" for moment, micro in good.items()
    }
    assert [abs(int(moments[moment]) - began) < 60e9 for moment in bad] == [True] * len(bad)


@pytest.mark.parametrize("source", WRAPPED)
def test_elasticsearch_gets_documents_by_ecs_names_that_its_template_knows(tmp_path: Path, source: str) -> None:
    make_file, wrap = WRAPPED[source]
    lines = real_lines()
    make_file(tmp_path / "lines").write_text("".join(wrap(line) for line in [*lines, PLAIN]))
    with log_store() as store, shipping(tmp_path / "state", tmp_path / "lines", store, source, "elasticsearch"):
        until(lambda: len(store.documents()) >= len(lines) + 1, "all documents")
        documents = store.documents()
    template = json.loads((DEPLOY / "logs/elasticsearch/index-template.json").read_text())
    for document, written in zip(documents, [json.loads(line) for line in lines], strict=False):
        assert document["message"] == written["event"]
        assert datetime.fromisoformat(document["@timestamp"]) == datetime.fromisoformat(written["timestamp"])
        assert document["log"] == {"level": written["level"], "logger": written["logger"]}
        assert document["service"]["name"] == "backend"
    request, hard, _, failed, _, _ = documents[:6]
    assert request["http"] == {"response": {"status_code": "200"}, "request": {"id": "r-1", "method": "GET"}}
    assert request["url"] == {"path": "/api/sqal/samples"}
    assert "ZeroDivisionError" in failed["error"]["stack_trace"]
    assert hard["gaveurs"]["text"] == json.loads(lines[1])["text"]
    assert (documents[-1]["message"], documents[-1]["log"]) == (PLAIN, {"level": "unknown"})
    for document in documents:
        assert_mapped(document, template["template"]["mappings"]["properties"])


def assert_mapped(document: dict[str, Any], properties: dict[str, Any]) -> None:
    """Each field has a mapping, and no empty text goes into a number."""
    for name, value in document.items():
        mapping = properties[name]
        if "properties" in mapping:
            assert_mapped(value, mapping["properties"])
        elif mapping["type"] == "short":
            int(value)
        else:
            assert mapping["type"] == "flattened" or isinstance(value, str), name


def test_containers_that_did_not_ask_and_other_namespaces_are_left_alone(tmp_path: Path) -> None:
    docker = docker_file(tmp_path / "docker")
    docker.write_text(docker_line("of others", None) + docker_line("ours"))
    kubelet_file(tmp_path / "pods").write_text(kubelet_line("ours"))
    other = tmp_path / "pods" / "kube-system_x_1" / "backend"
    other.mkdir(parents=True)
    (other / "0.log").write_text(kubelet_line("of others"))
    for source, folder in (("docker", "docker"), ("kubernetes", "pods")):
        with log_store() as store, shipping(tmp_path / f"s-{folder}", tmp_path / folder, store, source, "loki"):
            until(lambda store=store: bool(store.entries()), "a line")  # type: ignore[misc]
            time.sleep(1.5)
            assert [entry[2] for entry in store.entries()] == ["ours"]


def test_what_a_typed_command_prints_is_not_shipped(tmp_path: Path) -> None:
    """Docker logs what `docker compose run` prints: a new key, for one."""
    written = docker_line(f"key: {KEY}", one_off=True) + docker_line("ours")
    docker_file(tmp_path / "lines").write_text(written)
    with log_store() as store, shipping(tmp_path / "state", tmp_path / "lines", store, "docker", "loki"):
        until(lambda: bool(store.entries()), "a line")
        time.sleep(1.5)
        assert [entry[2] for entry in store.entries()] == ["ours"]


@pytest.mark.parametrize("target", ["loki", "elasticsearch"])
@pytest.mark.parametrize("source", WRAPPED)
def test_a_key_in_a_line_is_blotted_out_before_it_is_sent(tmp_path: Path, source: str, target: str) -> None:
    make_file, wrap = WRAPPED[source]
    written = json.loads(real_lines()[0]) | {"event": f"made {KEY}, {KEY}", "text": KEY}
    lines = [f"made {KEY}, and {KEY}.", json.dumps(written), "gvk_0123456789ab_ is the beginning of keys"]
    make_file(tmp_path / "lines").write_text("".join(wrap(line) for line in lines))
    with log_store() as store, shipping(tmp_path / "state", tmp_path / "lines", store, source, target):
        until(lambda: len(store.entries() if target == "loki" else store.documents()) >= 3, "all lines")
        sent = b"".join(body for _, _, body in store.requests).decode()
    assert KEY.rpartition("_")[2] not in sent
    assert sent.count("gvk_0123456789ab_[secret]") == 5
    assert "gvk_0123456789ab_ is" in sent


@pytest.mark.parametrize("target", ["loki", "elasticsearch"])
def test_nothing_is_lost_while_the_store_is_away_or_the_shipper_restarts(tmp_path: Path, target: str) -> None:
    file = docker_file(tmp_path / "lines")

    def write(first: int, last: int) -> None:
        with file.open("a") as lines:
            lines.writelines(docker_line(f"line {number}") for number in range(first, last))

    def arrived(store: LogStore) -> list[str]:
        return [e[2] for e in store.entries()] if target == "loki" else [d["message"] for d in store.documents()]

    write(0, 2_000)
    with log_store() as store:
        store.status = 503
        with shipping(tmp_path / "state", tmp_path / "lines", store, "docker", target):
            until(lambda: store.refused >= 2, "refused twice")
            write(2_000, 3_000)
            store.status = 429
            before = store.refused
            until(lambda: store.refused > before, "told to wait")
            store.status = None
            until(lambda: len(arrived(store)) >= 3_000, "all lines", 40)
        write(3_000, 3_100)  # nobody reads now
        with shipping(tmp_path / "state", tmp_path / "lines", store, "docker", target):
            until(lambda: len(arrived(store)) >= 3_100, "the rest")
            time.sleep(1.5)
        assert arrived(store) == [f"line {number}" for number in range(3_100)]


def test_a_rotated_file_is_read_but_for_its_last_moment(tmp_path: Path) -> None:
    file = docker_file(tmp_path / "lines")
    file.write_text(docker_line("before"))
    with log_store() as store, shipping(tmp_path / "state", tmp_path / "lines", store, "docker", "loki"):
        until(lambda: len(store.entries()) == 1, "the first line")
        with file.open("a") as lines:
            lines.write(docker_line("last of the old"))
        # What comes between its last look and the rename is not read (deploy/logs/README.md).
        until(lambda: len(store.entries()) == 2, "the last line of the old file")
        file.rename(file.with_name(file.name + ".1"))
        file.write_text(docker_line("first of the new"))
        until(lambda: len(store.entries()) >= 3, "both files")
        assert [entry[2] for entry in store.entries()] == ["before", "last of the old", "first of the new"]


def test_loki_keeps_thirty_days_and_takes_what_the_shipper_sends() -> None:
    loki = yaml.safe_load((DEPLOY / "logs" / "loki.yaml").read_text())
    limits = loki["limits_config"]
    assert (limits["retention_period"], loki["compactor"]["retention_enabled"]) == ("720h", True)
    assert limits["allow_structured_metadata"] is True
    (schema,) = loki["schema_config"]["configs"]
    assert (schema["schema"], schema["store"]) == ("v13", "tsdb")  # the ones that have structured metadata
    assert loki["server"]["http_listen_port"] == 3100
    phases = json.loads((DEPLOY / "logs/elasticsearch/ilm-policy.json").read_text())["policy"]["phases"]
    age = int(phases["hot"]["actions"]["rollover"]["max_age"][:-1]) + int(phases["delete"]["min_age"][:-1])
    assert age == 30
