"""The cache: a bounded table in this process over Redis, with one load at a time for each key.

A value is served for the time of its type at most. Before that, once its subject changed (`mark`), it is served for
`min_reload_s` from when it was made and then loaded again; one of a strict type is loaded again at once. When loading
fails because something is away, the old value is served with its age for as long as it is kept. Without Redis, or while
it does not answer, the table alone serves.
"""

from __future__ import annotations

import asyncio
import time
from math import inf, nextafter
from random import Random
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from app.core.cache_entry import Cached, CacheType, Entry, LocalStore, Marks
from app.core.cache_store import ANYTHING, Loader, Newer, Ordered, SharedStore, matches
from app.core.errors import DeadlineError
from app.core.logging import get_logger
from app.core.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MIN_RELOAD_S: Final = 2.0
SOFT_TIMEOUT_S: Final = 1.0  # then the old value is served while its renewal goes on
LOAD_DEADLINE_S: Final = 15.0
QUIET_S: Final = 1.0  # after a failed load, before the next one is tried for the same key
SWEEP_EVERY_S: Final = 10.0
MAX_TAGS: Final = 16_384
TYPES: Final = {"latest_sample": 10.0, "dashboard_metrics": 300.0, "device_stats": 900.0, "hourly_aggregates": 600.0}
log = get_logger("gaveurs.cache")


class Cache:
    """`get_or_load` reads; `mark`, `commit` and `invalidate_by_pattern` say what changed."""

    def __init__(
        self,
        types: Iterable[CacheType],
        metrics: Metrics,
        *,
        max_entries: int = 4_096,
        max_bytes: int = 64 * 1024 * 1024,
        keep_stale_s: float = 3_600.0,
        stale_on: tuple[type[Exception], ...] = (),
        alone: bool = True,
        min_reload_s: float = MIN_RELOAD_S,
        monotonic: Callable[[], float] = time.monotonic,
        rng: Random | None = None,
        forgetting: Callable[[], bool] = lambda: False,
    ) -> None:
        """`alone`: whether no other process changes what is cached here, as long as there is no shared store. While
        `forgetting` (a fault on purpose) every read loads.
        """
        self.types = {kind.name: kind for kind in types}
        self._local = LocalStore(max_entries, max_bytes)
        self._marks = Marks(MAX_TAGS)
        self._keep_stale_s = keep_stale_s
        self._stale_on = stale_on
        self._alone = alone
        self._min_reload_s = min_reload_s
        self._monotonic = monotonic
        self._forgetting = forgetting
        self._rng = rng or Random()  # noqa: S311 - spreads load, guards nothing
        self._flights: dict[str, asyncio.Task[tuple[Entry, str]]] = {}
        self._begun: WeakKeyDictionary[asyncio.Task[tuple[Entry, str]], float] = WeakKeyDictionary()
        self._shared: SharedStore | None = None
        self._metrics = metrics
        self._hits = {name: metrics.cache_hits.labels(name) for name in self.types}
        self._misses = {name: metrics.cache_misses.labels(name) for name in self.types}
        self._l1, self._l2 = metrics.cache_level_hits.labels("l1"), metrics.cache_level_hits.labels("l2")
        self._get_latency = metrics.cache_latency.labels("get")
        metrics.registry.before_scrape(self._report)

    def share(self, store: SharedStore | None) -> None:
        """Use a second level from now on."""
        self._shared = store

    # Reading

    async def get_or_load(
        self, kind: str, key: str, loader: Loader, *, tags: tuple[str, ...] = (), deadline_s: float | None = None
    ) -> Cached:
        """The value under `key`, from the cache or from `loader` (which runs once however many wait for it).

        A value is anything that MessagePack can hold; None too. An error of the loader goes to all who wait and is not
        cached. `deadline_s` is this caller's own: DeadlineError; the load goes on for the others.
        """
        now = self._monotonic()
        name = f"{kind}|{key}"
        entry = self._local.get(name)
        if entry is None or not self._is_fresh(kind, entry, now) or self._forgetting():
            return await self._wait_for(kind, name, loader, tags, now, deadline_s)
        self._local.touch(name)
        self._hits[kind].inc()
        self._l1.inc()
        if now >= entry.retry_at and name not in self._flights:
            self._launch(kind, name, loader, tags)
        hit = Cached(entry.value, entry.age_s(now), entry.fresh_until - now, "l1")
        self._get_latency.observe(self._monotonic() - now)
        return hit

    def _is_fresh(self, kind: str, entry: Entry, now: float) -> bool:
        young = now - entry.made_at < self._min_reload_s and not self._is_overtaken(kind, entry)
        return now < entry.fresh_until and (young or self._is_current(entry, now))

    def _is_overtaken(self, kind: str, entry: Entry) -> bool:
        """Whether a change is known that an entry of a strict kind does not show."""
        return self.types[kind].strict and self._marks.changed_since(entry.made_at, entry.tags)

    def _is_quiet(self, kind: str, entry: Entry, now: float) -> bool:
        """Whether a load failed just now; where nothing may be overtaken, since the last change."""
        changed = self.types[kind].strict and self._marks.changed_since(entry.quiet_until - QUIET_S, entry.tags)
        return now < entry.quiet_until and not changed

    def _began_too_early(self, kind: str, flight: asyncio.Task[tuple[Entry, str]], tags: tuple[str, ...]) -> bool:
        """Whether what this flight brings may be overtaken by a change that is known already."""
        return self.types[kind].strict and self._marks.changed_since(self._begun[flight], tags)

    @property
    def _hears_all(self) -> bool:
        return self._alone if self._shared is None else self._shared.coherent

    async def _wait_for(
        self, kind: str, name: str, loader: Loader, tags: tuple[str, ...], now: float, deadline_s: float | None
    ) -> Cached:
        old = self._local.get(name)
        if old is not None and now < old.dead_at and self._is_quiet(kind, old, now):
            return self._stale(kind, old, now)
        flight = self._flights.get(name)
        if flight is None or self._began_too_early(kind, flight, tags):
            flight = self._launch(kind, name, loader, tags)
        patience_s = deadline_s
        if old is not None and now < old.dead_at and not self._is_overtaken(kind, old):
            patience_s = min(SOFT_TIMEOUT_S, deadline_s or SOFT_TIMEOUT_S)
        await asyncio.wait({flight}, timeout=patience_s)  # cancels nothing but this wait
        if not flight.done():
            if old is not None and now < old.dead_at:
                return self._stale(kind, old, self._monotonic())
            raise DeadlineError("the value was not loaded in time; try again shortly", retry_after_s=1.0)
        return self._landed(kind, name, flight)

    def _landed(self, kind: str, name: str, flight: asyncio.Task[tuple[Entry, str]]) -> Cached:
        try:
            entry, source = flight.result()
        except self._stale_on:
            now = self._monotonic()
            old = self._local.get(name)
            if old is None or now >= old.dead_at:
                self._misses[kind].inc()
                raise
            old.quiet_until = now + QUIET_S
            return self._stale(kind, old, now)
        now = self._monotonic()
        if source == "l2":
            self._hits[kind].inc()
            self._l2.inc()
        else:
            self._misses[kind].inc()
        return Cached(entry.value, entry.age_s(now), entry.fresh_until - now, source)

    def _stale(self, kind: str, old: Entry, now: float) -> Cached:
        self._misses[kind].inc()
        self._metrics.cache_stale.labels(kind).inc()
        return Cached(old.value, old.age_s(now), min(-1.0, old.fresh_until - now), "l1", stale=True)

    # Loading

    def _launch(self, kind: str, name: str, loader: Loader, tags: tuple[str, ...]) -> asyncio.Task[tuple[Entry, str]]:
        flight = asyncio.create_task(self._fill(kind, name, loader, tags), name=f"load {name}")
        self._flights[name] = flight
        self._begun[flight] = self._monotonic()

        def landed(task: asyncio.Task[tuple[Entry, str]]) -> None:
            if self._flights.get(name) is task:
                del self._flights[name]
            if not task.cancelled():
                task.exception()  # told to those who wait; nobody need wait any more

        flight.add_done_callback(landed)
        return flight

    async def _fill(self, kind: str, name: str, loader: Loader, tags: tuple[str, ...]) -> tuple[Entry, str]:
        began, flight = self._monotonic(), asyncio.current_task()
        old = self._local.get(name)
        if self._shared is not None and not self._forgetting():
            found = await self._shared.get(name, began)
            self._get_latency.observe(self._monotonic() - began)
            kept = self._flights.get(name) is flight
            if found is not None and kept and (old is None or old.made_at < found.made_at):
                found.tags = tags
                self._local.put(name, found)
                if self._is_fresh(kind, found, began):
                    return found, "l2"
        started = self._monotonic()
        value = await self._load(kind, loader)
        order = None
        if isinstance(value, Ordered):
            value, order = value
        if old is not None and old.fresh_until <= started:
            self._local.expirations += 1
        entry = self._entry(kind, value, started, tags, order)
        if self._flights.get(name) is not flight:
            return entry, "load"  # what was loaded before an invalidation is not kept
        held = self._local.get(name)
        if held is not None and held.written_at >= started and (held.order or "") > (order or ""):
            held.take_times(
                entry
            )  # a commit wrote a newer one through meanwhile: it holds all that was loaded, and more
            return held, "load"
        loaded = self._monotonic()
        self._local.put(name, entry)
        if self._shared is not None:
            self._shared.put_soon(name, entry)
        self._metrics.cache_latency.labels("set").observe(self._monotonic() - loaded)
        return entry, "load"

    async def _load(self, kind: str, loader: Loader) -> Any:
        loads = self._metrics.cache_loads
        try:
            async with asyncio.timeout(LOAD_DEADLINE_S):
                value = await loader()
        except TimeoutError as error:
            loads.labels(kind, "failure").inc()
            raise DeadlineError("the value was not loaded in time; try again shortly", retry_after_s=1.0) from error
        except Exception:
            loads.labels(kind, "failure").inc()
            raise
        loads.labels(kind, "success").inc()
        return value

    def _entry(self, kind: str, value: Any, made_at: float, tags: tuple[str, ...], order: str | None) -> Entry:
        kept = self.types[kind]
        fresh_s = kept.ttl_s * (1.0 - kept.jitter * self._rng.random())
        return Entry(value, made_at=made_at, fresh_s=fresh_s, keep_s=self._keep_stale_s, tags=tags, order=order)

    # Changes

    def mark(self, tags: Iterable[str]) -> None:
        """What these tags stand for has changed, and the change is committed."""
        self.commit(tags, ())

    def commit(self, tags: Iterable[str], newer: Iterable[Newer]) -> None:
        """`mark`, and write committed values through where one is held that is older."""
        began = self._monotonic()
        held = [(self._local.get(f"{one.kind}|{one.key}"), one) for one in newer]
        current = [entry is not None and self._is_current(entry, began) for entry, _ in held]
        tags = list(tags)
        for tag in tags:
            self._marks.mark(tag, began)
        if self._shared is not None:
            self._shared.tell_soon(tags)
        for (entry, one), was_current in zip(held, current, strict=True):
            if entry is None or entry.order is None or one.order <= entry.order:
                continue
            entry.replace_later(one.make, one.order, nextafter(began, inf), current=was_current)
            if self._shared is not None and was_current:
                self._shared.renew_soon(f"{one.kind}|{one.key}", entry)
            self._metrics.cache_latency.labels("set").observe(self._monotonic() - began)

    def _is_current(self, entry: Entry, now: float) -> bool:
        """Whether no change is known that it does not show."""
        return now < entry.fresh_until and self._hears_all and not self._marks.changed_since(entry.made_at, entry.tags)

    def holds(self, kind: str, key: str) -> bool:
        """Whether this process has a value under `key`, fresh or not."""
        return self._local.get(f"{kind}|{key}") is not None

    async def invalidate_by_pattern(self, pattern: str) -> int:
        """Drop every key that matches (`*`, `?`, `[...]`), of all types, in all replicas; how many went from here and
        from Redis. While Redis does not answer, it is remembered, and Redis is not read before it is done.
        """
        began = self._monotonic()
        dropped = self.forget(pattern)
        if self._shared is not None:
            dropped += await self._shared.remove(pattern)
        self._metrics.cache_latency.labels("delete").observe(self._monotonic() - began)
        return dropped

    async def invalidate_all(self) -> int:
        """Drop all of ours, and nothing else of what that Redis holds."""
        return await self.invalidate_by_pattern(ANYTHING)

    def forget(self, pattern: str) -> int:
        """Drop from this process alone. Who waits for a load goes on waiting; who comes later starts another."""
        for name in [name for name in self._flights if matches(name, pattern)]:
            del self._flights[name]
        matching = [name for name in self._local.keys() if matches(name, pattern)]  # noqa: SIM118 - no mapping
        for name in matching:
            self._local.drop(name)
        return len(matching)

    def heard(self, tags: Iterable[str], patterns: Iterable[str]) -> None:
        """What another replica changed."""
        now = self._monotonic()
        for tag in tags:
            self._marks.mark(tag, now)
        for pattern in patterns:
            self.forget(pattern)

    def heard_nothing(self) -> None:
        """News of other replicas may have been missed: everything may have changed."""
        self._marks.mark_all(self._monotonic())

    # Upkeep

    async def run(self) -> None:
        """Drop what is past all use; runs until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            self._local.expire(self._monotonic())

    async def close(self) -> None:
        """Give up loads that nobody waits for any more."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def get_stats(self) -> dict[str, Any]:
        """Reads of this process since its start, and what it holds now."""
        hits = int(sum(counter.value for counter in self._hits.values()))
        misses = int(sum(counter.value for counter in self._misses.values()))
        return {
            "hits": hits,
            "misses": misses,
            "hit_rate": hits / (hits + misses) if hits + misses else 0.0,
            "total_keys": len(self._local),
            "size_bytes": self._local.bytes,
            "evictions": self._local.evictions,
            "expirations": self._local.expirations,
            "loads_under_way": len(self._flights),
            "redis": "none" if self._shared is None else "connected" if self._shared.connected else "disconnected",
            "types": {
                name: {"hits": int(self._hits[name].value), "misses": int(self._misses[name].value)}
                for name in self.types
            },
        }

    def _report(self) -> None:
        m = self._metrics
        m.cache_size.labels().set(self._local.bytes)
        m.cache_entries.labels().set(len(self._local))
        m.cache_evictions.labels().set_total(self._local.evictions)
        m.cache_expirations.labels().set_total(self._local.expirations)


class CacheHandle:
    """A name that can be imported before the process has its cache. Until then it is one of its own, of the guide's
    types and times, made at first use.
    """

    __slots__ = ("_cache", "_own")

    def __init__(self) -> None:
        self._cache: Cache | None = None
        self._own: Cache | None = None

    def bind(self, cache: Cache) -> None:
        self._cache = cache

    def unbind(self) -> None:
        self._cache = None

    @property
    def _bound(self) -> Cache:
        if self._cache is not None:
            return self._cache
        if self._own is None:
            self._own = Cache([CacheType(name, ttl_s) for name, ttl_s in TYPES.items()], Metrics())
        return self._own

    async def get_or_load(
        self, kind: str, key: str, loader: Loader, *, tags: tuple[str, ...] = (), deadline_s: float | None = None
    ) -> Cached:
        return await self._bound.get_or_load(kind, key, loader, tags=tags, deadline_s=deadline_s)

    async def invalidate_by_pattern(self, pattern: str) -> int:
        return await self._bound.invalidate_by_pattern(pattern)

    async def invalidate_all(self) -> int:
        return await self._bound.invalidate_all()

    async def get_stats(self) -> dict[str, Any]:
        return await self._bound.get_stats()


cache: Final = CacheHandle()
