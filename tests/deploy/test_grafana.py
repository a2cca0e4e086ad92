"""What Grafana asks is understood: by Prometheus, by PostgreSQL as the role that may read little, by the service's names.

No Grafana is here: its files are checked against the SDK's model (tests/unit/test_dashboards.py) and against each other.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
import yaml

from app.bugs.figures import Scope, figures
from app.bugs.seed import seed
from app.bugs.service_levels import ServiceLevels, Targets
from app.core.metrics import Metrics
from app.dashboards.alert_panels import PANEL_OF_ALERT, key
from app.settings import Settings
from tests.deploy.catalogue import parse, product
from tests.deploy.grafana_queries import Asked, dashboards, panels, promql, queries, rule_files, sql
from tests.deploy.grafana_reader import make_reader, reader
from tests.deploy.real_prometheus import Prometheus, running_prometheus
from tests.deploy.tools import DEPLOY

GRAFANA: Final = DEPLOY / "grafana"
SITES: Final = ["LL", "LS", "MT", "unknown"]
WORD: Final = re.compile(r"\w+")
QUERIES: Final = queries()


def _of(kind: str) -> list[Asked]:
    return [asked for asked in QUERIES if asked.kind == kind]


def _rules() -> list[dict[str, Any]]:
    groups = [group for path in rule_files() for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), [], rules=rule_files()) as running:
        yield running


def test_prometheus_parses_every_query(prometheus: Prometheus) -> None:
    asked = _of("prometheus")
    assert len({one.uid for one in asked}) == 5
    for one in asked:
        for sites in (["LL"], SITES):
            prometheus.query(promql(one.text, sites=sites))  # raises with the query and what is wrong with it


def test_every_query_names_metrics_labels_and_values_that_there_are() -> None:
    known = product().with_rules(_rules())
    wrong = {
        one.where: found
        for one in _of("prometheus")
        if one.number != 0 and (found := known.problems(promql(one.text, sites=["LL"])))
    }
    assert wrong == {}


def test_every_metric_is_watched_by_a_panel_or_a_rule() -> None:
    """So that none can change its name, or cease to be, without one of the checks above finding it."""
    asked = [promql(one.text, sites=["LL"]) for one in _of("prometheus") if one.number != 0]
    named = {name for text in [*(rule["expr"] for rule in _rules()), *asked] for name, _ in parse(text).selectors}
    series = {
        name: {name + suffix for suffix in ("_bucket", "_sum", "_count")} if family.kind == "histogram" else {name}
        for name, family in Metrics().registry.families.items()
    }
    assert [name for name, own in series.items() if not own & named] == []


def test_variables_look_at_metrics_that_there_are() -> None:
    known = Metrics().registry.families
    for one in [one for one in _of("prometheus") if one.number == 0]:
        names = re.findall(r'__name__=~"([^"]+)"', one.text) or [one.text.partition("{")[0]]
        for name in names[0].split("|"):
            assert name in known, one
            assert one.title in {"instance", *known[name].label_names}, one


@pytest.fixture
async def filled(dsn: str, tmp_path: Path) -> AsyncIterator[str]:
    """A database with something of everything, and the role."""
    now = datetime.now(UTC)
    owner: Any = await asyncpg.connect(dsn)
    try:
        await seed(owner, 400, 100, 1, now, lambda _: None)
        await owner.execute("UPDATE bugs SET severity = 'low' WHERE number % 7 = 0")
        await owner.execute(
            "INSERT INTO devices (device_id, last_seen, firmware_version, hello_at) SELECT 'ESP32_' || site || '_0' || n, $1, v, $1"
            " FROM (VALUES ('LL', 'v2.3.1'), ('MT', 'v2.3.2'), ('XX', NULL)) AS given (site, v), generate_series(1, 2) AS n",
            now - timedelta(minutes=3),
        )
        await owner.execute(
            "INSERT INTO quarantine (id, received_at, code, reason, device_id, peer, size_bytes, stored_bytes, codec, encoding, body)"
            " VALUES (gen_random_uuid(), $1, 'not_json', 'r', 'ESP32_LL_01', '10.0.0.1', 1, 1, 0, 0, '\\x00')",
            now,
        )
        sums = ", ".join(f"10, {8_000_000 if one == 'score' else 0}, 0, 0, 0" for one in ("score", "f", "q", "o", "c"))
        await owner.execute(
            f"INSERT INTO rollups SELECT device_id, date_trunc('hour', $1::timestamptz), substring(device_id from 7 for 2), 'lot-1',"
            f" 11, 1, 2, 3, 2, 2, 1, 0, 0, {sums}, 0, 0, 0, 0 FROM devices WHERE device_id NOT LIKE '%XX%'",
            now,
        )
    finally:
        await owner.close()
    make_reader(dsn, tmp_path)
    owner = await asyncpg.connect(dsn)
    await owner.execute(
        "GRANT SELECT ON api_keys, bug_webhooks TO grafana_reader; GRANT SELECT (body) ON quarantine TO grafana_reader"
    )
    await owner.close()
    make_reader(dsn, tmp_path)  # takes that away
    yield dsn
    owner = await asyncpg.connect(dsn)
    await owner.execute("DROP OWNED BY grafana_reader; DROP ROLE grafana_reader")
    await owner.close()


async def test_every_panel_s_sql_gives_rows_to_the_role_that_reads(filled: str) -> None:
    async with reader(filled) as connection:
        for one in _of("postgresql"):
            rows = await connection.fetch(sql(one.text, sites=[*SITES, "XX"], hours=24 * 365))
            assert rows, one.where


async def test_time_series_have_a_time_and_tables_have_the_columns_that_units_are_given_for(filled: str) -> None:
    async with reader(filled) as connection:
        for board in dashboards():
            for panel in panels(board):
                target = panel["targets"][0]
                if "rawSql" not in target:
                    continue
                rows = await connection.fetch(sql(target["rawSql"], sites=SITES, hours=24 * 365))
                columns = dict(rows[0])
                if target["format"] == "time_series":
                    assert isinstance(columns["time"], datetime), panel["title"]
                named = {one["matcher"]["options"] for one in panel["fieldConfig"]["overrides"]}
                assert named <= columns.keys(), panel["title"]


async def test_firmware_sites_and_rejects_are_counted_right(filled: str) -> None:
    texts = {one.title: one.text for one in _of("postgresql")}
    async with reader(filled) as connection:
        firmware = await connection.fetch(sql(texts["Firmware"], sites=["LL", "XX"]))
        assert [tuple(row) for row in firmware] == [("not said", 2), ("v2.3.1", 2)]
        quality = await connection.fetch(sql(texts["Firmware and quality"], sites=["MT"]))
        assert [tuple(row) for row in quality] == [("v2.3.2", 2, 22, pytest.approx(0.2))]
        (lot,) = await connection.fetch(sql(texts["Lots with most rejects"], sites=["LL"]))
        assert (lot["lot"], lot["samples"], lot["score"]) == ("lot-1", 22, pytest.approx(0.8))


async def test_service_levels_and_open_bugs_are_those_of_the_service(filled: str) -> None:
    """The panel's figures beside `GET /api/bugs/metrics/...`'s own, of the same bugs."""
    settings = Settings(_env_file=None)
    targets = Targets.of_hours(settings.bug_sla_acknowledge_hours, settings.bug_sla_resolve_hours)
    now = datetime.now(UTC)
    texts = {one.title: one.text for one in _of("postgresql")}

    async def nobody(*_: Any) -> dict[str, int]:
        return {}

    owner: Any = await asyncpg.connect(filled)
    told = await figures(owner, Scope(now - timedelta(days=365), now), ServiceLevels(targets, now), nobody)
    still_open = await owner.fetchval(
        "SELECT count(*) FROM bugs WHERE status IN ('open', 'in_progress', 'awaiting_info', 'reopened')"
    )
    await owner.close()
    async with reader(filled) as connection:
        shown = {
            row["severity"]: row
            for row in await connection.fetch(sql(texts["Service levels"], sites=[], hours=24 * 365))
        }
        days = await connection.fetch(sql(texts["Open at the end of the day"], sites=[], hours=24 * 365))
    for severity, kept in told["sla"].items():
        for clock, column in (("acknowledge", "acknowledged too late"), ("resolve", "resolved too late")):
            assert shown[severity][column] == kept[clock]["breached"] + kept[clock]["breached_open"], (severity, clock)
    assert sum(row["resolved too late"] for row in shown.values()) > 0
    assert days[-1]["open"] == still_open > 0


REFUSED: Final = (
    "SELECT hash FROM api_keys",
    "SELECT key_id FROM api_keys",
    "SELECT body FROM bug_comments",
    "SELECT secret FROM bug_webhooks",
    "SELECT url FROM bug_webhooks",
    "SELECT reported_by_email FROM bugs",
    "SELECT description FROM bugs",
    "SELECT * FROM bugs",
    "SELECT body FROM quarantine",
    "SELECT peer FROM quarantine",
    "SELECT body FROM messages",
    "SELECT mac_address FROM devices",
    "SELECT farmer FROM samples",
    "SELECT answer FROM idempotency_keys",
    "UPDATE devices SET firmware_version = 'x'",
    "DELETE FROM bug_flow",
    "CREATE TABLE mine (id int)",
)


async def test_the_reading_role_is_refused_everything_else(filled: str) -> None:
    async with reader(filled) as connection:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.execute("CREATE TEMP TABLE mine (id int)")
        await connection.execute("SET default_transaction_read_only = off")  # whoever may connect may say so
        for statement in REFUSED:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)


async def test_no_column_is_granted_that_no_panel_reads(filled: str) -> None:
    owner = await asyncpg.connect(filled)
    granted = await owner.fetch(
        "SELECT table_name, column_name FROM information_schema.column_privileges WHERE grantee = 'grafana_reader'"
    )
    await owner.close()
    words = {table: set[str]() for table in ("devices", "rollups", "quarantine", "bugs", "bug_flow")}
    for one in _of("postgresql"):
        for table in words.keys() & set(WORD.findall(one.text)):
            words[table] |= set(WORD.findall(one.text))
    assert {record["table_name"] for record in granted} == words.keys()
    assert [tuple(record) for record in granted if record["column_name"] not in words[record["table_name"]]] == []


def test_provisioning_gives_what_dashboards_ask_for() -> None:
    given = yaml.safe_load((GRAFANA / "provisioning/datasources/gaveurs.yaml").read_text())["datasources"]
    kinds = {source["uid"]: source["type"] for source in given}
    assert kinds.keys() == {"prometheus", "gaveurs-postgresql", "loki"}
    for board in dashboards():
        for variable in board["templating"]["list"]:
            if variable["type"] == "datasource":
                assert kinds[variable["current"]["value"]] == variable["query"]
    secrets = [value for source in given for value in source.get("secureJsonData", {}).values()]
    assert secrets == ["$__file{/run/secrets/grafana_reader_password}"]
    scrape = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]
    assert next(source for source in given if source["uid"] == "prometheus")["jsonData"]["timeInterval"] == scrape


def test_alerts_lead_to_their_panels() -> None:
    rules = [
        rule for path in rule_files() for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]
    ]
    alerts = {
        key(rule["alert"], rule["labels"].get("window")): rule["annotations"] for rule in rules if "alert" in rule
    }
    assert {name: (notes["dashboard"], notes.get("panel")) for name, notes in alerts.items()} == {
        name: (uid, str(number)) for name, (uid, number) in PANEL_OF_ALERT.items()
    }
