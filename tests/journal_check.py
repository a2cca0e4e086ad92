"""Load from a client with its own journal, and the database held against it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psutil

from app.core.clock import iso
from app.sqal.reading import parse_time
from app.sqal.simulator.fleet import FleetPlan, run_fleet
from app.sqal.simulator.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import Server


@contextlib.asynccontextmanager
async def load(server: Server, *, devices: int, rate: float, duration_s: float, seed: int = 1):  # type: ignore[no-untyped-def]
    """Simulated devices in this process; yields their journal, and on leaving waits for their last acks."""
    journal = Journal()
    plan = FleetPlan(url=server.ws_url, devices=devices, rate=rate, duration_s=duration_s, seed=seed)
    left = asyncio.Event()
    task = asyncio.create_task(run_until_left(plan, journal, left))
    try:
        yield journal
        left.set()
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def run_until_left(plan: FleetPlan, journal: Journal, left: asyncio.Event) -> None:
    """As planned, and on where what goes on meanwhile takes longer on this machine than was thought."""
    await run_fleet(plan, journal)
    for more in itertools.count(1):
        if left.is_set():
            return
        await run_fleet(replace(plan, duration_s=1.0, seed=plan.seed + more), journal)


def assert_kept(server: Server, journal: Journal, *, exactly: bool = True) -> None:
    """Everything acknowledged is stored once; with `exactly`, nothing else is."""
    stored = Counter(
        (item["device_id"], iso(parse_time(item["device_time"])), item["sample_id"]) for item in server.all_samples()
    )
    assert stored, "nothing was stored"
    assert max(stored.values()) == 1, "a sample is stored twice"
    acked = {(device, iso(parse_time(moment)), sample) for device, moment, sample in journal.acks}
    assert not acked - stored.keys(), f"{len(acked - stored.keys())} acknowledged samples are lost"
    if exactly:
        assert not stored.keys() - acked, f"{len(stored.keys() - acked)} samples are stored without an ack"


@dataclass(frozen=True, slots=True)
class Blow:
    """One kill and what was under way then."""

    in_flight: int
    whom: str


async def kill_round(server: Server, journal: Journal, random_: random.Random) -> Blow:
    """SIGKILL server and database at a random moment of the load, then start the server again."""
    await asyncio.sleep(random_.uniform(0.3, 1.5))
    while journal.under_way == 0:  # a kill between two samples would show nothing
        await asyncio.sleep(0)
    whom = random_.choice(["server", "server and database", "database and server"])
    victims = server.postgres() if whom != "server" else []
    if whom == "database and server":
        _send(victims, signal.SIGKILL)
    server.kill()
    in_flight = journal.under_way
    if whom == "server and database":
        _send(victims, signal.SIGKILL)
    await asyncio.sleep(random_.uniform(0, 0.3))
    server.start(wait=False)
    await asyncio.to_thread(server.wait_ready)
    return Blow(in_flight, whom)


def _send(victims: list[psutil.Process], number: signal.Signals) -> None:
    """Some end by themselves: an autovacuum worker that is done, a connection that is closed."""
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(number)


@contextlib.contextmanager
def stopped(server: Server, stop: signal.Signals, resume: signal.Signals) -> Iterator[None]:
    """Hold every process of the database still for a while."""
    server.postmaster().send_signal(stop)  # first: it begins no more of them
    victims = server.postgres()
    assert len(victims) > 3
    _send(victims, stop)
    try:
        yield
    finally:
        _send(victims, resume)
