"""Every metric of the guide, by what it is said to count: an action is done twice, and seen twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app import admin
from app.core.embedded_postgres import EmbeddedPostgres
from app.core.metrics import Metrics
from app.core.security import Role
from app.settings import Settings
from tests.held_requests import PATIENT
from tests.support import Device, Server, running_server, trimmed

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

OUR_DEVICES = ("METER-LL-7", "METER-LS-8")
ENTRIES = 6
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
PATIENCE_S = 20.0
STATS = f"/api/sqal/devices/{OUR_DEVICES[0]}/stats"


class Measured:
    """A guarded server, and whoever asks it: an admin."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.headers = bearer((server.folder / "admin.key").read_text().strip())
        self.ready_at = time.time()

    def ask(self, path: str, *, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, bytes]:
        status, answer, _ = self.server.request(path, method=method, body=body, headers=self.headers | headers)
        return status, answer

    def scrape(self) -> dict[str, float]:
        """Every series, written as in the exposition but with its labels sorted, and its value."""
        status, body = self.ask("/metrics")
        assert status == 200
        return {series(sample): sample.value for sample in samples(body.decode())}

    def value(self, name: str, /, **labels: str) -> float:
        """0 for a series that is not there yet."""
        return self.scrape().get(written(name, labels), 0.0)

    def until(self, name: str, wanted: float, /, **labels: str) -> None:
        """Wait for a gauge that follows what happens with a small delay."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := self.value(name, **labels)) != wanted:
            assert time.monotonic() < deadline, f"{name}{labels} is {found}, not {wanted}"
            time.sleep(0.02)

    @contextlib.asynccontextmanager
    async def socket(self, path: str = "/ws/sensors") -> Any:
        url = f"ws://127.0.0.1:{self.server.port}{path}"
        async with connect(url, compression=None, additional_headers=self.headers) as socket:
            client = Device(socket)
            assert (await client.receive())["type"] == "connection_established"
            yield client

    async def send(self, *messages: Any) -> list[dict[str, Any]]:
        async with self.socket() as client:
            return [await client.ask(message) for message in messages]


def bearer(value: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {value}"}


def samples(text: str) -> Iterator[Sample]:
    return (sample for family in read_text(text) for sample in family.samples)


def written(name: str, labels: dict[str, str]) -> str:
    return name + "".join(f"|{key}={labels[key]}" for key in sorted(labels))


def series(sample: Sample) -> str:
    return written(sample.name, dict(sample.labels))


_numbers = iter(range(1_000_000))


def reading(score: float = 0.9, device: str = OUR_DEVICES[0], **changes: Any) -> dict[str, Any]:
    """A sample of its own, later than all before it; its score is what the device reports."""
    number = next(_numbers)
    moment = f"2026-11-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z"
    scores = {"fusion__tof_score": score, "fusion__spectral_score": score, "fusion__is_compliant": None}
    return trimmed(device_id=device, sample_id=f"m{number}", timestamp=moment, **scores | changes)


@pytest.fixture(scope="module")
def measured() -> Iterator[Measured]:
    """Small where a bound is to be met, short where a time is to pass."""
    settings = {
        "FAULT_SWITCHES": "true",
        "CACHE_MAX_ENTRIES": str(ENTRIES),
        "CACHE_TTL_LATEST_SAMPLE_S": "0.2",
        "DATABASE_READS": "4",
        "DATABASE_WRITERS": "1",
        "BREAKER_FAILURE_THRESHOLD": "3",
        "BREAKER_TIMEOUT_S": "0.2",
    }
    with running_server(arguments=("--auth", "keys"), **settings, **PATIENT) as server:
        measured = Measured(server)
        asyncio.run(measured.send(*(reading(device=device) for device in OUR_DEVICES)))
        yield measured


def new_key(server: Server, role: Role) -> dict[str, str]:
    """Headers of somebody with this role."""
    settings = Settings(data_dir=server.folder, database_url=None)
    value = asyncio.run(admin.with_database(settings, lambda connection: admin.make_key(connection, "test", role)))
    return bearer(value)


# Counters and histograms: an action, and what it adds to which series

Action = Callable[[Measured], Any]


def get(path: str, *, method: str = "GET", body: Any = None) -> Action:
    return lambda measured: measured.ask(path, method=method, body=body)


def send(make: Callable[[], Any]) -> Action:
    return lambda measured: asyncio.run(measured.send(make()))


def open_realtime(message: Any) -> Action:
    async def talk(measured: Measured) -> None:
        async with measured.socket("/ws/realtime") as client:
            assert (await client.receive())["type"] == "latest_sample"
            await client.ask(message)

    return lambda measured: asyncio.run(talk(measured))


def refused_handshake(path: str) -> Action:
    async def knock(measured: Measured) -> None:
        with pytest.raises(InvalidStatus):
            async with connect(f"ws://127.0.0.1:{measured.server.port}{path}"):
                pass

    return lambda measured: asyncio.run(knock(measured))


def another_lot(measured: Measured) -> None:
    measured.ask(f"/api/sqal/aggregates/hourly?lot=L{next(_numbers)}")


def fill_the_cache(measured: Measured) -> None:
    for _ in range(ENTRIES):
        another_lot(measured)


def drop_the_cache(measured: Measured) -> None:
    measured.ask("/api/admin/cache/invalidate", method="POST", body={"pattern": "*"})


def drop_then(action: Action) -> Action:
    def both(measured: Measured) -> None:
        drop_the_cache(measured)
        action(measured)

    return both


def warm_stats(measured: Measured) -> None:
    measured.ask(STATS)


def hold_the_latest(measured: Measured) -> None:
    """In the cache, so that a commit has something to write through; none of a device."""
    drop_the_cache(measured)
    measured.ask("/api/sqal/latest")


def latest_after_its_time(measured: Measured) -> None:
    measured.ask("/api/sqal/latest")
    time.sleep(0.25)  # longer than the time to live that this server gives it
    measured.ask("/api/sqal/latest")
    cache = "/api/admin/cache"
    while json.loads(measured.ask(cache)[1])["loads_under_way"]:  # one that is late goes on behind its answer
        time.sleep(0.02)


def forced(measured: Measured) -> None:
    measured.ask("/api/admin/breakers/database", method="PUT", body={"mode": "forced_open"})
    try:
        assert measured.ask("/api/sqal/samples")[0] == 503
    finally:
        measured.ask("/api/admin/breakers/database", method="PUT", body={"mode": "auto"})


def nothing(_measured: Measured) -> None:
    """No preparation."""


KNOWN = "/api/sqal/devices/{device_id}"
BUCKET = "sample_quality_score_bucket"
CASES: list[tuple[str, dict[str, str], Action, Action, float]] = [
    ("http_requests_total", {"method": "GET", "endpoint": KNOWN, "status": "200"}, nothing, get(f"/api/sqal/devices/{OUR_DEVICES[0]}"), 1),
    ("http_requests_total", {"method": "GET", "endpoint": KNOWN, "status": "404"}, nothing, get("/api/sqal/devices/NOBODY"), 1),
    ("http_requests_total", {"method": "GET", "endpoint": "unmatched", "status": "404"}, nothing, get("/no/such/path"), 1),
    ("http_requests_total", {"method": "PATCH", "endpoint": KNOWN, "status": "422"}, nothing, get("/api/sqal/devices/X", method="PATCH", body={"x": 1}), 1),
    ("http_requests_total", {"method": "other", "endpoint": KNOWN, "status": "405"}, nothing, get("/api/sqal/devices/X", method="PROPFIND"), 1),
    ("http_requests_total", {"method": "GET", "endpoint": "/health/live", "status": "200"}, nothing, get("/health/live"), 1),
    ("http_request_duration_seconds_count", {"method": "GET", "endpoint": KNOWN}, nothing, get("/api/sqal/devices/NOBODY"), 1),
    ("http_request_size_bytes_bucket", {"le": "1000"}, nothing, get("/api/sqal/devices/X", method="PATCH", body={"x": 1}), 2),
    ("http_request_size_bytes_sum", {}, nothing, get("/api/sqal/devices/X", method="PATCH", body={"x": 1}), 8),
    ("http_response_size_bytes_count", {}, nothing, get("/health/live"), 2),
    ("cache_hits_total", {"cache_type": "device_stats"}, warm_stats, get(STATS), 1),
    ("cache_misses_total", {"cache_type": "device_stats"}, nothing, drop_then(get(STATS)), 1),
    ("cache_misses_total", {"cache_type": "hourly_aggregates"}, nothing, another_lot, 1),
    ("cache_loads_total", {"cache_type": "device_stats", "outcome": "success"}, nothing, drop_then(get(STATS)), 1),
    ("cache_latency_seconds_count", {"operation": "get"}, warm_stats, get(STATS), 1),
    ("cache_latency_seconds_count", {"operation": "set"}, hold_the_latest, send(reading), 1),
    ("cache_latency_seconds_count", {"operation": "delete"}, nothing, drop_the_cache, 1),
    ("cache_evictions_total", {}, fill_the_cache, another_lot, 1),
    ("cache_expirations_total", {}, nothing, drop_then(latest_after_its_time), 1),
    ("sample_processing_duration_seconds_count", {}, nothing, send(reading), 1),
    ("sample_quality_score_count", {"grade": "A+"}, nothing, send(lambda: reading(0.9)), 1),
    ("sample_quality_score_count", {"grade": "A"}, nothing, send(lambda: reading(0.8)), 1),
    ("sample_quality_score_count", {"grade": "B"}, nothing, send(lambda: reading(0.7)), 1),
    ("sample_quality_score_count", {"grade": "REJECT"}, nothing, send(lambda: reading(0.2)), 1),
    ("sample_quality_score_sum", {"grade": "B"}, nothing, send(lambda: reading(0.7)), 0.7),
    ("samples_committed_total", {"grade": "A+"}, nothing, send(lambda: reading(0.9)), 1),
    ("samples_received_total", {}, nothing, send(reading), 1),
    ("samples_refused_total", {"code": "missing_field"}, nothing, send(lambda: reading(as7341__channels__NIR=...)), 1),
    ("acks_sent_total", {"status": "saved"}, nothing, send(reading), 1),
    ("websocket_messages_sent_total", {"endpoint": "sensors"}, nothing, send(lambda: {"type": "ping"}), 2),
    ("websocket_messages_received_total", {"endpoint": "sensors"}, nothing, send(lambda: {"type": "ping"}), 1),
    ("websocket_messages_sent_total", {"endpoint": "realtime"}, nothing, open_realtime({"type": "ping"}), 3),
    ("websocket_messages_received_total", {"endpoint": "realtime"}, nothing, open_realtime({"type": "ping"}), 1),
    ("websocket_errors_total", {"endpoint": "sensors"}, nothing, send(lambda: '{"type":'), 1),
    ("websocket_errors_total", {"endpoint": "realtime"}, nothing, open_realtime({"type": "sing"}), 1),
    ("websocket_errors_total", {"endpoint": "sensors"}, nothing, refused_handshake("/ws/sensors"), 1),
    ("websocket_errors_total", {"endpoint": "realtime"}, nothing, refused_handshake("/ws/realtime"), 1),
    ("circuit_breaker_transitions_total", {"name": "database", "to": "open"}, nothing, forced, 1),
    ("circuit_breaker_transitions_total", {"name": "database", "to": "closed"}, nothing, forced, 1),
]  # fmt: skip


def case_name(case: tuple[str, dict[str, str], Action, Action, float]) -> str:
    return written(case[0], case[1])


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_what_happens_once_more_is_counted_once_more(
    measured: Measured, case: tuple[str, dict[str, str], Action, Action, float]
) -> None:
    name, labels, prepare, action, adds = case
    prepare(measured)
    before = measured.value(name, **labels)
    for times in (1, 2):
        action(measured)
        assert measured.value(name, **labels) - before == pytest.approx(times * adds), f"after {times}"


def test_a_call_that_the_breaker_turns_away_is_counted_once(measured: Measured) -> None:
    """What looks after itself in the background asks, too, now and then, and is counted as well."""
    grown: list[float] = []
    while len(grown) < 20 and 1 not in grown:
        before = measured.value("circuit_breaker_rejected_total", name="database")
        forced(measured)
        grown.append(measured.value("circuit_breaker_rejected_total", name="database") - before)
    assert grown[-1] == min(grown) == 1, grown


# Gauges


def test_what_the_cache_holds_grows_with_each_value_and_shrinks_to_nothing(measured: Measured) -> None:
    drop_the_cache(measured)
    sizes = [measured.value("cache_size_bytes")]
    for count in (1, 2):
        another_lot(measured)
        sizes.append(measured.value("cache_size_bytes"))
        assert measured.value("cache_entries") == count
    assert 0 == sizes[0] < sizes[1] < sizes[2]


async def test_open_sockets_are_counted_while_they_are_open(measured: Measured) -> None:
    for path, endpoint in (("/ws/sensors", "sensors"), ("/ws/realtime", "realtime")):
        await asyncio.to_thread(measured.until, "websocket_connections_active", 0, endpoint=endpoint)
        async with measured.socket(path):
            assert measured.value("websocket_connections_active", endpoint=endpoint) == 1
            async with measured.socket(path):
                assert measured.value("websocket_connections_active", endpoint=endpoint) == 2
        await asyncio.to_thread(measured.until, "websocket_connections_active", 0, endpoint=endpoint)


async def test_each_request_that_holds_a_connection_leaves_one_less(measured: Measured) -> None:
    assert measured.value("db_connection_pool_size", pool="reads") == 4
    assert measured.value("db_connection_pool_size", pool="writes") == 1 + 2
    connection = await asyncpg.connect(EmbeddedPostgres(measured.server.folder).dsn)
    try:
        await connection.execute("BEGIN; LOCK TABLE recipes IN ACCESS EXCLUSIVE MODE")
        asked = []
        for left in (3, 2):  # what looks after itself in the background holds one for a moment only
            asked.append(asyncio.create_task(asyncio.to_thread(measured.ask, "/api/sqal/samples")))
            await asyncio.to_thread(measured.until, "db_connection_pool_available", left, pool="reads")
    finally:
        connection.terminate()
    assert [status for status, _ in await asyncio.gather(*asked)] == [200, 200]
    await asyncio.to_thread(measured.until, "db_connection_pool_available", 4, pool="reads")


def test_statements_are_timed_by_their_kind(measured: Measured) -> None:
    before = measured.scrape()
    asyncio.run(measured.send(reading(), reading()))
    measured.ask("/api/sqal/samples")
    measured.ask("/api/sqal/samples")
    after = measured.scrape()
    for kind in ("select", "insert", "commit"):
        name = f"db_query_duration_seconds_count|query_type={kind}"
        assert after[name] - before[name] >= 2, kind


def test_rates_and_the_average_are_those_of_what_was_committed(measured: Measured) -> None:
    for score in (0.9, 0.2, 0.7):
        asyncio.run(measured.send(reading(score)))
        began = time.time()
        seen = measured.scrape()
        ended = time.time()
        grades = {name: value for name, value in seen.items() if name.startswith("samples_committed_total|")}
        total, rejected = sum(grades.values()), grades["samples_committed_total|grade=REJECT"]
        scores = sum(value for name, value in seen.items() if name.startswith("sample_quality_score_sum"))
        assert seen["reject_rate_percent"] == pytest.approx(100 * rejected / total)
        assert seen["conformity_rate_percent"] == pytest.approx(100 - 100 * rejected / total)
        assert seen["average_quality_score"] == pytest.approx(scores / total)
        slowest = total / (ended - seen["process_start_time_seconds"])
        fastest = total / (began - measured.ready_at)
        assert 0.99 * slowest <= seen["samples_throughput_per_second"] <= 1.01 * fastest


def test_a_breaker_opens_on_failures_and_closes_after_them_and_both_are_seen(measured: Measured) -> None:
    name = {"name": "database"}
    for times in (1, 2):
        before = measured.scrape()
        measured.ask("/api/admin/faults/database", method="PUT", body={"kind": "error", "expires_s": 30})
        while measured.value("circuit_breaker_state", **name) != 1:
            assert measured.ask("/api/sqal/samples")[0] == 503
        assert measured.value("fault_switch_active", **name) == 1
        measured.until("dependency_up", 0, **name)
        measured.ask("/api/admin/faults/database", method="DELETE")
        while measured.ask("/api/sqal/samples")[0] != 200 or measured.value("circuit_breaker_state", **name) != 0:
            time.sleep(0.02)
        after = measured.scrape()
        for entered in ("open", "half_open", "closed"):
            series = written("circuit_breaker_transitions_total", name | {"to": entered})
            assert after[series] - before[series] >= 1, (times, entered)
        for outcome, least in (("failure", 3), ("success", 2)):
            series = written("circuit_breaker_calls_total", name | {"outcome": outcome})
            assert after[series] - before[series] >= least, (times, outcome)
        measured.until("dependency_up", 1, **name)


def test_devices_are_counted_by_site_and_state(measured: Measured) -> None:
    here = [reading(device=device) for device in OUR_DEVICES]  # a while ago, to the device counts, by now
    there = [reading(device=f"METER-MT-{number}", site_code="MT") for number in (9, 10)]
    asyncio.run(measured.send(*here, *there))
    measured.until("devices", 2, site="MT", state="online")
    measured.until("devices", len(OUR_DEVICES), site="LL", state="online")


# What is in the exposition, and who gets it


def test_no_label_holds_what_a_client_wrote(measured: Measured) -> None:
    names = {sample.name for sample in samples(measured.ask("/metrics")[1].decode())}
    text = measured.ask("/metrics")[1].decode()
    assert len(names) > 60
    for written_by_clients in (*OUR_DEVICES, "METER", "NOBODY", "/no/such/path", "PROPFIND"):
        assert written_by_clients not in text


def test_openmetrics_is_whole_and_names_requests(measured: Measured) -> None:
    wanted = "a-request-of-ours"
    measured.ask("/api/sqal/samples", **{"X-Request-ID": wanted})
    status, body, headers = measured.server.request("/metrics", headers=measured.headers | {"Accept": OPENMETRICS})
    assert (status, headers["content-type"]) == (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    families = list(read_openmetrics(body.decode()))  # type: ignore[no-untyped-call]
    assert {family.name for family in families} == {name.removesuffix("_total") for name in Metrics().registry.families}
    named = [
        sample.exemplar.labels["request_id"] for family in families for sample in family.samples if sample.exemplar
    ]
    assert wanted in named
    assert measured.server.request("/metrics", headers=measured.headers)[2]["content-type"].startswith(
        "text/plain; version=0.0.4"
    )


def test_figures_are_for_viewers(measured: Measured) -> None:
    server = measured.server
    assert server.request("/metrics")[0] == 401
    assert server.request("/metrics", headers=new_key(server, Role.DEVICE))[0] == 403
    assert server.request("/metrics", headers=new_key(server, Role.VIEWER))[0] == 200
