"""Links of bugs over REST, on the real process: what they are about, evidence that outlives samples, the way back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import asyncpg
import pytest

from app.core.clock import SystemClock
from app.core.embedded_postgres import EmbeddedPostgres
from app.core.security import Role, create_key
from tests.bug_client import Caller
from tests.support import Server, device, running_server, trimmed

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = "00000000-0000-7000-8000-000000000000"
BOX = "ESP32_LL_01"
SAMPLES = ("LL/260202/1", "gone one", "s 3")
ABOUT = [
    {"kind": "device", "deviceId": BOX},
    {"kind": "firmware", "firmware": "v2.3.1"},
    {"kind": "lot", "lot": "L 1/é"},
]


@pytest.fixture(scope="module")
def people() -> Iterator[dict[Role, Caller]]:
    """One of each role, at a server that wants keys and has a few samples."""
    with running_server(arguments=("--auth", "keys")) as server:
        keys = asyncio.run(_keys(server))
        asyncio.run(_send(server, keys[Role.DEVICE]))
        yield {role: Caller(server, key) for role, key in keys.items()}


@pytest.fixture
def staff(people: dict[Role, Caller]) -> Caller:
    return people[Role.OPERATOR]


@pytest.fixture
def outsiders(people: dict[Role, Caller]) -> list[Caller]:
    return [people[Role.VIEWER], people[Role.REPORTER]]


async def _keys(server: Server) -> dict[Role, str]:
    connection: Any = await asyncpg.connect(EmbeddedPostgres(server.folder).dsn)
    made = {role: await create_key(connection, SystemClock(), f"a {role}", role) for role in Role}
    await connection.close()
    return made


async def _send(server: Server, key: str) -> None:
    async with device(server, additional_headers={"Authorization": f"Bearer {key}"}) as box:
        for sample_id in SAMPLES:
            answer = await box.ask(trimmed(sample_id=sample_id, lot_abattage="L 1/é"))
            assert answer["type"] == "ack"


def forget_sample(server: Server, sample_id: str) -> None:
    """As retention does, only sooner."""

    async def delete() -> None:
        connection = await asyncpg.connect(EmbeddedPostgres(server.folder).dsn)
        assert await connection.execute("DELETE FROM samples WHERE sample_id = $1", sample_id) == "DELETE 1"
        await connection.close()

    asyncio.run(delete())


def refused(caller: Caller, method: str, path: str, body: Any = None) -> tuple[int, str | None]:
    """(status, pointer or parameter of the first error)"""
    status, answer, headers = caller.ask(method, path, body)
    assert headers["content-type"] == "application/problem+json", answer
    errors = answer.get("errors") or [{}]
    return status, errors[0].get("pointer") or errors[0].get("parameter")


def test_a_bug_is_about_a_device_a_firmware_a_lot(staff: Caller, outsiders: list[Caller]) -> None:
    bug = staff.report()
    before = staff.get(f"/api/bugs/{bug}")
    assert (before["links"], before["duplicateOf"]) == ([], None)
    made = [staff.post(f"/api/bugs/{bug}/links", one) for one in ABOUT]
    for one, sent in zip(made, ABOUT, strict=True):
        assert {name: value for name, value in one.items() if value is not None} == sent | {
            name: one[name] for name in ("id", "createdAt", "creatorId")
        }
        assert staff.ask("POST", f"/api/bugs/{bug}/links", sent)[:2] == (200, one)
    after = staff.get(f"/api/bugs/{bug}")
    assert after["links"] == made
    assert after["version"] == before["version"]
    assert after["updatedAt"] > before["updatedAt"]
    for looker in (staff, *outsiders):
        assert looker.get(f"/api/bugs/{bug}/links") == {"links": made}
    for outsider in outsiders:
        assert refused(outsider, "POST", f"/api/bugs/{bug}/links", ABOUT[0])[0] == 403
        assert refused(outsider, "DELETE", f"/api/bugs/{bug}/links/{made[0]['id']}")[0] == 403
    told = [one for one in staff.get(f"/api/bugs/{bug}/history")["items"] if one["kind"] == "linked"]
    assert [(one["new"], one["old"], one["version"]) for one in told] == [
        ({"linkId": one["id"], **sent}, None, 1) for one, sent in zip(made, ABOUT, strict=True)
    ]


def test_a_link_can_be_taken_back_and_the_history_keeps_it(staff: Caller) -> None:
    bug, other = staff.report(), staff.report()
    path = f"/api/bugs/{bug}/links"
    made = staff.post(path, ABOUT[0])
    assert refused(staff, "DELETE", f"/api/bugs/{other}/links/{made['id']}")[0] == 404
    assert staff.ask("DELETE", f"{path}/{made['id']}")[:2] == (204, b"")
    assert refused(staff, "DELETE", f"{path}/{made['id']}")[0] == 404
    assert staff.get(path) == {"links": []}
    events = staff.get(f"/api/bugs/{bug}/history")["items"]
    assert [one["kind"] for one in events] == ["created", "linked", "unlinked"]
    assert events[2]["old"] == events[1]["new"] == {"linkId": made["id"], **ABOUT[0]}
    assert staff.post(path, ABOUT[0])["id"] != made["id"]


def test_related_bugs_are_seen_from_both_sides(staff: Caller) -> None:
    bug, other = staff.report(title="this"), staff.report(title="that")
    seen = {"blocks": "blockedBy", "duplicates": "duplicatedBy", "relates": "relates"}
    for relation in seen:
        made = staff.post(f"/api/bugs/{bug}/links", {"kind": "bug", "relation": relation, "bugId": other})
        assert (made["relation"], made["bugId"], made["bug"]["title"]) == (relation, other, "that")
    there = staff.get(f"/api/bugs/{other}")
    assert [one["relation"] for one in there["links"]] == list(seen.values())
    assert {one["bug"]["url"] for one in there["links"]} == {f"/api/bugs/{bug}"}
    assert (there["duplicateOf"], staff.get(f"/api/bugs/{bug}")["duplicateOf"]) == (None, other)
    back = {"kind": "bug", "relation": "relates", "bugId": bug}
    status, same, _ = staff.ask("POST", f"/api/bugs/{other}/links", back)
    assert (status, same) == (200, there["links"][2])
    told = staff.get(f"/api/bugs/{other}/history")["items"][1]
    number = staff.get(f"/api/bugs/{bug}")["number"]
    assert (told["kind"], told["new"]["relation"], told["new"]["bugId"]) == ("linked", "blockedBy", bug)
    assert told["new"]["bugNumber"] == number
    assert refused(staff, "POST", f"/api/bugs/{other}/links", back | {"relation": "blocks"})[0] == 409
    assert refused(staff, "POST", f"/api/bugs/{other}/links", back | {"relation": "duplicates"})[0] == 409
    for one in there["links"]:  # from the other end
        assert staff.ask("DELETE", f"/api/bugs/{other}/links/{one['id']}")[0] == 204
    assert staff.get(f"/api/bugs/{bug}")["links"] == []
    assert staff.get(f"/api/bugs/{bug}/history")["items"][-1]["old"]["relation"] == "relates"


def test_who_says_duplicate_may_say_of_which_bug(staff: Caller) -> None:
    bug, first, second = staff.report(), staff.report(), staff.report()
    path = f"/api/bugs/{bug}"
    for body, pointer in (
        ({"duplicateOf": first}, "#/duplicateOf"),
        ({"status": "in_progress", "duplicateOf": first}, "#/duplicateOf"),
        ({"status": "duplicate", "duplicateOf": bug}, "#/duplicateOf"),
        ({"status": "duplicate", "duplicateOf": "42"}, "#/duplicateOf"),
    ):
        assert refused(staff, "PATCH", path, body) == (422, pointer)
    assert refused(staff, "PATCH", path, {"status": "duplicate", "duplicateOf": NOBODY})[0] == 404
    assert refused(staff, "PATCH", f"/api/bugs/{NOBODY}", {"status": "duplicate", "duplicateOf": first})[0] == 404
    untouched = staff.get(path)
    assert (untouched["status"], untouched["version"], untouched["links"]) == ("open", 1, [])
    changed = staff.patch(path, {"status": "duplicate", "duplicateOf": first})
    assert (changed["status"], changed["duplicateOf"], changed["version"]) == ("duplicate", first, 2)
    assert staff.patch(path, {"duplicateOf": first})["updatedAt"] == changed["updatedAt"]
    assert staff.get(f"/api/bugs/{first}")["links"][0]["relation"] == "duplicatedBy"
    moved = staff.patch(path, {"status": "duplicate", "duplicateOf": second})
    assert (moved["duplicateOf"], len(moved["links"]), moved["version"]) == (second, 1, 3)
    assert staff.get(f"/api/bugs/{first}")["links"] == []
    assert staff.patch(path, {"status": "reopened", "duplicateOf": None})["duplicateOf"] is None
    kinds = [one["kind"] for one in staff.get(f"{path}/history")["items"]]
    assert kinds == ["created", "changed", "linked", "unlinked", "linked", "changed", "unlinked"]
    plain = staff.patch(f"/api/bugs/{first}", {"status": "duplicate"})
    assert (plain["status"], plain["duplicateOf"]) == ("duplicate", None)
    staff.patch(f"/api/bugs/{first}", {"duplicateOf": second})
    staff.patch(f"/api/bugs/{second}", {"status": "duplicate"})
    assert refused(staff, "PATCH", f"/api/bugs/{second}", {"duplicateOf": first})[0] == 409  # a circle


def test_a_linked_sample_is_kept_as_it_was_when_it_is_gone(staff: Caller, outsiders: list[Caller]) -> None:
    bug = staff.report()
    for number, sample_id in enumerate(SAMPLES[:2]):
        path = f"/api/sqal/samples/{BOX}/{quote(sample_id)}"
        sample, frame = staff.get(path), staff.get(f"{path}/frame")
        said = {"kind": "sample", "deviceId": BOX, "sampleId": sample_id}
        said |= {"deviceTime": sample["device_time"]} if number else {}
        made = staff.post(f"/api/bugs/{bug}/links", said)
        assert (made["deviceId"], made["sampleId"]) == (BOX, sample_id)
        assert staff.get(made["evidenceUrl"]) == {"sample": sample, "frame": frame}
    forget_sample(staff.server, SAMPLES[1])
    assert refused(staff, "GET", path)[0] == 404
    for looker in (staff, *outsiders):
        assert looker.get(made["evidenceUrl"]) == {"sample": sample, "frame": frame}
    assert staff.ask("POST", f"/api/bugs/{bug}/links", said)[:2] == (200, made)
    assert [one["id"] for one in staff.get(f"{path}/bugs")["items"]] == [bug]
    another = staff.report()
    status, answer, _ = staff.ask("POST", f"/api/bugs/{another}/links", said)
    assert (status, "no longer kept" in answer["detail"]) == (404, True)
    assert refused(staff, "GET", made["evidenceUrl"].replace(bug, another))[0] == 404
    of_device = staff.post(f"/api/bugs/{bug}/links", ABOUT[0])
    assert of_device["evidenceUrl"] is None
    status, answer, _ = staff.ask("GET", f"/api/bugs/{bug}/links/{of_device['id']}/evidence")
    assert (status, "no sample" in answer["detail"]) == (404, True)
    assert staff.ask("DELETE", f"/api/bugs/{bug}/links/{made['id']}")[0] == 204
    assert refused(staff, "GET", made["evidenceUrl"])[0] == 404


def test_devices_samples_and_lots_know_their_bugs(
    people: dict[Role, Caller], staff: Caller, outsiders: list[Caller]
) -> None:
    own = staff.report(deviceId="box-9", title="own")
    linked = staff.report(title="linked", severity="critical")
    for target in ({"kind": "device", "deviceId": "box-9"}, {"kind": "lot", "lot": "L 9/é"}):
        staff.post(f"/api/bugs/{linked}/links", target)
    staff.post(f"/api/bugs/{own}/links", {"kind": "sample", "deviceId": BOX, "sampleId": SAMPLES[2]})
    of_device = "/api/sqal/devices/box-9/bugs"
    for looker in (staff, *outsiders):
        newest, oldest = looker.get(of_device)["items"]
        assert newest == {
            name: staff.get(f"/api/bugs/{linked}")[name] for name in newest if name not in ("via", "url")
        } | {
            "via": "link",
            "url": f"/api/bugs/{linked}",
        }
        assert (oldest["id"], oldest["via"], oldest["title"]) == (own, "device", "own")
        assert looker.get("/api/sqal/devices/nobody/bugs") == {"items": [], "nextCursor": None}
    page = staff.get(f"{of_device}?limit=1")
    following = staff.get(f"{of_device}?limit=1&cursor={page['nextCursor']}")
    assert ([page["items"][0], following["items"][0]], following["nextCursor"]) == ([newest, oldest], None)
    of_sample = staff.get(f"/api/sqal/samples/{BOX}/{quote(SAMPLES[2])}/bugs")["items"]
    assert [(one["id"], one["via"]) for one in of_sample] == [(own, "link")]
    time = "2020-01-01T00:00:00Z"
    assert staff.get(f"/api/sqal/samples/{BOX}/{quote(SAMPLES[2])}/bugs?device_time={time}")["items"] == []
    assert staff.get(f"/api/sqal/samples/{BOX}/LL/260202/none/bugs")["items"] == []
    assert [one["id"] for one in staff.get(f"/api/sqal/lots/{quote('L 9/é')}/bugs")["items"]] == [linked]
    for wrong, status in (
        (f"{of_device}?limit=0", 422),
        (f"{of_device}?cursor=nonsense", 400),
        (f"{of_device}?limit=1&limit=2", 422),
        ("/api/sqal/devices/%00/bugs", 422),
        ("/api/sqal/lots/%00/bugs", 422),
        (f"/api/sqal/samples/{BOX}/%00/bugs", 422),
        (f"/api/sqal/samples/{BOX}/s/bugs?device_time=soon", 422),
    ):
        assert refused(staff, "GET", wrong)[0] == status, wrong
    assert refused(people[Role.DEVICE], "GET", of_device)[0] == 403


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/kind"),
        ([], "#"),
        ({"kind": "spaceship"}, "#/kind"),
        ({"kind": {"a": "{b}"}}, "#/kind"),
        ({"kind": "device"}, "#/deviceId"),
        ({"kind": "device", "deviceId": BOX, "lot": "L"}, "#/lot"),
        ({"kind": "device", "deviceId": "a\x00b"}, "#/deviceId"),
        ({"kind": "device", "deviceId": "\ud800"}, "#/deviceId"),
        ({"kind": "device", "deviceId": " "}, "#/deviceId"),
        ({"kind": "device", "deviceId": "x" * 129}, "#/deviceId"),
        ({"kind": "device", "deviceId": 7}, "#/deviceId"),
        ({"kind": "firmware", "firmware": "v" * 65}, "#/firmware"),
        ({"kind": "lot", "lot": None}, "#/lot"),
        ({"kind": "sample", "deviceId": BOX}, "#/sampleId"),
        ({"kind": "sample", "deviceId": BOX, "sampleId": "a\x00"}, "#/sampleId"),
        ({"kind": "sample", "deviceId": BOX, "sampleId": "s", "deviceTime": "soon"}, "#/deviceTime"),
        ({"kind": "sample", "deviceId": BOX, "sampleId": "s", "deviceTime": 10**30}, "#/deviceTime"),
        ({"kind": "sample", "deviceId": BOX, "sampleId": "s", "deviceTime": "0001-01-01T00:00:00+14:00"}, "#/deviceTime"),
        ({"kind": "sample", "deviceId": BOX, "sampleId": "s", "deviceTime": "9999-12-31T23:59:59Z"}, "#/deviceTime"),
        ({"kind": "bug", "relation": "hates", "bugId": NOBODY}, "#/relation"),
        ({"kind": "bug", "relation": "blockedBy", "bugId": NOBODY}, "#/relation"),
        ({"kind": "bug", "relation": "blocks", "bugId": "42"}, "#/bugId"),
        ({"kind": "bug", "bugId": NOBODY}, "#/relation"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_link_is_pointed_at(staff: Caller, body: Any, pointer: str) -> None:
    assert refused(staff, "POST", f"/api/bugs/{NOBODY}/links", body) == (422, pointer)


def test_links_to_itself_to_nobody_and_of_nobody_are_refused(staff: Caller) -> None:
    bug = staff.report()
    path = f"/api/bugs/{bug}/links"
    related = {"kind": "bug", "relation": "relates", "bugId": bug}
    assert refused(staff, "POST", path, related) == (422, "#/bugId")
    assert refused(staff, "POST", path, related | {"bugId": NOBODY})[0] == 404
    assert refused(staff, "POST", path, {"kind": "sample", "deviceId": BOX, "sampleId": "no"})[0] == 404
    for one in (*ABOUT, related, {"kind": "sample", "deviceId": BOX, "sampleId": SAMPLES[0]}):
        assert refused(staff, "POST", f"/api/bugs/{NOBODY}/links", one)[0] == 404
    for method, where in (("GET", ""), ("DELETE", f"/{NOBODY}"), ("GET", f"/{NOBODY}/evidence")):
        assert refused(staff, method, f"/api/bugs/{NOBODY}/links{where}")[0] == 404
    for method, where in (("DELETE", "/7"), ("GET", "/%00/evidence")):
        assert refused(staff, method, f"{path}{where}")[0] == 422
    assert staff.get(path) == {"links": []}


def test_the_kinds_of_links_are_told_apart_in_the_document(staff: Caller) -> None:
    document = staff.get("/openapi.json")
    draft = document["components"]["schemas"]["LinkDraft"]
    assert draft["discriminator"]["propertyName"] == "kind"
    assert set(draft["discriminator"]["mapping"]) == {"device", "firmware", "lot", "sample", "bug"}
    assert len(draft["oneOf"]) == 5
    posted = document["paths"]["/api/bugs/{bug_id}/links"]["post"]
    assert posted["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/LinkDraft"}
    assert {"200", "201", "409", "422"} <= set(posted["responses"])
