"""What may be attached is told by name and content together; and how a hostile form, or a client that stalls, ends."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore

from app.bugs.attachment_kinds import HEAD, KINDS, MAX_NAME, Inspector, is_markup, kind_of, shown_name
from app.bugs.attachment_store import AttachmentStore, Writing
from app.bugs.upload_places import MOST_OF_ONE, TooManyUploadsError, UploadPlaces
from app.bugs.uploads import FormBody, RawBody, StalledError, Uploads, body_of
from app.core.errors import AppError, BadRequestError, DrainingError, TooLargeError, UnsupportedMediaError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
GOOD = {
    "png": b"\x89PNG\r\n\x1a\n....", "jpg": b"\xff\xd8\xff\xe0", "jpeg": b"\xff\xd8\xff\xe1",
    "webp": b"RIFF\x10\0\0\0WEBPVP8 ", "gif": b"GIF89a..", "pdf": b"%PDF-1.7", "txt": "été <b>".encode(), "log": b"a < b",
    "csv": b"a;b\n1;2", "json": b"{}", "jsonl": b"{}\n{}", "md": b"# title\n<b>", "hex": b":10000000", "zip": b"PK\x03\x04..",
    "gz": b"\x1f\x8b\x08\0", "bin": b"\xe9\x03\x02\x20\0", "elf": b"\x7fELF\x01", "pcap": b"\xd4\xc3\xb2\xa1..",
    "pcapng": b"\x0a\x0d\x0d\x0a\x1c\0\0\0", "parquet": b"PAR1....",
}  # fmt: skip


def inspect(name: str, content: bytes, step: int = HEAD) -> None:
    inspector = Inspector(name)
    inspector.begin(content[:HEAD])
    for at in range(0, len(content), step):
        inspector.feed(content[at : at + step])
    inspector.finish()


def test_every_kind_that_is_taken_is_taken_by_its_own_content_in_any_case() -> None:
    assert GOOD.keys() == KINDS.keys()
    for extension, content in GOOD.items():
        inspect(f"a.{extension}", content)
        inspect(f"A.B.{extension.upper()}", content)


@pytest.mark.parametrize(
    "name", ["a.svg", "a.html", "a.htm", "a.xml", "a.exe", "a.js", "a.txt.svg", "png", ".png", "a.", "a", "a.png "]
)
def test_no_other_extension_is_taken(name: str) -> None:
    with pytest.raises(UnsupportedMediaError, match="png, jpg"):
        kind_of(name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", GOOD["zip"]), ("a.zip", GOOD["png"]), ("a.jpg", GOOD["png"]), ("a.webp", b"RIFF\x10\0\0\0WAVE"),
        ("a.webp", b"XXXX\x10\0\0\0WEBP"), ("a.txt", SVG), ("a.txt", b"\xef\xbb\xbf \n" + SVG), ("a.md", b"<!DocType HTML>"),
        ("a.log", b"<?XML version='1.0'?>"), ("a.json", b"\n\n<HTML>"), ("a.csv", b"<script>"), ("a.bin", SVG),
        ("a.bin", SVG.decode().encode("utf-16")), ("a.bin", SVG.decode().encode("utf-32")), ("a.bin", b"MZ\x90\0"),
        ("a.bin", b"\x7fELF"), ("a.bin", b"#!/bin/sh"), ("a.txt", b"a\0b"), ("a.txt", b"\xff\xfea\0"), ("a.txt", b"caf\xe9"),
        ("a.log", b"<!-- a --> <!-- b --><svg>"), ("a.log", b"<!-- never closed " + b"x" * HEAD + SVG), ("a.elf", b"MZ"),
        ("a.txt", b"x" * 2 * HEAD + b"\0"), ("a.txt", b"x" * 2 * HEAD + b"\xc3"), ("a.gz", b"\x1f\x8b"),
    ],
)  # fmt: skip
def test_content_that_is_not_what_its_name_says_is_refused(name: str, content: bytes) -> None:
    with pytest.raises(UnsupportedMediaError, match="its content"):
        inspect(name, content)


@given(st.text(max_size=50), st.integers(1, 7))
def test_a_text_is_read_whole_wherever_it_is_cut(said: str, step: int) -> None:
    content = ("#" + said.replace("\0", "")).encode(errors="replace")
    inspect("a.txt", content, step)


@pytest.mark.parametrize(
    "tag",
    ["html", "head", "script", "iframe", "h1", "div", "font", "table", "a", "style", "title", "b", "body", "br", "p", "svg",
     "xml", "img"],
)  # fmt: skip
def test_a_text_that_begins_as_a_page_does_is_markup(tag: str) -> None:
    for said in (f"<{tag}>", f"<{tag.upper()} x=1>", f"<{tag}/onload=x>", f"<{tag}\n>", " \n" * 30_000 + f"<{tag}>"):
        assert is_markup(said.encode()), said.strip()
    with pytest.raises(UnsupportedMediaError, match="markup"):
        inspect("a.csv", b"\xef\xbb\xbf" + b" " * 20_000 + f"<{tag}>".encode())


@pytest.mark.parametrize("said", ["<!-- a -->", "<!DOCTYPE html>", "<?xml version='1.0'?>"])
def test_a_text_that_begins_with_a_comment_or_declaration_is_markup(said: str) -> None:
    assert is_markup(said.encode())
    assert is_markup("\ufeff".encode() + said.encode())


@pytest.mark.parametrize(
    "said", ["<battery> 3.2 V", "<13>Nov 24 esp32: boot", "a <p> and <b>", "<", "<alert", "", " " * HEAD]
)
def test_a_text_that_only_holds_brackets_is_none(said: str) -> None:
    assert not is_markup(said.encode())


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("../../etc/passwd", "passwd"), ("C:\\dumps\\a.bin", "a.bin"), ("a\r\nSet-Cookie: x.txt", "aSet-Cookie: x.txt"),
        ("exe\u202egpj.txt", "exegpj.txt"), ("a\ud800.log", "a.log"), ("a\0.png", "a.png"), (" été №1.txt ", "été №1.txt"),
    ],
)  # fmt: skip
def test_of_a_name_the_last_part_is_kept_without_what_could_deceive(said: str, shown: str) -> None:
    assert shown_name(said) == shown


@pytest.mark.parametrize("said", ["", "/", "a/", "\0", "   ", "x" * (MAX_NAME + 1)])
def test_a_name_that_says_nothing_or_too_much_is_refused(said: str) -> None:
    with pytest.raises(BadRequestError):
        shown_name(said)


def form(*parts: tuple[str, bytes], end: bytes = b"--B--\r\n") -> bytes:
    said = [
        b"--B\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + body + b"\r\n"
        for head, body in parts
    ]
    return b"".join(said) + end


FILE = 'name="file"; filename="a.bin"'


def read_form(body: bytes, step: int = 1 << 16) -> tuple[str | None, bytes]:
    parsed = FormBody(b"B")
    content = b"".join(parsed.feed(body[at : at + step]) for at in range(0, len(body), step))
    parsed.finish()
    return parsed.file_name, content


@given(st.binary(max_size=200), st.integers(1, 40))
def test_a_form_gives_its_file_wherever_it_is_cut(content: bytes, step: int) -> None:
    content = content.replace(b"\r\n--B", b"")
    assert read_form(form((FILE, content)), step) == ("a.bin", content)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"not a form", form(), form((FILE, b"x"), end=b""), form((FILE, b"x"), (FILE, b"y")), form(('name="file"', b"x")),
        form(('name="other"; filename="a.bin"', b"x")), form((FILE, b"x"), ('name="more"', b"y")), form(("", b"x")),
        form((f'name="file"; filename="{"x" * 10_000}.bin"', b"x")), form((f'name="file"; filename="{"x" * 40_000}.bin"', b"x")),
        form(('name="file"; filename=""', b"x")), b"--B\r\n\r\nx\r\n--B--\r\n", b"--C\r\n" + form((FILE, b"x")),
        b"--B\r\n" + b"A: b\r\n" * 100 + form((FILE, b"x")), form((FILE, b"x"), end=b"--B--B--B"[:3]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [1, 1 << 16])
def test_a_form_that_is_not_one_with_one_file_is_refused(body: bytes, step: int) -> None:
    with pytest.raises(BadRequestError):
        read_form(body, step)


@pytest.mark.parametrize(
    ("content_type", "name", "error"),
    [
        (None, None, UnsupportedMediaError), ("text/plain", None, UnsupportedMediaError), ("", None, UnsupportedMediaError),
        ("multipart/form-data", None, BadRequestError), ("multipart/form-data; boundary=", None, BadRequestError),
        ("multipart/form-data; boundary=B", "a.bin", BadRequestError),
        (f"multipart/form-data; boundary={'B' * 300}", None, BadRequestError), ("text/plain", "", BadRequestError),
    ],
)  # fmt: skip
def test_a_body_that_does_not_say_how_it_is_to_be_read_is_refused(
    content_type: str | None, name: str | None, error: type[AppError]
) -> None:
    with pytest.raises(error):
        body_of(content_type, name)


class WatchedStore(AttachmentStore):
    """Keeps what is being written."""

    def __init__(self, objects: MemoryStore) -> None:
        super().__init__(objects)
        self.begun: list[Writing] = []

    def write(self, key: str) -> Writing:
        self.begun.append(super().write(key))
        return self.begun[-1]


class Receiver:
    """Uploads into memory."""

    def __init__(self, idle_s: float = 0.05) -> None:
        self.objects = MemoryStore()
        self.store = WatchedStore(self.objects)
        self.uploads = Uploads(self.store, UploadPlaces(1, 0.05), most_bytes=1 << 20, idle_s=idle_s)

    def stored(self) -> list[str]:
        return [one["path"] for page in obstore.list(self.objects) for one in page]


async def coming(chunks: Iterable[bytes], *, stall: bool = False) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if stall:
        await asyncio.Event().wait()


async def test_a_file_is_stored_with_its_size_and_sum() -> None:
    receiver = Receiver()
    chunks = [b"\xe9" + bytes([n]) * 99_999 for n in range(10)]
    received = await receiver.uploads.receive(coming(chunks), RawBody("a.bin"))
    content = b"".join(chunks)
    assert (received.size_bytes, received.sha256) == (len(content), hashlib.sha256(content).digest())
    assert receiver.stored() == [received.key]
    assert (await obstore.get_async(receiver.objects, received.key)).bytes() == content


@pytest.mark.parametrize(
    ("name", "chunks", "stall", "error"),
    [
        ("a.bin", [b"x" * 600_000, b"y" * 600_000], False, TooLargeError),
        ("a.txt", [b"x" * 600_000, b"\xff"], False, UnsupportedMediaError),
        ("a.bin", [b"x" * 600_000], True, StalledError),
        ("a.bin", [], True, StalledError),
        ("a.bin", [], False, BadRequestError),
        ("a.svg", [SVG], False, UnsupportedMediaError),
    ],
)
async def test_whatever_goes_wrong_with_an_upload_nothing_is_left(
    name: str, chunks: list[bytes], stall: bool, error: type[AppError]
) -> None:
    receiver = Receiver()
    with pytest.raises(error):
        await receiver.uploads.receive(coming(chunks, stall=stall), RawBody(name))
    assert receiver.stored() == []
    for writing in receiver.store.begun:
        with pytest.raises(AttributeError):  # given up in form, not dropped: a bucket would keep its parts
            await writing.write(b"x")


async def test_a_client_that_trickles_is_given_up_too() -> None:
    async def trickle() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.02)
            yield b"x"

    with pytest.raises(StalledError):
        await asyncio.wait_for(Receiver().uploads.receive(trickle(), RawBody("a.bin")), 30)


async def test_at_the_end_uploads_are_given_up_and_waited_for() -> None:
    receiver, waiting = Receiver(idle_s=60), asyncio.Event()
    uploads = receiver.uploads

    async def stalling() -> AsyncIterator[bytes]:
        yield b"x" * 10_000
        waiting.set()
        await asyncio.Event().wait()

    async def upload() -> None:
        async with uploads.places.holding("one"):
            await uploads.receive(stalling(), RawBody("a.bin"))

    running, sending = asyncio.create_task(uploads.run()), asyncio.create_task(upload())
    await waiting.wait()
    with pytest.raises(TooManyUploadsError):
        async with uploads.places.holding("another"):
            raise AssertionError
    running.cancel()
    await asyncio.wait({running}, timeout=30)
    assert running.cancelled()
    assert sending.done()
    assert isinstance(sending.exception(), DrainingError)
    assert receiver.stored() == []


async def test_one_who_holds_four_places_keeps_the_others_from_nobody_else() -> None:
    places = UploadPlaces(6, 0.01)
    async with AsyncExitStack() as held:
        for _ in range(MOST_OF_ONE):
            await held.enter_async_context(places.holding("slow"))
        with pytest.raises(TooManyUploadsError):
            await held.enter_async_context(places.holding("slow"))
        for _ in range(2):
            await held.enter_async_context(places.holding("other"))
        with pytest.raises(TooManyUploadsError):
            await held.enter_async_context(places.holding("third"))
    assert places.taken == 0
    async with places.holding("slow"):
        assert places.taken == 1


async def test_a_place_that_becomes_free_in_time_is_taken_and_so_many_wait_and_no_more() -> None:
    order: list[str] = []
    places = UploadPlaces(1, 30)

    async def hold(whose: str) -> None:
        async with places.holding(whose):
            order.append(whose)

    async with places.holding("first"):
        second = asyncio.create_task(hold("second"))
        await asyncio.sleep(0)
        with pytest.raises(TooManyUploadsError):  # at once: as many wait as have places
            await asyncio.wait_for(hold("third"), 5)
        assert order == []
    await asyncio.wait_for(second, 30)
    assert order == ["second"]
    assert places.taken == 0
