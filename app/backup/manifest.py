"""The manifest: what a backup holds, written last. A backup without one does not exist."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec

from app.backup.errors import ContentLostError

FORMAT: Final = 1
FILE: Final = "manifest.json"
LIST: Final = "attachments.jsonl"
DUMP: Final = "database.dump"
MOST_BYTES: Final = 64 * 1024 * 1024
Count = Annotated[int, msgspec.Meta(ge=0)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
NAME: Final = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}\Z")


class Table(msgspec.Struct, frozen=True):
    """Rows and the sum of their hashes, as numbers that any JSON reader keeps whole."""

    name: str
    rows: Count
    checksum: str


class Sequence(msgspec.Struct, frozen=True):
    """Sequences are outside of snapshots: the restored one is here or further on."""

    name: str
    last: int | None


class Inventory(msgspec.Struct, frozen=True):
    """A database as one snapshot sees it. `parts` counts what is no row: indexes, constraints, ..."""

    revision: str
    tables: list[Table]
    sequences: list[Sequence]
    parts: dict[str, int]

    def tables_in_words(self) -> str:
        return f"{sum(table.rows for table in self.tables):,} rows in {len(self.tables)} tables"


class File(msgspec.Struct, frozen=True):
    """`key` below the backup's own folder. Encrypted, `plain_sha256` is of what decrypting must give."""

    key: str
    size_bytes: Count
    sha256: str
    plain_sha256: str


class Attachment(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of attachments.jsonl: an object of the store, and where its content is in this place."""

    object_key: str
    sha256: str
    size_bytes: Count
    key: str
    stored_bytes: Count
    stored_sha256: str


class Attachments(msgspec.Struct, frozen=True):
    """How many are listed, what they add up to, and those (by the store's key) whose content nobody has."""

    count: Count
    size_bytes: Count
    lost: list[str]


class Manifest(msgspec.Struct, frozen=True):
    format: int
    name: str
    product: str
    server: str
    pg_dump: Annotated[str, msgspec.Meta(pattern=r"^[0-9]+(\.|$)")]
    started_at: Moment
    finished_at: Moment
    verified: bool
    encrypted_for: list[str]
    database: Inventory
    attachments: Attachments
    dump: File
    listing: File
    database_id: str | None = None

    @property
    def complete(self) -> bool:
        """Proven by restoring, and no attachment is lost."""
        return self.verified and not self.attachments.lost

    @property
    def size_bytes(self) -> int:
        """As stored; attachments count in every backup that names them."""
        return self.dump.size_bytes + self.listing.size_bytes + self.attachments.size_bytes

    @property
    def pg_dump_major(self) -> int:
        return int(self.pg_dump.partition(".")[0])


def encode(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def decode(raw: bytes, name: str) -> Manifest:
    """ContentLostError for what is no manifest, or one of a program that is newer than this."""
    try:
        version = msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).get("format", msgspec.Raw(b"0"))
        if msgspec.json.decode(version, type=int) > FORMAT:
            raise ContentLostError(f"the backup {name} was made by a newer program: this one cannot read its manifest")
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ContentLostError(f"the manifest of the backup {name} is damaged: {error}") from error
    if manifest.name != name:
        raise ContentLostError(f"the manifest in {name} is of another backup, {manifest.name!r}")
    return manifest


def new_name(now: datetime, random: bytes) -> str:
    """Sorted by name is sorted by time."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{random[:4].hex()}"


def is_name(name: str) -> bool:
    """Of a backup: what looks like one and has no date is not ours."""
    if NAME.match(name) is None:
        return False
    try:
        time_of(name)
    except ValueError:
        return False
    return True


def time_of(name: str) -> datetime:
    return datetime.strptime(name[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
