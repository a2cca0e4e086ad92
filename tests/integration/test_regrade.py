from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from app.sqal import rollups
from app.sqal.explanation import explain_sample
from app.sqal.recipe_book import recipe_book
from app.sqal.recipes import DeviceProfile, register_recipes
from app.sqal.regrade import Shift, regrade
from app.sqal.simulator.messages import MessageMaker
from tests.integration.test_rollups import kept_and_true
from tests.support import trimmed

if TYPE_CHECKING:
    from tests.integration.conftest import Bench

HOUR = timedelta(hours=1)
BEGIN = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 5 * HOUR
BOOK = recipe_book("sqal-1-reported")


async def filled(bench: Bench, count: int = 60) -> list[str]:
    """Samples of two devices over three hours, ten minutes apart."""
    names = [f"ESP32_LL_{uuid4().hex[:6]}" for _ in range(2)]
    makers = [MessageMaker(name, "LL", number, 5) for number, name in enumerate(names)]
    messages = [makers[n % 2].sample(BEGIN + timedelta(minutes=3 * n)) for n in range(count)]
    verdicts = await bench.write(*messages)
    assert {verdict.status for verdict in verdicts} == {"saved"}
    return names


async def run(
    bench: Bench, recipe: str, begin: datetime = BEGIN, end: datetime = BEGIN + 24 * HOUR, **kw: Any
) -> Shift:
    numbers = await register_recipes(bench.connection, BOOK)
    options = {"dry_run": False} | kw
    return await regrade(bench.connection, BOOK[recipe], numbers[recipe], begin, end, **options)


async def rows(bench: Bench) -> list[Any]:
    return [
        tuple(record)
        for record in await bench.connection.fetch("SELECT s.* FROM samples s ORDER BY device_id, device_time")
    ]


async def test_a_regrade_says_what_the_recipe_says_of_each_frame_and_the_rows_follow(bench: Bench) -> None:
    names = await filled(bench)
    shift = await run(bench, "sqal-1")
    assert shift.samples == shift.changed == 60
    for record in await bench.connection.fetch("SELECT s.*, r.name FROM samples s JOIN recipes r USING (recipe_id)"):
        (alone,) = BOOK["sqal-1"].grade([record["frame"]], [DeviceProfile(profile=record["profile"])])
        assert (record["name"], record["grade"], record["score"]) == ("sqal-1", alone.grade, alone.score)
        assert (record["tof_score"], record["spectral_score"]) == (alone.tof, alone.spectral)
    kept, true = await kept_and_true(bench.connection, names)
    assert kept == true
    assert sum(row[rollups.COLUMNS.index("samples")] for row in kept) == 60


async def test_a_regrade_back_restores_every_bit_and_a_second_one_changes_nothing(bench: Bench) -> None:
    await filled(bench)
    before = await rows(bench)
    forth = await run(bench, "sqal-1")
    assert (await run(bench, "sqal-1")).changed == 0
    back = await run(bench, "sqal-1-reported")
    assert {(new, old): count for (old, new), count in back.grades.items()} == dict(forth.grades)
    assert await rows(bench) == before


async def test_a_dry_run_tells_and_changes_nothing(bench: Bench) -> None:
    names = await filled(bench)
    before = (await rows(bench), await kept_and_true(bench.connection, names))
    told = await run(bench, "sqal-1", dry_run=True)
    assert (told.samples, told.changed) == (60, 60)
    assert (await rows(bench), await kept_and_true(bench.connection, names)) == before
    assert (await run(bench, "sqal-1")).grades == told.grades


async def test_only_the_range_is_graded_also_within_an_hour(bench: Bench) -> None:
    names = await filled(bench)
    shift = await run(bench, "sqal-1", BEGIN + timedelta(minutes=30), BEGIN + timedelta(minutes=90))
    assert shift.samples == 20
    graded = await bench.connection.fetch(
        "SELECT bucket_time FROM samples JOIN recipes r USING (recipe_id) WHERE r.name = 'sqal-1' ORDER BY 1"
    )
    assert [graded[0][0], graded[-1][0]] == [BEGIN + timedelta(minutes=30), BEGIN + timedelta(minutes=87)]
    kept, true = await kept_and_true(bench.connection, names)
    assert kept == true


async def test_a_trusted_devices_defects_count_in_a_regrade_too(bench: Bench) -> None:
    names = await filled(bench)
    await bench.connection.execute("UPDATE devices SET trust_defects = true WHERE device_id = $1", names[0])
    shift = await run(bench, "sqal-1-reported")
    assert shift.changed > 0
    rejected = await bench.connection.fetch("SELECT DISTINCT device_id FROM samples WHERE grade = 'REJECT'")
    assert names[0] in {record[0] for record in rejected}


async def test_an_explanation_tells_of_the_recipe_as_it_was(bench: Bench) -> None:
    await bench.connection.execute("INSERT INTO devices (device_id, recipe) VALUES ('ESP32_LL_01', 'sqal-1')")
    await bench.write(trimmed(as7341__channels__F4_515nm=20_000))
    names = ("ESP32_LL_01", trimmed()["sample_id"], None)
    now = await explain_sample(bench.connection, BOOK, *names)
    assert now["recipe_known"]
    assert "ratio" in {reason["code"] for reason in now["reasons"]}
    # Another version of it graded this sample: its own border stands, and nothing is said of what it saw.
    await bench.connection.execute(
        "UPDATE recipes SET hash = 'older', definition = jsonb_set(definition, '{thresholds,A+}', '990000')"
        " WHERE name = 'sqal-1'"
    )
    then = await explain_sample(bench.connection, BOOK, *names)
    assert (then["recipe_known"], then["recipe_hash"], then["thresholds"]["A+"]) == (False, "older", 0.99)
    assert {reason["code"] for reason in then["reasons"]} <= {"score", "weaker_tof", "weaker_spectral"}
    assert then["derived"] is not None
