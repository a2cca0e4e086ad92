"""Files that come in: read as they come, looked at, and written on to the store. Never more than a few parts of one
are in memory, and never is a database connection held for a client that sends.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.bugs.attachment_kinds import HEAD, Inspector, shown_name
from app.bugs.attachment_store import CHUNK_BYTES, new_key
from app.core.errors import AppError, BadRequestError, DrainingError, TooLargeError, UnsupportedMediaError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.bugs.attachment_store import AttachmentStore, Writing
    from app.bugs.upload_places import UploadPlaces

SLOWEST_BYTES_S: Final = 8 * 1024  # whoever sends less than this on average has stalled, if ever so politely
GOODBYE_S: Final = 5.0
MAX_HEADER_BYTES: Final = 16 * 1024
FORM_OVERHEAD_BYTES: Final = 64 * 1024
"""A form is larger than its file, by less than this."""
_ONE_FILE: Final = "a form has one part, `file`, with a file name, and no other"


class StalledError(AppError):
    """A client that sends nothing, or next to nothing."""

    status = 408
    code = "upload_stalled"


class ClientGoneError(AppError):
    """A client that ended in the middle: nobody will read this."""

    status = 400
    code = "client_gone"


@dataclass(frozen=True, slots=True)
class Received:
    """A whole file that is in the store and not yet in the database."""

    key: str
    file_name: str
    media_type: str
    size_bytes: int
    sha256: bytes


class RawBody:
    """A body that is the file."""

    def __init__(self, file_name: str) -> None:
        self.file_name: str | None = shown_name(file_name, "fileName")

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def finish(self) -> None:
        """All of it is there: the server has held it to its length."""


class FormBody:
    """`multipart/form-data` with one file in it. The file's name is known when the first byte of it is."""

    def __init__(self, boundary: bytes) -> None:
        self.file_name: str | None = None
        self._field = b""
        self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._data: list[bytes] = []
        self._parts = 0
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_header_field": self._on_field,
                    "on_header_value": self._on_value,
                    "on_header_end": self._on_header,
                    "on_headers_finished": self._on_headers,
                    "on_part_data": self._on_data,
                    "on_end": self._on_end,
                },
                max_header_size=MAX_HEADER_BYTES,
            )
        except FormParserError as error:
            raise BadRequestError("the form's boundary is too long", parameter="Content-Type") from error

    def feed(self, chunk: bytes) -> bytes:
        """What of the file is in it. BadRequestError for what is no form, or not one with one file."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise BadRequestError("this is no multipart/form-data with the boundary that is named") from error
        data = b"".join(self._data)
        self._data.clear()
        return data

    def finish(self) -> None:
        if not self._ended:
            raise BadRequestError("the form breaks off before its last boundary")
        if self.file_name is None:
            raise BadRequestError(_ONE_FILE, pointer="#/file")

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _on_headers(self) -> None:
        self._parts += 1
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._headers.clear()
        if self._parts > 1 or options.get(b"name") != b"file" or b"filename" not in options:
            raise BadRequestError(_ONE_FILE, pointer="#/file")
        self.file_name = shown_name(_decoded(options[b"filename"]))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self.file_name is None:
            raise BadRequestError(_ONE_FILE, pointer="#/file")
        self._data.append(data[start:end])

    def _on_end(self) -> None:
        self._ended = True


def body_of(content_type: str | None, file_name: str | None) -> RawBody | FormBody:
    """How a body is to be read. UnsupportedMediaError for one that says too little."""
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        if file_name is not None:
            raise BadRequestError("a form names its file itself", parameter="fileName")
        boundary = options.get(b"boundary")
        if not boundary:
            raise BadRequestError("a form needs a boundary", parameter="Content-Type")
        return FormBody(boundary)
    if file_name is None:
        raise UnsupportedMediaError("send multipart/form-data with a part `file`, or the file itself with ?fileName=")
    return RawBody(file_name)


def _decoded(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")


class _Receiving:
    """One file on its way."""

    def __init__(self, store: AttachmentStore, body: RawBody | FormBody, most_bytes: int) -> None:
        self._store = store
        self._body = body
        self._most_bytes = most_bytes
        self._pending = bytearray()
        self._size = 0
        self._sum = hashlib.sha256()
        self._inspector: Inspector | None = None
        self.writing: Writing | None = None

    async def feed(self, chunk: bytes) -> None:
        data = self._body.feed(chunk)
        if self._inspector is None and self._body.file_name is not None:
            self._inspector = Inspector(self._body.file_name)
        self._size += len(data)
        if self._size > self._most_bytes:
            raise TooLargeError(f"an attachment has at most {self._most_bytes} bytes")
        self._pending += data
        if len(self._pending) >= (HEAD if self.writing is None else CHUNK_BYTES):
            await self._pass_on()

    async def finish(self) -> Received:
        self._body.finish()
        if self._size == 0 or self._inspector is None or self._body.file_name is None:
            raise BadRequestError("the file is empty", pointer="#/file")
        if self._pending:
            await self._pass_on()
        self._inspector.finish()
        assert self.writing is not None
        await self.writing.close()
        kind = self._inspector.kind
        return Received(self.writing.key, self._body.file_name, kind.media_type, self._size, self._sum.digest())

    async def _pass_on(self) -> None:
        assert self._inspector is not None
        data = bytes(self._pending)
        self._pending.clear()
        if self.writing is None:
            self._inspector.begin(data)
        self._inspector.feed(data)
        self._sum.update(data)
        if self.writing is None:
            self.writing = self._store.write(new_key())
        await self.writing.write(data)


class Uploads:
    """What `places` there are bounds them. A client that sends nothing for `idle_s` is given up."""

    def __init__(self, store: AttachmentStore, places: UploadPlaces, *, most_bytes: int, idle_s: float) -> None:
        self._store = store
        self.places = places
        self._most_bytes = most_bytes
        self._idle_s = idle_s
        self._waits: set[asyncio.Timeout] = set()
        self._stopping = False

    async def run(self) -> None:
        """Until cancelled: then whoever still sends is answered 503, and what they sent is gone when this returns."""
        try:
            await asyncio.Event().wait()
        finally:
            self._stopping = True
            for wait in tuple(self._waits):
                wait.reschedule(0)
            with suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self.places.all_free()

    async def receive(self, chunks: AsyncIterator[bytes], body: RawBody | FormBody) -> Received:
        """Read a whole file into the store. Whatever it raises, nothing is left there.

        BadRequestError, TooLargeError, UnsupportedMediaError for what is wrong with it; StalledError; DrainingError;
        AttachmentsUnavailableError.
        """
        receiving = _Receiving(self._store, body, self._most_bytes)
        try:
            async for chunk in self._in_time(chunks):
                await receiving.feed(chunk)
            return await receiving.finish()
        except BaseException:
            if receiving.writing is not None:
                await receiving.writing.discard()
            raise

    async def _in_time(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The client's time counts, not the store's."""
        time = asyncio.get_running_loop().time
        waited_s, received = 0.0, 0
        while True:
            began = time()
            chunk = await self._next(chunks, min(self._idle_s, self._idle_s + received / SLOWEST_BYTES_S - waited_s))
            waited_s += time() - began
            if chunk is None:
                return
            received += len(chunk)
            yield chunk

    async def _next(self, chunks: AsyncIterator[bytes], seconds: float) -> bytes | None:
        wait = asyncio.timeout(0 if self._stopping else seconds)
        try:
            async with wait:
                self._waits.add(wait)
                return await anext(chunks, None)
        except TimeoutError as error:
            if self._stopping:
                raise DrainingError("the service is shutting down; try again shortly", retry_after_s=2.0) from error
            raise StalledError("nothing came for too long: send it again") from error
        finally:
            self._waits.discard(wait)
