"""One suite for every store of attachments: a folder, a bucket (as far as it is spoken to), and memory."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from obstore.store import MemoryStore

from app.bugs.attachment_store import (
    FOLDER,
    PART_BYTES,
    AttachmentStore,
    AttachmentsUnavailableError,
    S3Access,
    new_key,
)
from app.core.errors import CannotStartError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGE = os.urandom(1 << 20) * 6  # two parts
assert len(LARGE) > PART_BYTES


class Bucket(BaseHTTPRequestHandler):
    """What of S3 is spoken here, held in memory: objects, parts that are not put together yet."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]
    parts: dict[str, dict[int, bytes]]

    def log_message(self, *_arguments: Any) -> None:
        pass

    def answer(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def asked(self) -> tuple[str, dict[str, str], bytes]:
        assert self.headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=key/")
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        return unquote(url.path), query, self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_PUT(self) -> None:
        path, query, body = self.asked()
        if "uploadId" in query:
            self.parts[query["uploadId"]][int(query["partNumber"])] = body
        else:
            self.objects[path] = body
        self.answer(ETag='"x"')

    def do_POST(self) -> None:
        path, query, body = self.asked()
        if "uploads" in query:
            self.parts[path] = {}
            self.answer(
                body=f"<InitiateMultipartUploadResult><UploadId>{path}</UploadId></InitiateMultipartUploadResult>".encode()
            )
        elif "delete" in query:
            gone = [key.partition("<")[0] for key in body.decode().split("<Key>")[1:]]
            for key in gone:
                self.objects.pop(f"/bucket/{key}", None)
            told = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in gone)
            self.answer(body=f"<DeleteResult>{told}</DeleteResult>".encode())
        else:
            parts = self.parts.pop(query["uploadId"])
            self.objects[path] = b"".join(parts[number] for number in sorted(parts))
            self.answer(body=b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")

    def do_GET(self) -> None:
        path, query, _ = self.asked()
        if "list-type" in query:
            found = [
                name.removeprefix("/bucket/") for name in self.objects if name.startswith(f"/bucket/{query['prefix']}")
            ]
            listed = "".join(
                f"<Contents><Key>{name}</Key><Size>{len(self.objects[f'/bucket/{name}'])}</Size>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>x</ETag></Contents>"
                for name in found
            )
            self.answer(body=f"<ListBucketResult><IsTruncated>false</IsTruncated>{listed}</ListBucketResult>".encode())
        elif path in self.objects:
            body = self.objects[path]
            self.answer(200, body, ETag='"x"', Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")
        else:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    do_HEAD = do_GET  # noqa: N815 - what the base class looks for

    def do_DELETE(self) -> None:
        path, _, _ = self.asked()
        self.objects.pop(path, None)
        self.answer(204)


@pytest.fixture
def bucket() -> Iterator[type[Bucket]]:
    """Its handler; `endpoint` is where it serves."""
    held = type("Held", (Bucket,), {"objects": {}, "parts": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), held)
    server.daemon_threads = True
    held.endpoint = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    serving = threading.Thread(target=server.serve_forever, args=(0.02,))
    serving.start()
    yield held
    server.shutdown()
    server.server_close()
    serving.join()


@pytest.fixture(params=["folder", "bucket", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> AttachmentStore:
    if request.param == "folder":
        return AttachmentStore.in_folder(tmp_path / "attachments")
    if request.param == "memory":
        return AttachmentStore(MemoryStore())
    served = request.getfixturevalue("bucket")
    access = S3Access(served.endpoint, access_key="key", secret_key="secret")
    return AttachmentStore.in_bucket("bucket", "some/prefix", access)


async def put(store: AttachmentStore, content: bytes) -> str:
    writing = store.write(new_key())
    for at in range(0, len(content), 1 << 18):
        await writing.write(content[at : at + (1 << 18)])
    await writing.close()
    return writing.key


async def keys(store: AttachmentStore) -> list[str]:
    return [one.key async for page in store.pages() for one in page]


async def fetched(store: AttachmentStore, key: str, size: int) -> bytes:
    return b"".join([chunk async for chunk in await store.read(key, size)])


@pytest.mark.parametrize("content", [b"x", LARGE], ids=["small", "large"])
async def test_what_was_written_is_read_and_listed_until_it_is_deleted(store: AttachmentStore, content: bytes) -> None:
    key = await put(store, content)
    assert await fetched(store, key, len(content)) == content
    assert await keys(store) == [key]
    assert await store.has(key)
    await store.delete(key)
    assert not await store.has(key)
    assert await keys(store) == []
    await store.delete(key)  # once more does nothing


async def test_many_are_deleted_at_once_and_no_others(store: AttachmentStore) -> None:
    made = [await put(store, b"x") for _ in range(3)]
    await store.delete_all(made[:2])
    assert await keys(store) == made[2:]


@pytest.mark.parametrize("content", [b"x", LARGE], ids=["small", "large"])
async def test_a_write_that_is_given_up_leaves_nothing(store: AttachmentStore, content: bytes, tmp_path: Path) -> None:
    writing = store.write(new_key())
    await writing.write(content)
    await writing.discard()
    assert await keys(store) == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]  # noqa: ASYNC240


async def test_what_is_gone_or_not_whole_is_never_read(store: AttachmentStore) -> None:
    with pytest.raises(AttachmentsUnavailableError):
        await store.read(new_key(), 1)
    key = await put(store, b"xyz")
    with pytest.raises(AttachmentsUnavailableError):
        await store.read(key, 4)


async def test_a_given_up_upload_leaves_no_parts_in_a_bucket(bucket: Any) -> None:
    access = S3Access(bucket.endpoint, access_key="key", secret_key="secret")
    store = AttachmentStore.in_bucket("bucket", "", access)
    writing = store.write(new_key())
    await writing.write(LARGE)
    await writing.discard()
    assert (bucket.objects, bucket.parts) == ({}, {})


async def test_a_bucket_that_is_away_is_unavailable(bucket: Any) -> None:
    access = S3Access("http://127.0.0.1:9", access_key="key", secret_key="secret")
    store = AttachmentStore.in_bucket("bucket", "", access)
    with pytest.raises(AttachmentsUnavailableError):
        await store.has(new_key())
    with pytest.raises(AttachmentsUnavailableError):
        await put(store, b"x")
    await store.delete(new_key())  # left to the sweep


async def test_a_folder_is_its_owners_alone_and_unfinished_files_go_when_they_are_old(tmp_path: Path) -> None:
    folder = tmp_path / "attachments"
    store = AttachmentStore.in_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    unfinished = [folder / FOLDER / f"{new_key().partition('/')[2]}#{n}" for n in (1, 2)]
    stranger = folder / FOLDER / "notes.txt"
    for path in (*unfinished, stranger):
        path.write_bytes(b"x")
    for path in (unfinished[0], stranger):
        os.utime(path, (0, time.time() - 7_200))
    assert await store.forget_unfinished(datetime.now(UTC) - timedelta(hours=1)) == 1
    assert sorted(path.name for path in (folder / FOLDER).iterdir()) == sorted([unfinished[1].name, "notes.txt"])
    assert await keys(store) == []


def test_a_folder_that_is_somebody_elses_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume as Kubernetes hands it out: root's, writable by our group."""
    tmp_path.chmod(0o2777)
    somebody_else = tmp_path.stat().st_uid + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody_else)
    AttachmentStore.in_folder(tmp_path)
    assert tmp_path.stat().st_mode & 0o7777 == 0o2777
    assert (tmp_path / FOLDER).stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CannotStartError, match=r"folder of attachments .*file.* cannot be used"):
        AttachmentStore.in_folder(tmp_path / "file")
