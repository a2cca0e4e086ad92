"""What may be attached: kinds of files by their name's extension, which what is in them must agree with.

Nothing that a browser would run is among them: SVG and HTML are told by their beginning, whatever they are called.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from app.core.errors import BadRequestError, UnsupportedMediaError

HEAD: Final = 64 * 1024
"""So many bytes of a file's beginning are enough to tell its kind."""
MAX_NAME: Final = 200
TEXT: Final = "text/plain; charset=utf-8"
BINARY: Final = "application/octet-stream"
# Controls, format characters (a right-to-left override makes `gpj.exe` of `exe.jpg`), lone surrogates, line ends.
_NOT_IN_NAMES: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")
_BLANK: Final = b" \t\r\n\f\v\xef\xbb\xbf\xfe\xff"
# What https://mimesniff.spec.whatwg.org/#identifying-a-resource-with-an-unknown-mime-type takes for a page, and SVG,
# XML in general, pictures. Only at the beginning: `a <b> c` is prose, and `<battery>` no tag.
_MARKUP: Final = re.compile(
    rb"<(?:!--|!doctype|\?xml|"
    rb"(?:html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|svg|xml|img)[\s/>])"
)
_PROGRAMS: Final = (b"MZ", b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"#!")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file. `begins`: with one of these, else anything. `is_text`: UTF-8 without NUL, all of it."""

    media_type: str
    begins: tuple[bytes, ...] = ()
    at: int = 0
    is_text: bool = False


_JPEG: Final = Kind("image/jpeg", (b"\xff\xd8\xff",))
_PLAIN: Final = Kind(TEXT, is_text=True)
KINDS: Final = {
    "png": Kind("image/png", (b"\x89PNG\r\n\x1a\n",)),
    "jpg": _JPEG,
    "jpeg": _JPEG,
    "webp": Kind("image/webp", (b"WEBP",), at=8),
    "gif": Kind("image/gif", (b"GIF87a", b"GIF89a")),
    "pdf": Kind("application/pdf", (b"%PDF-",)),
    **dict.fromkeys(("txt", "log", "csv", "json", "jsonl", "md", "hex"), _PLAIN),
    "zip": Kind("application/zip", (b"PK\x03\x04", b"PK\x05\x06")),
    "gz": Kind("application/gzip", (b"\x1f\x8b\x08",)),
    "bin": Kind(BINARY),
    "elf": Kind(BINARY, (b"\x7fELF",)),
    "pcap": Kind(
        "application/vnd.tcpdump.pcap",
        (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d"),
    ),
    "pcapng": Kind("application/x-pcapng", (b"\x0a\x0d\x0d\x0a",)),
    "parquet": Kind("application/vnd.apache.parquet", (b"PAR1",)),
}


def shown_name(given: str, parameter: str | None = None) -> str:
    """The last part of a path, for display only. BadRequestError for one that is empty or too long."""
    last = re.split(r"[/\\]", given)[-1]
    name = "".join(one for one in last if unicodedata.category(one) not in _NOT_IN_NAMES).strip()
    if not name or len(name) > MAX_NAME:
        why = f"a file's name has 1 to {MAX_NAME} characters"
        raise BadRequestError(why, parameter=parameter, pointer=None if parameter else "#/file")
    return name


def kind_of(name: str) -> Kind:
    """By the extension. UnsupportedMediaError for one that is not taken."""
    stem, _, extension = name.rpartition(".")
    kind = KINDS.get(extension.lower()) if stem else None
    if kind is None:
        raise UnsupportedMediaError(f"files of this kind are not taken; those that are: {', '.join(KINDS)}")
    return kind


class Inspector:
    """Reads a file of a kind along as it comes. UnsupportedMediaError as soon as it is seen to be something else."""

    def __init__(self, name: str) -> None:
        self.kind = kind_of(name)
        self._extension = name.rpartition(".")[2].lower()
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def begin(self, head: bytes) -> None:
        """Its first HEAD bytes, or all of a shorter one."""
        kind = self.kind
        if kind.begins and not head[kind.at :].startswith(kind.begins):
            raise self._disagrees(f"is no {self._extension} file")
        if self._extension == "webp" and not head.startswith(b"RIFF"):
            raise self._disagrees("is no webp file")
        if not kind.begins and is_markup(head[:HEAD]):
            raise self._disagrees("is markup, which is not taken under any name")
        if kind.media_type == BINARY and not kind.begins and head.startswith(_PROGRAMS):
            raise self._disagrees("is a program")

    def feed(self, chunk: bytes) -> None:
        """All of it, in order."""
        if self.kind.is_text:
            self._read_text(chunk, final=False)

    def finish(self) -> None:
        if self.kind.is_text:
            self._read_text(b"", final=True)

    def _read_text(self, chunk: bytes, *, final: bool) -> None:
        try:
            self._decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            raise self._disagrees("is no UTF-8 text") from error
        if b"\0" in chunk:
            raise self._disagrees("is no text: it holds NUL")

    def _disagrees(self, what: str) -> UnsupportedMediaError:
        return UnsupportedMediaError(f"this is named .{self._extension}, but its content {what}")


def is_markup(head: bytes) -> bool:
    """Whether a browser that looks at the content would read HTML, SVG or XML; also in UTF-16."""
    return _MARKUP.match(head.replace(b"\0", b"").lower().lstrip(_BLANK)) is not None
