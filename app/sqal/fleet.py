"""Devices as they show themselves: hellos, heartbeats and signs of life, written behind the samples in small groups."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import asyncpg

from app.core.errors import UnavailableError
from app.core.logging import get_logger
from app.sqal.errors import RefusalError
from app.sqal.reading import is_plausible, parse_time, read_texts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from app.core.clock import Clock
    from app.core.database import Connection, Database
    from app.core.dependency import Dependency
    from app.sqal.intake import Verdict, Work
    from app.sqal.wire import Heartbeat, Hello

MAX_PENDING: Final = 10_000
FLUSH_EVERY_S: Final = 1.0
RETRY_S: Final = 0.5
MAX_JSON_BYTES: Final = 4_096
MAX_JSON_DEPTH: Final = 16
MAX_UPTIME_S: Final = 1e10
LATE_S: Final = 300.0  # an older reading says nothing of its device's clock
HELLO_TEXTS: Final = ("mac_address", "ip_address", "location", "firmware_version", "sent_site_code")
UPSERT: Final = """
    INSERT INTO devices AS d (device_id, first_seen, last_seen, last_sample_at, hello_at, mac_address, ip_address,
        location, firmware_version, sensors, sent_site_code, heartbeat_at, heartbeat, uptime_s, clock_offset_s, boots)
    SELECT device_id, seen, seen, sample_at, hello_at, mac, ip, location, firmware, sensors::jsonb, site,
        heartbeat_at, heartbeat::jsonb, uptime, clock, CASE WHEN uptime IS NULL THEN 0 ELSE 1 END
    FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
        $8::text[], $9::text[], $10::text[], $11::timestamptz[], $12::text[], $13::float8[], $14::float8[])
        AS new (device_id, seen, sample_at, hello_at, mac, ip, location, firmware, site, sensors,
                heartbeat_at, heartbeat, uptime, clock)
    ORDER BY device_id
    ON CONFLICT (device_id) DO UPDATE SET
        first_seen = least(d.first_seen, excluded.first_seen),
        last_seen = greatest(d.last_seen, excluded.last_seen),
        last_sample_at = greatest(d.last_sample_at, excluded.last_sample_at),
        hello_at = greatest(d.hello_at, excluded.hello_at),
        mac_address = coalesce(excluded.mac_address, d.mac_address),
        ip_address = coalesce(excluded.ip_address, d.ip_address),
        location = coalesce(excluded.location, d.location),
        firmware_version = coalesce(excluded.firmware_version, d.firmware_version),
        sent_site_code = coalesce(excluded.sent_site_code, d.sent_site_code),
        sensors = coalesce(excluded.sensors, d.sensors),
        heartbeat_at = greatest(d.heartbeat_at, excluded.heartbeat_at),
        heartbeat = coalesce(excluded.heartbeat, d.heartbeat),
        uptime_s = coalesce(excluded.uptime_s, d.uptime_s),
        clock_offset_s = coalesce(excluded.clock_offset_s, d.clock_offset_s),
        boots = d.boots + CASE WHEN excluded.uptime_s < d.uptime_s
                                 OR (d.uptime_s IS NULL AND excluded.uptime_s IS NOT NULL) THEN 1 ELSE 0 END
"""
log = get_logger("gaveurs.fleet")


class Answered(Protocol):
    """Told once whether a hello or heartbeat was committed."""

    def __call__(self, *, stored: bool) -> None: ...


@dataclass(slots=True)
class _News:
    """What is to be written about one device; a newer fact replaces an older one."""

    seen: datetime
    sample_at: datetime | None = None
    hello_at: datetime | None = None
    texts: dict[str, str | None] = field(default_factory=dict)
    sensors: str | None = None
    heartbeat_at: datetime | None = None
    heartbeat: str | None = None
    uptime_s: float | None = None
    clock_offset_s: float | None = None
    """Device minus server."""
    waiting: list[_Once] = field(default_factory=list)


_FACTS: Final = (
    "seen", "sample_at", "hello_at", "sensors", "heartbeat_at", "heartbeat", "uptime_s", "clock_offset_s",
)  # fmt: skip


class Fleet:
    """Collects news of at most `MAX_PENDING` devices and writes them: hellos and heartbeats at once, mere signs of
    life once a second. A hello or heartbeat is answered when its transaction committed.
    """

    def __init__(self, database: Database, storage: Dependency, clock: Clock, *, retention: timedelta) -> None:
        self._database = database
        self._storage = storage
        self._clock = clock
        self._retention = retention
        self._pending: dict[str, _News] = {}
        self._urgent = asyncio.Event()
        self._closed = False

    def record_hello(self, device_id: str, hello: Hello, answered: Answered, *, wait_s: float) -> None:
        """A device introduced itself. Answered after `wait_s` at the latest, then with `stored` false: the session is
        open all the same, and the facts are written when the database is back.
        """
        once = _Once(answered)
        news = self._news(device_id)
        if news is None:
            once(stored=False)
            return
        sent = (hello.mac_address, hello.ip_address, hello.location, hello.firmware_version, hello.site_code)
        news.hello_at = news.seen
        news.clock_offset_s = _ahead_s(hello.timestamp, news.seen)
        news.texts |= dict(zip(HELLO_TEXTS, read_texts(sent)[0], strict=True))
        news.sensors = _small_json(hello.sensors)
        news.waiting = [*(other for other in news.waiting if not other.spent), once]
        asyncio.get_running_loop().call_later(wait_s, lambda: once(stored=False))
        self._urgent.set()

    def record_heartbeat(self, device_id: str, heartbeat: Heartbeat, answered: Answered) -> None:
        """A device's figures; refused (`stored` false) at once while the database is away."""
        news = None if self._storage.away else self._news(device_id)
        if news is None:
            answered(stored=False)
            return
        figures = heartbeat.stats if isinstance(heartbeat.stats, dict) else {}
        news.heartbeat_at = news.seen
        news.clock_offset_s = _ahead_s(heartbeat.timestamp, news.seen)
        news.heartbeat = _small_json(
            {
                "status": heartbeat.status,
                "uptime": heartbeat.uptime,
                "buffer_size": heartbeat.buffer_size,
                "stats": figures,
            }
        )
        uptime = heartbeat.uptime if heartbeat.uptime is not None else figures.get("uptime_seconds")
        news.uptime_s = _seconds(uptime)
        news.waiting.append(_Once(answered))
        self._urgent.set()

    def note_samples(self, works: Sequence[Work], verdicts: Sequence[Verdict]) -> None:
        """Samples are signs of life, and tell the firmware of devices that never say hello."""
        for work, verdict in zip(works, verdicts, strict=True):
            reading = work.reading
            if reading is not None and verdict.code is None and (news := self._news(reading.device_id)) is not None:
                news.sample_at = work.received_at
                ahead_s = (reading.device_time - work.received_at).total_seconds()
                if ahead_s > -LATE_S or not is_plausible(reading.device_time, work.received_at, self._retention):
                    news.clock_offset_s = ahead_s  # else it may as well be an old reading, kept while offline
                news.texts |= {
                    name: value
                    for name, value in (
                        ("location", reading.location),
                        ("firmware_version", reading.firmware_version),
                        ("sent_site_code", reading.site_code if reading.site_sent else None),
                    )
                    if value is not None
                }

    async def run(self) -> None:
        """The writer; ends after `close` when nothing is pending."""
        while not (self._closed and not self._pending):
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_EVERY_S):
                    await self._urgent.wait()
            self._urgent.clear()
            if self._pending and not await self._flush():
                await asyncio.sleep(RETRY_S)

    def close(self) -> None:
        self._closed = True
        self._urgent.set()

    def _news(self, device_id: str) -> _News | None:
        news = self._pending.get(device_id)
        now = self._clock.now()
        if news is None:
            if len(self._pending) >= MAX_PENDING:
                return None
            news = self._pending[device_id] = _News(now)
        news.seen = now
        return news

    async def _flush(self) -> bool:
        """Write what is pending. What the database does not take stays pending, newer facts on top; where it refuses
        it, nobody waits on.
        """
        batch, self._pending = self._pending, {}
        try:
            async with self._database.connection() as connection:
                await write_news(connection, batch)
        except (UnavailableError, asyncpg.PostgresError) as error:
            refused = isinstance(error, asyncpg.PostgresError)
            if refused:
                log.exception("what devices tell of themselves cannot be written")
            if refused or self._closed:
                _answer(batch, stored=False)
            if not self._closed:
                self._take_back(batch)
            return self._closed
        _answer(batch, stored=True)
        return True

    def _take_back(self, batch: dict[str, _News]) -> None:
        for device_id, old in batch.items():
            new = self._pending.get(device_id)
            if new is not None:
                old.texts |= {name: value for name, value in new.texts.items() if value is not None}
                old.waiting += new.waiting
                for name in _FACTS:
                    if (value := getattr(new, name)) is not None:
                        setattr(old, name, value)
            self._pending[device_id] = old


def _answer(batch: dict[str, _News], *, stored: bool) -> None:
    for news in batch.values():
        for answered in news.waiting:
            answered(stored=stored)
        news.waiting.clear()


class _Once:
    """Passes on the first answer only."""

    def __init__(self, answered: Answered) -> None:
        self._answered: Answered | None = answered

    @property
    def spent(self) -> bool:
        return self._answered is None

    def __call__(self, *, stored: bool) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(stored=stored)


async def write_news(connection: Connection, batch: dict[str, _News]) -> None:
    """One upsert for all devices, in the order of their ids: two processes never wait for each other in a circle."""
    rows = [
        (
            device_id, news.seen, news.sample_at, news.hello_at,
            *(news.texts.get(name) for name in HELLO_TEXTS),
            news.sensors, news.heartbeat_at, news.heartbeat, news.uptime_s, news.clock_offset_s,
        )
        for device_id, news in sorted(batch.items())
    ]  # fmt: skip
    await connection.execute(UPSERT, *zip(*rows, strict=True))


def _ahead_s(timestamp: Any, now: datetime) -> float | None:
    """How far a device's clock runs before ours, by a message that it sends at once; None when it does not say."""
    try:
        return (parse_time(timestamp) - now).total_seconds() if isinstance(timestamp, str) else None
    except RefusalError:
        return None


def _seconds(value: Any) -> float | None:
    """A duration that can be one."""
    return float(value) if isinstance(value, int | float) and 0 <= value <= MAX_UPTIME_S else None


def _depth(value: Any) -> int:
    """How deep lists and objects are nested; counted no further than is allowed."""
    level, depth = [value], 0
    while level and depth <= MAX_JSON_DEPTH:
        inner = [item for item in level if isinstance(item, dict | list)]
        level = [each for item in inner for each in (item.values() if isinstance(item, dict) else item)]
        depth += bool(inner)
        if not inner:
            break
    return depth


def _small_json(value: Any) -> str | None:
    """`value` as JSON text, None when there is none or it is no small, flat, storable JSON."""
    if value is None or _depth(value) > MAX_JSON_DEPTH:
        return None
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())  # fails for half a surrogate pair
    except (TypeError, ValueError, RecursionError):
        return None
    return text if size <= MAX_JSON_BYTES and "\\u0000" not in text else None
