from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg
import pytest

from app.core.clock import iso
from app.sqal import queries
from app.sqal.devices import SITE_SQL, configure_device
from app.sqal.errors import Code, RefusalError
from app.sqal.queries import SampleFilter
from app.sqal.reading import site_in_id
from app.sqal.replay import replay
from app.sqal.wire import Encoding
from tests.support import trimmed

if TYPE_CHECKING:
    from tests.integration.conftest import Bench


async def test_a_sample_is_saved_once_and_then_a_duplicate(bench: Bench) -> None:
    (saved,) = await bench.write(trimmed())
    assert (saved.status, saved.score, saved.grade) == ("saved", 0.9115, "A+")
    (again,) = await bench.write(trimmed())
    assert (again.status, again.score, again.grade) == ("duplicate", 0.9115, "A+")
    assert await bench.count() == 1
    assert await bench.count("messages") == 1


async def test_the_same_identity_with_other_content_is_a_conflict_and_quarantined(bench: Bench) -> None:
    await bench.write(trimmed())
    (conflict,) = await bench.write(trimmed(eleveur="Somebody else"))
    assert (conflict.status, conflict.code) == ("error", Code.IDENTITY_CONFLICT)
    assert await bench.count() == 1
    items, _ = await bench.quarantine.list(bench.connection, device_id=None, code=None, cursor=None, limit=9)
    assert [(item["code"], item["device_id"]) for item in items] == [("identity_conflict", "ESP32_LL_01")]


async def test_one_group_may_hold_a_sample_its_copy_and_its_conflict(bench: Bench) -> None:
    verdicts = await bench.write(trimmed(), trimmed(), trimmed(provenance="elsewhere"), trimmed(sample_id="other"))
    assert [verdict.status for verdict in verdicts] == ["saved", "duplicate", "error", "saved"]
    assert await bench.count() == 2


async def test_the_same_content_in_other_bytes_is_a_duplicate(bench: Bench) -> None:
    await bench.write(trimmed())
    reordered = dict(reversed(trimmed(type=...).items()))
    spaced = json.dumps(reordered, indent=2).encode()
    packed = bench.work(trimmed(), Encoding.MSGPACK)
    assert [verdict.status for verdict in await bench.write(spaced, packed)] == ["duplicate", "duplicate"]


async def test_what_only_its_bytes_can_tell_is_compared_by_its_bytes(bench: Bench) -> None:
    odd = json.dumps(trimmed()).encode()[:-1] + b', "x": ' + b"9" * 5_000 + b"}"
    assert [verdict.status for verdict in await bench.write(odd, odd)] == ["saved", "duplicate"]
    (spaced,) = await bench.write(odd.replace(b', "x": ', b',  "x": '))
    assert spaced.code is Code.IDENTITY_CONFLICT


async def test_the_same_sample_id_at_another_time_or_device_is_another_sample(bench: Bench) -> None:
    verdicts = await bench.write(
        trimmed(), trimmed(timestamp="2026-02-02T08:15:30.251Z"), trimmed(device_id="ESP32_LL_02")
    )
    assert {verdict.status for verdict in verdicts} == {"saved"}
    assert await bench.count() == 3


async def test_a_retry_whose_first_commit_was_not_heard_of_says_saved(bench: Bench) -> None:
    work = bench.work(trimmed())
    await bench.write(work)
    assert (await bench.write(work))[0].status == "saved"
    assert await bench.count() == 1


async def test_a_refused_message_is_quarantined_in_the_same_transaction(bench: Bench) -> None:
    bad = json.dumps(trimmed(fusion__final_score=1.0001)).encode()
    saved, refused = await bench.write(trimmed(), bad)
    assert saved.status == "saved"
    assert refused.code is Code.OUT_OF_RANGE
    ((item,), _) = await bench.quarantine.list(bench.connection, device_id=None, code=None, cursor=None, limit=9)
    assert item["sample_id"] == "LL-260202-4821-087"
    assert item["size_bytes"] == len(bad)
    raw, encoding, _ = await bench.quarantine.message(bench.connection, item["id"])
    assert (raw, encoding) == (bad, Encoding.JSON)


async def test_quarantine_is_bounded_and_the_oldest_go_first(bench: Bench) -> None:
    for number in range(60):
        await bench.write(trimmed(device_id=f"D{number % 10}", fusion__final_score=2, sample_id=str(number)))
    assert await bench.count("quarantine") == 40
    items, _ = await bench.quarantine.list(bench.connection, device_id=None, code=None, cursor=None, limit=100)
    assert [item["sample_id"] for item in items] == [str(number) for number in range(59, 19, -1)]
    for number in range(30):
        await bench.write(trimmed(device_id="NOISY", fusion__final_score=2, sample_id=f"n{number}"))
    noisy, _ = await bench.quarantine.list(bench.connection, device_id="NOISY", code=None, cursor=None, limit=100)
    assert len(noisy) == 10  # its share: a quarter


async def test_a_replayed_message_is_judged_anew_and_its_entry_tells(bench: Bench) -> None:
    await bench.write(trimmed(), trimmed(eleveur="Somebody else"))
    ((entry,), _) = await bench.quarantine.list(bench.connection, device_id=None, code=None, cursor=None, limit=9)
    args = (bench.connection, bench.quarantine, bench.store, bench.preparer, entry["id"])
    assert (await replay(*args))[0][0]["code"] == "identity_conflict"
    assert await bench.count("quarantine") == 1
    await bench.connection.execute("DELETE FROM samples")
    results, samples = await replay(*args)
    assert (results[0]["status"], len(samples)) == ("saved", 1)
    told = await bench.quarantine.item(bench.connection, entry["id"])
    assert told["replay_result"] == "saved"
    assert told["replayed_at"] is not None


async def test_a_replayed_batch_that_is_none_is_refused_with_its_own_code(bench: Bench) -> None:
    refusal = RefusalError(Code.INVALID_TYPE, "samples has the wrong type")
    raw = b'{"type":"sensor_batch","samples":5}'
    await bench.write(bench.preparer.sample(raw, Encoding.JSON, bench, None, refusal))
    ((entry,), _) = await bench.quarantine.list(bench.connection, device_id=None, code=None, cursor=None, limit=9)
    (result,), _ = await replay(bench.connection, bench.quarantine, bench.store, bench.preparer, entry["id"])
    assert (result["code"], result["error"]) == ("invalid_type", "samples has the wrong type")
    assert (await bench.quarantine.item(bench.connection, entry["id"]))["replay_result"] == "invalid_type"


async def test_frames_are_graded_by_the_recipe_of_their_device_alone_as_in_a_group(bench: Bench) -> None:
    for device, recipe in (("ESP32_LL_01", "sqal-1"), ("ESP32_LL_02", "sqal-1-reported")):
        await bench.connection.execute("INSERT INTO devices (device_id, recipe) VALUES ($1, $2)", device, recipe)
    messages = [trimmed(sample_id=f"s{n}", device_id=f"ESP32_LL_0{1 + n % 2}") for n in range(20)]
    together = await bench.write(*messages)
    alone = [(await bench.write({**message, "sample_id": "again-" + message["sample_id"]}))[0] for message in messages]
    assert [(v.status, v.score, v.grade) for v in alone] == [(v.status, v.score, v.grade) for v in together]
    names = await bench.connection.fetch(
        "SELECT DISTINCT s.device_id, r.name FROM samples s JOIN recipes r USING (recipe_id) ORDER BY 1"
    )
    assert [tuple(row) for row in names] == [("ESP32_LL_01", "sqal-1"), ("ESP32_LL_02", "sqal-1-reported")]
    assert together[0].score != together[1].score


async def test_grading_follows_the_devices_record_at_once(bench: Bench) -> None:
    defects = [{"severity": 0.2}] * 5
    (before,) = await bench.write(trimmed(sample_id="1", fusion__defects=defects))
    await configure_device(bench.connection, "ESP32_LL_01", {"trust_defects": True})
    (after,) = await bench.write(trimmed(sample_id="2", fusion__defects=defects))
    assert (before.grade, after.grade) == ("A+", "REJECT")
    (item, *_), _ = await queries.list_samples(bench.connection, SampleFilter(grade="REJECT"), None, 10)
    assert item["is_compliant"] is False
    assert item["claimed"]["grade"] == "A+"
    assert item["flags"] == ["claim_disagrees"]


async def test_what_cannot_be_graded_has_neither_score_nor_compliance(bench: Bench) -> None:
    (verdict,) = await bench.write(trimmed(vl53l8ch__quality_score=...))
    assert (verdict.status, verdict.score, verdict.grade) == ("saved", None, "NOT_GRADABLE")
    item = await queries.latest_sample(bench.connection, None)
    assert (item["score"], item["is_compliant"], item["grade"]) == (None, None, "NOT_GRADABLE")


async def test_an_implausible_clock_is_flagged_and_bucketed_by_server_time(bench: Bench) -> None:
    past, future = "1970-01-01T00:00:12Z", iso(bench.clock.now() + timedelta(days=3))
    await bench.write(trimmed(sample_id="past", timestamp=past), trimmed(sample_id="future", timestamp=future))
    items, _ = await queries.list_samples(bench.connection, SampleFilter(), None, 10)
    for item in items:
        assert item["bucket_time"] == item["received_at"] == bench.clock.now()
        assert "implausible_clock" in item["flags"]
    assert {item["device_time"] for item in items} == {
        datetime(1970, 1, 1, 0, 0, 12, tzinfo=UTC),
        datetime.fromisoformat(future),
    }
    assert (await bench.write(trimmed(sample_id="past", timestamp=past)))[0].status == "duplicate"


async def test_keyset_pages_hold_every_sample_once_newest_first(bench: Bench) -> None:
    base = bench.clock.now() - timedelta(hours=1)
    for number in range(23):  # three to a moment: the id decides among them
        moment = iso(base + timedelta(seconds=number // 3))
        await bench.write(trimmed(sample_id=str(number), timestamp=moment))
    seen, cursor = [], None
    while True:
        items, cursor = await queries.list_samples(bench.connection, SampleFilter(), cursor, 5)
        seen += items
        if cursor is None:
            break
    assert [(item["bucket_time"], item["id"]) for item in seen] == sorted(
        {(item["bucket_time"], item["id"]) for item in seen}, reverse=True
    )
    assert {item["sample_id"] for item in seen} == {str(number) for number in range(23)}


async def test_filters_narrow_and_from_is_inclusive_to_exclusive(bench: Bench) -> None:
    base = bench.clock.now() - timedelta(hours=1)
    times = [base + timedelta(seconds=number) for number in range(4)]
    for number, moment in enumerate(times):
        site = ("LL", "MT")[number % 2]
        await bench.write(
            trimmed(sample_id=str(number), timestamp=iso(moment), site_code=site, lot_abattage=f"L{number // 2}")
        )

    async def ids(wanted: SampleFilter) -> list[str]:
        items, _ = await queries.list_samples(bench.connection, wanted, None, 10)
        return [item["sample_id"] for item in items]

    assert await ids(SampleFilter(time_from=times[1], time_to=times[3])) == ["2", "1"]
    assert await ids(SampleFilter(site_code="MT")) == ["3", "1"]
    assert await ids(SampleFilter(lot="L0")) == ["1", "0"]
    assert await ids(SampleFilter(device_id="nobody")) == []


async def test_groups_that_share_identities_neither_deadlock_nor_double(bench: Bench, dsn: str) -> None:
    other = await asyncpg.connect(dsn)
    messages = [trimmed(sample_id=str(number)) for number in range(100)]
    there = [bench.work(message) for message in messages]
    back = [bench.work(message) for message in reversed(messages)]
    results = await asyncio.gather(
        bench.store.write(bench.connection, there),
        bench.store.write(other, back),  # type: ignore[arg-type]
    )
    statuses = [verdict.status for written in results for verdict in written.verdicts]
    assert (statuses.count("saved"), statuses.count("duplicate")) == (100, 100)
    assert await bench.count() == 100
    await other.close()


async def test_nothing_is_written_when_the_transaction_fails_halfway(bench: Bench) -> None:
    await bench.connection.execute("DROP TABLE messages CASCADE")
    with pytest.raises(asyncpg.UndefinedTableError):
        await bench.write(trimmed())
    assert await bench.count() == 0
    assert await bench.count("devices") == 0


async def test_the_database_reads_a_site_out_of_an_id_as_we_do(bench: Bench) -> None:
    names = [
        "ESP32_LL_01", "ESP32_DEMO_LS_7", "ESP32-DOCKER-MT", "ESP32-A1B2C3D4", "ESP32_LLX_1", "X_ll_1", "DEMO_LL",
        "ESP32_DEMO_01", "A_DEMO_DEMO_LL_1", "LL_01", "A-LL", "A_DE", "A.B_LL_1", "_LL_1",
    ]  # fmt: skip
    found = await bench.connection.fetch(
        f"SELECT {SITE_SQL} FROM unnest($1::text[]) WITH ORDINALITY AS d (device_id, n),"
        " (VALUES (NULL::text, NULL::text)) AS none (site_code, sent_site_code) ORDER BY n",
        names,
    )
    assert [record[0] for record in found] == [site_in_id(name) for name in names]
