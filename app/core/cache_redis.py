"""The cache's second level in Redis, and how replicas tell each other what changed.

Reads are waited for (with their deadline); everything else is written behind, in a few bounded tables that one task
empties. Ages are Redis's own (the rest of a key's time), so that the replicas' wall clocks do not matter.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import uuid4

import msgspec
from redis.exceptions import ResponseError

from app.core.cache_entry import Entry
from app.core.cache_store import ANYTHING, matches
from app.core.errors import UnavailableError
from app.core.logging import get_logger
from app.core.redis_link import FAILURES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from app.core.cache import Cache
    from app.core.metrics import Metrics
    from app.core.redis_link import RedisLink

SCHEMA: Final = 1
MAX_PENDING: Final = 2_048  # values to be written; the oldest are dropped
MAX_TAGS: Final = 4_096  # to be told; beyond, everything is told to have changed
MAX_OWED: Final = 64  # invalidations that Redis has not heard; beyond, all is invalidated
WRITE_EVERY_S: Final = 0.05
BEAT_EVERY_S: Final = 1.0  # each replica speaks so often, and so knows by hearing itself that it hears
DEAF_AFTER_S: Final = 3.0
WRITE_DEADLINE_S: Final = 0.25  # a value may be older by this than Redis can tell: it is taken as that old
SCAN_COUNT: Final = 500
TOGETHER: Final = 64
RECONNECT_S: Final = 1.0
EVERYTHING: Final = "\x00"
SEPARATOR: Final = b"\n"
# Write a value through: where an older one is held. ARGV: value, milliseconds, order. What was loaded is put as it is:
# whether it is behind some commit is told by that commit's mark.
PUT_NEWER: Final = """
local held = redis.call('GET', KEYS[1])
if not held then return 0 end
if string.sub(held, 1, string.find(held, '\\n', 1, true) - 1) >= ARGV[3] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
log = get_logger("gaveurs.cache")


class _News(msgspec.Struct, array_like=True):
    """One message on the channel."""

    sender: str
    tags: list[str]
    patterns: list[str]


class _Kept(msgspec.Struct, array_like=True):
    """A value at rest, beside its order."""

    fresh_ms: int
    keep_ms: int
    ordered: bool
    value: Any


class _Put(NamedTuple):
    """A value to be written: until when it is kept (monotonic), and whether it was loaded or written through."""

    value: bytes
    dead_at: float
    order: str
    loaded: bool


class RedisStore:
    """Implements `SharedStore`. `run` writes, `listen` hears; both run until cancelled."""

    def __init__(
        self, link: RedisLink, cache: Cache, metrics: Metrics, prefix: str, monotonic: Callable[[], float]
    ) -> None:
        self._link = link
        self._cache = cache
        self._metrics = metrics
        self._prefix = f"{prefix}:cache:{SCHEMA}:"
        self._channel = f"{prefix}:cache:{SCHEMA}"
        self._monotonic = monotonic
        self._id = uuid4().hex[:12]
        self._puts: dict[str, _Put] = {}
        self._renewals: dict[str, Entry] = {}
        self._tags: dict[str, None] = {}
        self._owed: list[str] = []
        self._paying = asyncio.Lock()
        self._heard_at = float("-inf")
        self._news = asyncio.Event()
        self._dropped = metrics.cache_dropped.labels()

    @property
    def connected(self) -> bool:
        return not self._link.dependency.away

    @property
    def coherent(self) -> bool:
        """Whether what other replicas change is heard of: we hear ourselves."""
        return self._monotonic() - self._heard_at < DEAF_AFTER_S

    # The second level

    async def get(self, name: str, now: float) -> Entry | None:
        """What Redis holds; None also when it cannot be asked, or may hold what was invalidated."""
        if self._owed:
            return None
        key = self._prefix + name
        try:
            raw, left_ms = await self._link.call(partial(_get_with_age, key=key))
        except (UnavailableError, ResponseError):
            self._metrics.cache_errors.labels("get").inc()
            return None
        return None if raw is None else self._entry_of(name, raw, left_ms, now)

    def _entry_of(self, name: str, raw: Any, left_ms: Any, now: float) -> Entry | None:
        try:
            order, _, packed = raw.partition(SEPARATOR)
            kept = _DECODER.decode(packed)
            age_s = max(0.0, (kept.keep_ms - max(0, int(left_ms))) / 1_000) + WRITE_DEADLINE_S
            fresh_s = kept.fresh_ms / 1_000
            return Entry(
                kept.value,
                made_at=now - age_s,
                fresh_s=fresh_s,
                keep_s=kept.keep_ms / 1_000 - fresh_s,
                tags=(),
                order=order.decode() if kept.ordered else None,
            )
        except (msgspec.DecodeError, *FAILURES):
            self._metrics.cache_errors.labels("get").inc()
            log.warning("a cached value cannot be read; it will be made anew", key=name)
            return None

    def put_soon(self, name: str, entry: Entry) -> None:
        """Write a loaded value."""
        self._puts.pop(name, None)
        self._puts[name] = self._packed(entry, loaded=True)
        while len(self._puts) > MAX_PENDING:
            del self._puts[next(iter(self._puts))]
            self._dropped.inc()
        self._news.set()

    @staticmethod
    def _packed(entry: Entry, *, loaded: bool) -> _Put:
        fresh_ms = round((entry.fresh_until - entry.made_at) * 1_000)
        keep_ms = round((entry.dead_at - entry.made_at) * 1_000)
        order = entry.order or ""
        kept = _Kept(fresh_ms, keep_ms, entry.order is not None, entry.value)
        return _Put(order.encode() + SEPARATOR + _ENCODER.encode(kept), entry.dead_at, order, loaded)

    def renew_soon(self, name: str, entry: Entry) -> None:
        """Write a value that commits keep changing: at most once a second for each key."""
        if len(self._renewals) < MAX_PENDING or name in self._renewals:
            self._renewals[name] = entry
        else:
            self._dropped.inc()

    def tell_soon(self, tags: Iterable[str]) -> None:
        """Tell the other replicas what changed."""
        self._tags.update(dict.fromkeys(tags))
        if len(self._tags) > MAX_TAGS:
            self._tags = {EVERYTHING: None}
        self._news.set()

    async def remove(self, pattern: str) -> int:
        for name in [name for name in self._puts if matches(name, pattern)]:
            del self._puts[name]
        for name in [name for name in self._renewals if matches(name, pattern)]:
            del self._renewals[name]
        self._owed.append(pattern)
        if len(self._owed) > MAX_OWED:
            self._owed = [ANYTHING]
        removed = await self._pay()
        self._news.set()
        return removed

    async def _pay(self) -> int:
        """Do the invalidations that are owed, the oldest first, one at a time; those that fail stay owed."""
        async with self._paying:
            return await self._pay_in_turn()

    async def _pay_in_turn(self) -> int:
        removed = 0
        while self._owed:
            pattern = self._owed[0]
            try:
                removed += await self._unlink(pattern)
                await self._publish(_News(self._id, [], [pattern]))
            except (UnavailableError, ResponseError):
                self._metrics.cache_errors.labels("delete").inc()
                return removed
            with suppress(ValueError):  # too many were owed meanwhile, and all is owed now
                self._owed.remove(pattern)
        return removed

    async def _unlink(self, wanted: str) -> int:
        """SCAN and UNLINK, each step a call of its own: it may take long, but it waits for no step long."""
        removed, cursor = 0, 0
        scan = {"match": _literal(self._prefix) + "*", "count": SCAN_COUNT}
        while True:
            cursor, keys = await self._link.call(partial(_scan, cursor=cursor, options=scan), WRITE_DEADLINE_S)
            names = ((key, key.decode(errors="replace").removeprefix(self._prefix)) for key in keys)
            if found := [key for key, name in names if matches(name, wanted)]:
                removed += await self._link.call(partial(_remove, keys=found), WRITE_DEADLINE_S)
            if not cursor:
                return removed

    # Writing behind

    async def run(self) -> None:
        """Write what waits, and speak at least once a second."""
        renew_at = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_EVERY_S):
                    await self._news.wait()
            self._news.clear()
            await self._pay()
            now = self._monotonic()
            if now >= renew_at:
                renew_at = now + BEAT_EVERY_S
                for name, entry in self._renewals.items():
                    self._puts.setdefault(name, self._packed(entry, loaded=False))
                self._renewals = {}
            await self._write()
            await self._tell()
            await asyncio.sleep(WRITE_EVERY_S)

    async def _write(self) -> None:
        """What Redis does not take is dropped: it is a cache."""
        began = self._monotonic()
        while self._puts:
            batch = dict(list(self._puts.items())[:TOGETHER])
            for name in batch:
                del self._puts[name]
            try:
                answers = await self._link.call(partial(self._put_all, puts=batch), WRITE_DEADLINE_S)
            except (UnavailableError, ResponseError):
                self._metrics.cache_errors.labels("set").inc(len(batch))
                self._dropped.inc(len(batch) + len(self._puts))
                self._puts.clear()
                return
            refused = sum(isinstance(answer, Exception) for answer in answers)
            self._metrics.cache_errors.labels("set").inc(refused)
            self._dropped.inc(refused)
            self._metrics.cache_latency.labels("set").observe(self._monotonic() - began)

    async def _put_all(self, client: Any, puts: dict[str, _Put]) -> list[Any]:
        pipeline, now = client.pipeline(transaction=False), self._monotonic()
        for name, put in puts.items():
            key, left_ms = self._prefix + name, max(1, round((put.dead_at - now) * 1_000))
            if put.loaded:
                pipeline.set(key, put.value, px=left_ms)
            else:
                pipeline.eval(PUT_NEWER, 1, key, put.value, left_ms, put.order)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers

    async def _tell(self) -> None:
        tags, self._tags = list(self._tags), {}
        try:
            await self._publish(_News(self._id, tags, []))
        except (UnavailableError, ResponseError):
            self._metrics.cache_errors.labels("set").inc()
            if tags:
                self._tags = {EVERYTHING: None}  # once they can hear again

    async def _publish(self, news: _News) -> None:
        message = _NEWS.encode(news)
        await self._link.call(lambda client: client.publish(self._channel, message))

    # Hearing

    async def listen(self) -> None:
        """Hear the other replicas; connects again when the connection is lost."""
        advised = False
        while True:
            subscription = self._link.client.pubsub(ignore_subscribe_messages=True)
            try:
                async with self._link.dependency.call(), asyncio.timeout(WRITE_DEADLINE_S):
                    await subscription.subscribe(self._channel)
                if not advised:
                    advised = await self._link.advise()
                await self._hear(subscription)
            except (UnavailableError, OSError, TimeoutError, *FAILURES):
                pass  # its breaker and its check say so once
            finally:
                with suppress(*FAILURES, OSError, TimeoutError):
                    async with asyncio.timeout(WRITE_DEADLINE_S):
                        await subscription.aclose()  # type: ignore[no-untyped-call]
            await asyncio.sleep(RECONNECT_S)

    async def _hear(self, subscription: Any) -> None:
        began = self._monotonic()
        self._cache.heard_nothing()  # of what was said before
        self._news.set()  # speak, to hear it
        while self._monotonic() - max(began, self._heard_at) < DEAF_AFTER_S:
            message = await subscription.get_message(timeout=BEAT_EVERY_S)
            if message is None:
                continue
            try:
                news = _NEWS_DECODER.decode(message["data"])
            except (msgspec.DecodeError, TypeError, KeyError):
                log.warning("a message of another replica cannot be read; is it of another release?")
                continue
            self._heard_at = self._monotonic()
            if news.sender != self._id:
                if EVERYTHING in news.tags:
                    self._cache.heard_nothing()
                self._cache.heard(news.tags, news.patterns)


async def _scan(client: Any, cursor: int, options: dict[str, Any]) -> Any:
    return await client.scan(cursor, **options)


async def _remove(client: Any, keys: list[bytes]) -> Any:
    return await client.unlink(*keys)


async def _get_with_age(client: Any, key: str) -> Any:
    return await client.pipeline(transaction=False).get(key).pttl(key).execute()


def _literal(text: str) -> str:
    """As a pattern of Redis that matches this text alone."""
    return "".join(f"\\{character}" if character in "*?[]\\" else character for character in text)


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Kept)
_NEWS: Final = msgspec.msgpack.Encoder()
_NEWS_DECODER: Final = msgspec.msgpack.Decoder(_News)
