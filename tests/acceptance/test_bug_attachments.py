"""Files of bugs, against a real process: in, out, away; who sees them; what a hostile client meets; what is left over."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import httpx
import psutil
import pytest

from app.core.clock import SystemClock
from app.core.embedded_postgres import EmbeddedPostgres
from app.core.security import Role, create_key
from app.settings import BadSettings, load_settings
from tests.bug_client import Caller
from tests.support import Server, running_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1024 * 1024
PATIENCE_S = 60.0
LIMITS = {
    "BUG_ATTACHMENT_BYTES": str(64 * MIB),
    "BUG_ATTACHMENTS_PER_BUG": "3",
    "BUG_UPLOADS_AT_ONCE": "2",
    "UPLOAD_IDLE_S": "5",
}
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server(**LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def staff(server: Server) -> Caller:
    return Caller(server)


@pytest.fixture(scope="module")
def reporter(server: Server) -> Caller:
    return with_role(server, Role.REPORTER)


@pytest.fixture(scope="module")
def viewer(server: Server) -> Caller:
    return with_role(server, Role.VIEWER)


def with_role(server: Server, role: Role) -> Caller:
    async def make() -> str:
        connection: Any = await asyncpg.connect(EmbeddedPostgres(server.folder).dsn)
        try:
            return await create_key(connection, SystemClock(), "test", role)
        finally:
            await connection.close()

    return Caller(server, asyncio.run(make()))


@pytest.fixture
def bug(staff: Caller) -> str:
    return f"/api/bugs/{staff.report()}"


def upload(who: Caller, path: str, name: str = "a.txt", content: bytes = b"hello") -> httpx.Response:
    """As `curl -F file=@a.txt` does it."""
    headers = {"Authorization": f"Bearer {who.key}"} if who.key else {}
    return httpx.post(who.server.url + path, files={"file": (name, content)}, headers=headers, timeout=PATIENCE_S)


def attached(who: Caller, path: str, name: str = "a.txt", content: bytes = b"hello") -> dict[str, Any]:
    answer = upload(who, path, name, content)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def stored(server: Server) -> set[Path]:
    return {path for path in (server.folder / "attachments").rglob("*") if path.is_file()}


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it comes true: another process does it."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return False


async def object_keys(server: Server) -> dict[str, str]:
    """Of every attachment, by its id."""
    connection = await asyncpg.connect(EmbeddedPostgres(server.folder).dsn)
    try:
        rows = await connection.fetch("SELECT id, object_key FROM bug_attachments")
    finally:
        await connection.close()
    return {str(row["id"]): row["object_key"] for row in rows}


@pytest.mark.parametrize("raw", [False, True])
def test_a_file_comes_out_as_it_went_in_to_be_saved_and_never_shown(staff: Caller, bug: str, raw: bool) -> None:
    content, name = "température <b>\n".encode() * 1_000, 'mesure №1 "été".log'
    if raw:
        answer = httpx.post(
            staff.server.url + bug + "/attachments", params={"fileName": name}, content=content, timeout=PATIENCE_S
        )
    else:
        answer = upload(staff, bug + "/attachments", name.replace('"', ""), content)
        name = name.replace('"', "")
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert answer.headers["location"] == made["url"]
    digest = hashlib.sha256(content)
    assert (
        made | {"fileName": name, "sizeBytes": len(content), "sha256": digest.hexdigest(), "isInternal": False} == made
    )
    given = httpx.get(staff.server.url + made["url"], timeout=PATIENCE_S)
    assert (given.status_code, given.content) == (200, content)
    expected = {
        "content-type": "text/plain; charset=utf-8",
        "content-length": str(len(content)),
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'",
        "cache-control": "private, no-store",
        "etag": f'"{digest.hexdigest()}"',
        "repr-digest": f"sha-256=:{base64.b64encode(digest.digest()).decode()}:",
    }
    assert {header: given.headers[header] for header in expected} == expected
    disposition = given.headers["content-disposition"]
    assert disposition.startswith('attachment; filename="mesure _1 ')
    assert "filename*=UTF-8''mesure%20%E2%84%961%20" in disposition
    assert staff.get(bug + "/attachments") == {"attachments": [made], "total": 1, "limit": 100, "nextCursor": None}
    assert staff.get(bug)["attachmentCount"] == 1


def test_a_deleted_file_is_gone_but_for_the_history_that_tells_of_it(staff: Caller, bug: str) -> None:
    before = stored(staff.server)
    made = attached(staff, bug + "/attachments")
    assert staff.ask("DELETE", made["url"])[0] == 204
    assert [staff.ask(method, made["url"])[0] for method in ("GET", "DELETE")] == [404, 404]
    assert stored(staff.server) == before
    told = [(one["kind"], one["old"], one["new"]) for one in staff.get(bug + "/history")["items"][1:]]
    file = {name: made[name] for name in ("commentId", "fileName", "sizeBytes", "sha256")} | {
        "attachmentId": made["id"]
    }
    assert told == [("attached", None, file), ("detached", file, None)]
    assert staff.get(bug)["updatedAt"] > staff.get(bug)["createdAt"]


def test_pages_of_attachments_follow_each_other(staff: Caller, bug: str) -> None:
    made = [attached(staff, bug + "/attachments")["id"] for _ in range(3)]
    first = staff.get(bug + "/attachments?limit=2")
    second = staff.get(bug + f"/attachments?limit=2&cursor={first['nextCursor']}")
    assert [one["id"] for page in (first, second) for one in page["attachments"]] == made
    assert (first["total"], second["total"], second["nextCursor"]) == (3, 3, None)


def test_outsiders_see_no_trace_of_what_hangs_on_an_internal_comment(
    staff: Caller, reporter: Caller, viewer: Caller, bug: str
) -> None:
    public = staff.post(bug + "/comments", {"comment": "seen"})["id"]
    internal = staff.post(bug + "/comments", {"comment": "unseen", "isInternal": True})["id"]
    attached(reporter, f"{bug}/comments/{public}/attachments")
    paths = [bug, bug + "/history", bug + "/attachments", "/api/bugs/", f"{bug}/comments/{public}/attachments"]

    def seen(who: Caller) -> list[Any]:
        answers = [who.ask("GET", path) for path in paths]
        for _, body, _ in answers:
            for one in (body, *body.get("bugs", ())):
                one.pop("sla", None)  # its time goes on
        return [(status, body, headers.get("etag")) for status, body, headers in answers]

    before = [seen(reporter), seen(viewer)]
    hidden = [
        attached(staff, f"{bug}/comments/{internal}/attachments"),
        attached(staff, bug + "/attachments?internal=true"),
    ]
    assert all(one["isInternal"] for one in hidden)
    assert [seen(reporter), seen(viewer)] == before
    assert len(staff.get(bug + "/attachments")["attachments"]) == 3
    assert staff.get(bug)["attachmentCount"] == 3
    for who in (reporter, viewer):
        assert {who.ask("GET", one["url"])[0] for one in hidden} == {404}
        assert who.ask("GET", f"{bug}/comments/{internal}/attachments")[0] == 404
    assert {reporter.ask("DELETE", one["url"])[0] for one in hidden} == {404}
    assert upload(reporter, f"{bug}/comments/{internal}/attachments").status_code == 404
    assert upload(reporter, bug + "/attachments?internal=true").status_code == 403
    staff.ask("DELETE", hidden[0]["url"])
    assert [seen(reporter), seen(viewer)] == before


def test_internal_files_take_no_room_of_the_others(staff: Caller, bug: str) -> None:
    for _ in range(3):
        attached(staff, bug + "/attachments?internal=true")
    assert upload(staff, bug + "/attachments?internal=true").status_code == 409
    for _ in range(3):
        attached(staff, bug + "/attachments")
    full = upload(staff, bug + "/attachments")
    assert (full.status_code, full.json()["code"]) == (409, "conflict")


def test_who_may_attach_and_take_away(staff: Caller, reporter: Caller, viewer: Caller, bug: str) -> None:
    of_staff, of_reporter = attached(staff, bug + "/attachments"), attached(reporter, bug + "/attachments")
    assert upload(viewer, bug + "/attachments").status_code == 403
    assert viewer.ask("DELETE", of_reporter["url"])[0] == 403
    assert reporter.ask("DELETE", of_staff["url"])[0] == 403
    assert viewer.ask("GET", of_staff["url"])[1] == b"hello"
    assert reporter.ask("DELETE", of_reporter["url"])[0] == 204
    nobody = httpx.post(
        staff.server.url + bug + "/attachments", files={"file": ("a.txt", b"x")}, headers={"X-API-Key": "no"},
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert nobody.status_code == 401


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("a.txt", SVG, 415), ("a.png", b"PK\x03\x04", 415), ("a.svg", SVG, 415), ("a.bin", b"MZ", 415), ("a.txt", b"", 422),
        ("x" * 10_000 + ".txt", b"x", 422), ("", b"x", 422), ("noextension", b"x", 415),
    ],
)  # fmt: skip
def test_what_is_not_taken_is_refused_with_a_reason_and_leaves_nothing(
    staff: Caller, bug: str, name: str, content: bytes, status: int
) -> None:
    before = stored(staff.server)
    for answer in (
        upload(staff, bug + "/attachments", name, content),
        httpx.post(
            staff.server.url + bug + "/attachments", params={"fileName": name}, content=content, timeout=PATIENCE_S
        ),
    ):
        assert (answer.status_code, len(answer.json()["detail"]) > 10) == (status, True), answer.text
    assert stored(staff.server) == before
    assert staff.get(bug + "/attachments")["total"] == 0


@pytest.mark.parametrize(
    "name", ["../../etc/passwd.txt", "..\\..\\passwd.txt", "a\r\nX-Bad: 1\r\n\r\n.txt", "\u202etxt.exe.txt"]
)
def test_a_hostile_name_is_only_ever_text(staff: Caller, bug: str, name: str) -> None:
    answer = httpx.post(
        staff.server.url + bug + "/attachments", params={"fileName": name}, content=b"x", timeout=PATIENCE_S
    )
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["fileName"] in ("passwd.txt", "aX-Bad: 1.txt", "txt.exe.txt")
    given = httpx.get(staff.server.url + made["url"], timeout=PATIENCE_S)
    assert (given.status_code, given.content, "x-bad" in given.headers) == (200, b"x", False)


def test_unknown_places_are_told_before_a_byte_is_read(staff: Caller, bug: str) -> None:
    assert upload(staff, f"/api/bugs/{uuid4()}/attachments").status_code == 404
    assert upload(staff, f"{bug}/comments/{uuid4()}/attachments").status_code == 404
    assert upload(staff, "/api/bugs/x/attachments").status_code == 422
    for path in (
        f"/api/bugs/{uuid4()}/attachments",
        f"{bug}/comments/{uuid4()}/attachments",
        f"{bug}/attachments/{uuid4()}",
    ):
        assert staff.ask("GET", path)[0] == 404
    nameless = httpx.post(staff.server.url + bug + "/attachments", content=b"x", timeout=PATIENCE_S)
    assert nameless.status_code == 415
    assert upload(staff, bug + "/attachments?fileName=a.txt").status_code == 422


def raw_request(server: Server, path: str, sent: bytes, **headers: str) -> socket.socket:
    """The beginning of an upload, by hand."""
    peer = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
    told = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    peer.sendall(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{told}\r\n".encode() + sent)
    return peer


def status_of(peer: socket.socket) -> int:
    with peer, peer.makefile("rb") as answer:
        return int(answer.readline().split()[1])


def test_too_large_is_told_at_once_or_as_soon_as_it_is(staff: Caller, bug: str) -> None:
    before = stored(staff.server)
    path = bug + "/attachments?fileName=a.bin"
    assert status_of(raw_request(staff.server, path, b"", Content_Length=str(65 * MIB))) == 413
    chunk = b"%x\r\n" % MIB + bytes(MIB) + b"\r\n"
    with raw_request(staff.server, path, b"", Transfer_Encoding="chunked") as peer:
        with contextlib.suppress(OSError):
            for _ in range(66):
                peer.sendall(chunk)
        assert status_of(peer) == 413
    assert eventually(lambda: stored(staff.server) == before)
    elsewhere = raw_request(
        staff.server, bug + "/comments", b"", Content_Length=str(300_000), Content_Type="application/json"
    )
    assert status_of(elsewhere) == 413  # the exception is for uploads alone


def at_once(how_many: int, who: Caller, bug: str) -> list[int]:
    """What so many uploads are answered that come together."""
    with ThreadPoolExecutor(how_many) as pool:
        return list(pool.map(lambda _: upload(who, bug + "/attachments").status_code, range(how_many)))


def test_clients_that_stall_or_go_are_given_up_and_leave_nothing(staff: Caller, bug: str) -> None:
    before, path = stored(staff.server), bug + "/attachments?fileName=a.bin"
    sent = b"\xe9" * 100_000
    stalling = [raw_request(staff.server, path, sent, Content_Length=str(MIB)) for _ in range(2)]
    assert eventually(lambda: 503 in at_once(5, staff, bug))  # no place for a third, and two wait for one
    assert [status_of(one) for one in stalling] == [408, 408]
    raw_request(staff.server, path, sent, Content_Length=str(MIB)).close()
    assert eventually(lambda: upload(staff, bug + "/attachments").status_code in (201, 409))
    assert eventually(lambda: len(stored(staff.server)) - len(before) == staff.get(bug + "/attachments")["total"])
    assert staff.server.get("/health/ready")


def test_a_file_that_finds_its_place_taken_when_it_is_here_is_refused_and_deleted(staff: Caller, bug: str) -> None:
    for _ in range(2):
        attached(staff, bug + "/attachments")
    before = stored(staff.server)
    late = raw_request(
        staff.server, bug + "/attachments?fileName=a.bin", b"\xe9" * 12 * MIB, Content_Length=str(12 * MIB + 2)
    )
    assert eventually(lambda: any("#" in path.name for path in stored(staff.server) - before))
    late.sendall(b"x")  # the time that it may be silent begins anew
    attached(staff, bug + "/attachments")
    late.sendall(b"x")
    assert status_of(late) == 409
    assert eventually(lambda: len(stored(staff.server)) == len(before) + 1)


def test_a_missing_object_is_a_clear_answer_and_never_half_a_file(staff: Caller, bug: str) -> None:
    before = stored(staff.server)
    made = attached(staff, bug + "/attachments")
    (path,) = stored(staff.server) - before
    path.write_bytes(b"hell")
    assert staff.ask("GET", made["url"])[0] == 503
    path.unlink()
    status, body, _ = staff.ask("GET", made["url"])
    assert (status, body["code"]) == (503, "attachments_unavailable")
    assert staff.ask("DELETE", made["url"])[0] == 204


def test_a_store_that_takes_nothing_is_unavailable_and_nothing_else(staff: Caller, bug: str) -> None:
    folder = staff.server.folder / "attachments"
    folder.rename(folder.with_name("away"))
    folder.write_bytes(b"")  # also for root no folder
    try:
        answer = upload(staff, bug + "/attachments")
        assert (answer.status_code, answer.json()["code"]) == (503, "attachments_unavailable")
        assert staff.get(bug)["attachmentCount"] == 0
    finally:
        folder.unlink()
        folder.with_name("away").rename(folder)
    attached(staff, bug + "/attachments")


def test_a_large_file_passes_through_in_bounded_memory_both_ways(staff: Caller, bug: str) -> None:
    block = b"\xe9" + os.urandom(MIB - 1)
    process = psutil.Process(staff.server.running.pid)
    base, peak, done = process.memory_info().rss, 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, process.memory_info().rss - base)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        answer = httpx.post(
            staff.server.url + bug + "/attachments",
            params={"fileName": "a.bin"},
            content=(block for _ in range(64)),
            timeout=PATIENCE_S,
        )
        assert answer.status_code == 201, answer.text
        digest = hashlib.sha256()
        with httpx.stream("GET", staff.server.url + answer.json()["url"], timeout=PATIENCE_S) as given:
            for chunk in given.iter_bytes():
                digest.update(chunk)
    finally:
        done.set()
        watching.join()
    assert digest.hexdigest() == hashlib.sha256(block * 64).hexdigest() == answer.json()["sha256"]
    assert peak < 48 * MIB


def test_a_crash_leaves_orphans_that_the_sweep_takes_and_nothing_else(server: Server, staff: Caller, bug: str) -> None:
    kept, lost = attached(staff, bug + "/attachments"), attached(staff, bug + "/attachments")
    folder = server.folder / "attachments"
    objects = {id_: folder / key for id_, key in asyncio.run(object_keys(server)).items()}
    peer = raw_request(server, bug + "/attachments?fileName=a.bin", b"\xe9" * 12 * MIB, Content_Length=str(20 * MIB))
    assert eventually(lambda: any("#" in path.name for path in stored(server)))  # in the middle of a write
    server.kill()
    peer.close()
    orphan, young = (folder / "bugs" / uuid4().hex for _ in range(2))
    for path in (orphan, young):
        path.write_bytes(b"x")  # as when a process dies between an object and its row
    long_ago = time.time() - 7_200
    for path in stored(server) - {young}:
        os.utime(path, (long_ago, long_ago))
    objects.pop(lost["id"]).unlink()
    server.start()
    assert eventually(lambda: stored(server) == {*objects.values(), young})
    assert eventually(lambda: "bug_attachment_orphans_swept_total 1" in server.request("/metrics")[1].decode())
    assert eventually(lambda: lost["id"] in server.log())
    assert staff.ask("GET", kept["url"])[1] == b"hello"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"bug_attachments_url": "http://x"}, "BUG_ATTACHMENTS_URL: must look like s3://bucket"),
        ({"bug_attachments_url": "s3://bucket", "bug_attachments_dir": "/tmp/x"}, "do not go together"),
        ({"bug_attachments_s3_region": "eu-west-1"}, "BUG_ATTACHMENTS_S3_REGION needs BUG_ATTACHMENTS_URL"),
        ({"bug_attachments_url": "s3://bucket", "bug_attachments_s3_access_key": "x"}, "go together"),
        (
            {"bug_attachments_url": "s3://bucket", "bug_attachments_s3_endpoint": "ftp://x"},
            "must look like https://host",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused_in_one_line(given: dict[str, str], line: str) -> None:
    with pytest.raises(BadSettings) as refused:
        load_settings(**given)
    assert line in refused.value.line
    assert "\n" not in refused.value.line
