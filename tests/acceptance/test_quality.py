"""Alerts, lots, explanations and exports over REST, on the real process."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from app.core.clock import iso
from app.sqal.export import PAGE
from tests.support import Server, device, running_server, trimmed

if TYPE_CHECKING:
    from collections.abc import Iterator


# What is sent is of one second: of one hour, one shift and one day.
SENT = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as running:
        asyncio.run(_send(running))
        yield running


def scored(number: int, score: float | None, **changes: Any) -> dict[str, Any]:
    return trimmed(
        sample_id=f"q{number}", timestamp=iso(SENT + timedelta(microseconds=number)), lot_abattage="L 1/é", site_code="LL",
        fusion__tof_score=score, fusion__spectral_score=score, vl53l8ch__quality_score=score,
    ) | changes  # fmt: skip


async def _send(server: Server) -> None:
    async with device(server) as box:
        for number, score in enumerate((0.9, 0.2, 0.55, None)):
            await box.ask(scored(number, score))
        await box.ask(scored(4, 0.8, eleveur='=cmd|"x"', device_id="ESP32_LL_02"))


def problem(server: Server, path: str, **options: Any) -> tuple[int, str]:
    status, body, headers = server.request(path, **options)
    assert headers["content-type"] == "application/problem+json"
    return status, json.loads(body)["code"]


def test_alerts_are_listed_shown_and_acknowledged(server: Server) -> None:
    items = server.get("/api/sqal/alerts")["items"]
    assert [(one["rule"], one["occurrences"]) for one in items] == [("low_score", 1), ("reject", 1)]
    assert server.get("/api/sqal/alerts?severity=critical&state=open&acknowledged=false")["items"] == items[1:]
    assert server.get("/api/sqal/alerts?device_id=NOBODY")["items"] == []
    path = f"/api/sqal/alerts/{items[0]['id']}"
    for body in ({"comment": "on it"}, None):
        status, answer, _ = server.request(f"{path}/acknowledge", method="POST", body=body)
        assert (status, json.loads(answer)["comment"]) == (200, "on it")
    assert server.get(path)["acknowledged_by"] == "loopback"
    assert problem(server, f"{path}/acknowledge", method="POST", body={"comment": 3}) == (422, "invalid_request")
    assert problem(server, "/api/sqal/alerts/7") == (422, "invalid_request")
    assert problem(server, "/api/sqal/alerts?severity=loud") == (422, "invalid_request")
    nobody = "/api/sqal/alerts/00000000-0000-7000-8000-000000000000"
    assert problem(server, nobody) == problem(server, f"{nobody}/acknowledge", method="POST") == (404, "not_found")


def test_a_lot_says_how_it_did_and_takes_a_species(server: Server) -> None:
    path = "/api/sqal/lots/L%201%2F%C3%A9"
    lot = server.get(path)
    assert (lot["lot"], lot["species"], lot["count"], lot["grades"]["REJECT"]) == ("L 1/é", "duck", 5, 1)
    assert (lot["devices"], lot["sites"], lot["conformity"]) == (["ESP32_LL_01", "ESP32_LL_02"], ["LL"], 0.75)
    status, body, _ = server.request(path, method="PUT", body={"species": "goose"})
    assert (status, json.loads(body)["species"]) == (200, "goose")
    assert server.get(path)["species"] == "goose"
    assert problem(server, path, method="PUT", body={"species": "hen"}) == (422, "invalid_request")
    assert problem(server, "/api/sqal/lots/nothing") == (404, "not_found")
    for nameless in ("%20", "%0A"):
        assert problem(server, f"/api/sqal/lots/{nameless}", method="PUT", body={"species": "duck"})[0] == 422
    assert server.request("/api/sqal/lots/next", method="PUT", body={"species": "duck"})[0] == 200
    assert server.get("/api/sqal/lots/next")["count"] == 0


def test_days_shifts_and_lots_are_sums_of_hours(server: Server) -> None:
    for path in ("aggregates/daily", "aggregates/shifts"):
        (span,) = server.get(f"/api/sqal/{path}?lot=L%201/%C3%A9")["items"]
        assert (span["count"], span["grades"]["REJECT"]) == (5, 1)
        assert datetime.fromisoformat(span["from"]) <= SENT < datetime.fromisoformat(span["to"])
        assert server.get(f"/api/sqal/{path}?site_code=MT")["items"] == []
        assert problem(server, f"/api/sqal/{path}?from=1990-01-01T00:00:00Z") == (422, "invalid_request")
    (lot,) = [one for one in server.get("/api/sqal/lots?site_code=LL")["items"] if one["lot"] == "L 1/é"]
    assert (lot["count"], lot["conformity"]) == (5, 0.75)


def test_an_explanation_says_why(server: Server) -> None:
    def codes(sample: str) -> list[str]:
        return [
            reason["code"] for reason in server.get(f"/api/sqal/samples/ESP32_LL_01/{sample}/explanation")["reasons"]
        ]

    assert codes("q0")[0] == codes("q1")[0] == "score"
    assert codes("q3") == ["device_sent_no_scores"]
    why = server.get("/api/sqal/samples/ESP32_LL_01/q2/explanation")
    assert (why["grade"], why["reasons"][0]) == ("C", {"code": "score", "least": 0.45, "below": 0.6})
    assert (why["recipe_known"], why["weights"], list(why["thresholds"])) == (
        True,
        {"tof": 0.6, "spectral": 0.4},
        ["A+", "A", "B", "C"],
    )
    derived = why["derived"]
    assert (len(derived["heights_mm"]), len(derived["ratios"]), derived["by"]["name"]) == (8, 6, "sqal-1")
    assert derived["mass_g"] == pytest.approx(derived["volume_mm3"] * 0.947e-3)
    assert problem(server, "/api/sqal/samples/ESP32_LL_01/no/explanation") == (404, "not_found")


def test_samples_are_exported_as_csv_and_parquet(server: Server) -> None:
    listed = server.get("/api/sqal/samples")["items"]
    status, body, headers = server.request("/api/sqal/samples.csv")
    rows = list(csv.DictReader(io.StringIO(body.decode())))
    assert (status, headers["content-type"]) == (200, "text/csv; charset=utf-8")
    assert [row["sample_id"] for row in rows] == [item["sample_id"] for item in listed]
    assert rows[0]["farmer"] == '\'=cmd|"x"'  # no spreadsheet runs what a device sent
    assert (rows[1]["score"], rows[1]["is_compliant"], rows[1]["grade"]) == ("", "", "NOT_GRADABLE")
    assert [float(row["score"]) for row in rows if row["score"]] == [0.8, 0.55, 0.2, 0.9]
    _, body, _ = server.request("/api/sqal/samples.parquet?device_id=ESP32_LL_01")
    table = pq.read_table(io.BytesIO(body)).to_pylist()
    assert [row["sample_id"] for row in table] == ["q3", "q2", "q1", "q0"]
    assert (table[1]["score"], table[1]["indices_freshness"], table[1]["lot"]) == (
        0.55,
        listed[2]["indices"]["freshness"],
        "L 1/é",
    )
    assert iso(table[0]["device_time"]) == listed[1]["device_time"]
    assert server.request("/api/sqal/samples.csv?device_id=NOBODY")[1].count(b"\n") == 1
    assert problem(server, "/api/sqal/samples.csv?grade=Z") == (422, "invalid_request")
    for path in (
        "samples.csv?grade=A&grade=B",
        "samples?device_id=a&device_id=b",
        "alerts?device_id[]=a",
        "dashboard?lot[]=1",
    ):
        assert problem(server, f"/api/sqal/{path}") == (422, "invalid_request")


async def test_an_export_of_several_pages_holds_each_sample_once(server: Server) -> None:
    count = 2 * PAGE + 7
    async with device(server) as box:
        for start in range(0, count, 250):
            batch = [scored(number, 0.8, device_id="MANY") for number in range(start, min(start + 250, count))]
            await box.ask({"type": "sensor_batch", "samples": batch})
    _, body, _ = server.request("/api/sqal/samples.parquet?device_id=MANY")
    table = pq.ParquetFile(io.BytesIO(body))
    assert table.num_row_groups == 3
    names = table.read(["sample_id"]).column("sample_id").to_pylist()
    assert sorted(names) == sorted(f"q{number}" for number in range(count))


async def test_the_mass_is_held_against_the_law_of_the_lots_species(server: Server) -> None:
    server.request("/api/sqal/devices/GOOSE", method="PATCH", body={"recipe": "sqal-1"})
    server.request("/api/sqal/lots/geese", method="PUT", body={"species": "goose"})
    async with device(server) as box:
        for number, lot in enumerate(("geese", "ducks")):
            await box.ask(scored(number, 0.9, device_id="GOOSE", lot_abattage=lot))
    goose, duck = (server.get(f"/api/sqal/samples/GOOSE/q{number}")["legal_mass"] for number in range(2))
    assert (goose["species"], goose["least_g"], duck["species"], duck["least_g"]) == ("goose", 400.0, "duck", 300.0)
    assert goose["mass_g"] == duck["mass_g"] > 0
    assert (
        server.get("/api/sqal/samples/ESP32_LL_01/q0")["legal_mass"] is None
    )  # the box's own scores: no volume of ours
