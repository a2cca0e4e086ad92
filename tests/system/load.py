"""What goes on while replicas are restarted: readers, a fleet, dashboards, and devices that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.core.clock import iso
from app.core.security import Role
from app.sqal.simulator.fleet import FleetPlan
from app.sqal.simulator.journal import Journal
from tests.journal_check import run_until_left
from tests.support import trimmed
from tests.system.cluster import bearer, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.system.cluster import Cluster

DEVICES = 30
RATE = 2.0  # samples a second, each: seldom is none under way when a replica drains
READ_EVERY_S = 0.1
VISIT_EVERY_S = 0.3
LATEST = "/api/sqal/latest"
PATHS = (LATEST, "/api/sqal/dashboard", "/api/sqal/samples?limit=5", "/api/sqal/devices")
KEEP_UP_S = 5.0
CROSS_S = 8.0  # a replica that has come back learns within 5 s that another one has dashboards

Name = tuple[str, str]
"""(device_id, sample_id): a sample among those of this test."""


def name_of(item: dict[str, Any]) -> Name:
    return item["device_id"], item["sample_id"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request; `said` is kept where it matters, and without a status it is the error."""

    path: str
    asked_at: float
    answered_at: float
    status: int | None
    replica: str
    said: str

    @property
    def moment(self) -> datetime:
        """Of the sample that is told to be the latest."""
        return datetime.fromisoformat(json.loads(self.said)["bucket_time"])


async def read(client: httpx.AsyncClient, path: str, answers: list[Answer], stop: asyncio.Event) -> None:
    """Ask for `path` again and again, as a page does that is left open."""
    while not stop.is_set():
        asked_at, status, replica = time.monotonic(), None, "nobody"
        try:
            response = await client.get(path)
            status, replica = response.status_code, response.headers.get("x-served-by", "haproxy")
            said = response.text if path == LATEST or not response.is_success else ""
        except httpx.HTTPError as error:
            said = repr(error)
        answers.append(Answer(path, asked_at, time.monotonic(), status, replica, said))
        await asyncio.sleep(READ_EVERY_S)


@dataclass(slots=True)
class Dashboard:
    """A page on the live feed: when it is closed it comes back at once. `heard`: which sample, and when first."""

    url: str
    key: str
    replica: str = ""
    heard: dict[Name, float] = field(default_factory=dict)
    closes: Counter[int] = field(default_factory=Counter)
    refusals: list[int] = field(default_factory=list)

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            try:
                async with connect(self.url, additional_headers=bearer(self.key), compression=None) as websocket:
                    assert websocket.response is not None
                    self.replica = websocket.response.headers["X-Served-By"]
                    while True:
                        self._hear(json.loads(await websocket.recv()))
            except ConnectionClosed as closed:
                self.closes[closed.rcvd.code if closed.rcvd else 1006] += 1
            except InvalidStatus as refused:
                self.refusals.append(refused.response.status_code)
                await asyncio.sleep(0.1)

    def _hear(self, message: dict[str, Any]) -> None:
        if message["type"] in ("sensor_update", "latest_sample") and message["data"]:
            self.heard.setdefault(name_of(message["data"]), time.monotonic())

    def longest_gap_s(self) -> float:
        return max(later - earlier for earlier, later in pairwise(sorted(self.heard.values())))


@dataclass(slots=True)
class Visitors:
    """Devices that come with one sample, wait for its ack and leave, to one replica as often as to the other.

    `acked`: which sample, who took it, and when. Nothing here is tried twice: whoever is refused fails the test.
    """

    url: str
    key: str
    journal: Journal
    acked: list[tuple[Name, str, float]] = field(default_factory=list)

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._visit(f"VISITOR_{len(self.acked) % 5}", uuid4().hex)
            await asyncio.sleep(VISIT_EVERY_S)

    async def _visit(self, device_id: str, sample_id: str) -> None:
        sent_at, moment = time.monotonic(), iso(datetime.now(UTC))
        sample = trimmed(device_id=device_id, sample_id=sample_id, timestamp=moment)
        self.journal.made += 1
        async with connect(self.url, additional_headers=bearer(self.key), compression=None) as websocket:
            assert json.loads(await websocket.recv())["type"] == "connection_established"
            await websocket.send(json.dumps(sample))
            self.journal.note_sent(first=True)
            answer = json.loads(await asyncio.wait_for(websocket.recv(), 10))
            assert (answer["type"], answer["status"]) == ("ack", "saved"), answer
            assert websocket.response is not None
            acked_at = time.monotonic()
            self.acked.append(((device_id, sample_id), websocket.response.headers["X-Served-By"], acked_at))
            self.journal.note_ack((device_id, moment, sample_id), "saved", acked_at - sent_at)


class Load:
    """All of it, through haproxy, for `duration_s`."""

    def __init__(self, cluster: Cluster, duration_s: float) -> None:
        viewer, device = cluster.keys[Role.VIEWER], cluster.keys[Role.DEVICE]
        sensors = cluster.url("/ws/sensors")
        self.journal = Journal()
        self.plan = FleetPlan(sensors, devices=DEVICES, rate=RATE, duration_s=duration_s, key=device)
        self.dashboards = [Dashboard(cluster.url("/ws/realtime"), viewer) for _ in range(2)]
        self.visitors = Visitors(sensors, device, self.journal)
        self.answers: list[Answer] = []
        self._client = httpx.AsyncClient(base_url=cluster.url("", "http"), headers=bearer(viewer), timeout=20)
        self._stop = asyncio.Event()

    @property
    def failed(self) -> list[Answer]:
        """Requests without an answer, or with another one than 2xx."""
        return [one for one in self.answers if one.status is None or not 200 <= one.status < 300]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """On leaving, devices send what they have, readers finish; then dashboards have a moment for the last."""
        async with self._client, asyncio.TaskGroup() as tasks:
            left = asyncio.Event()
            fleet = tasks.create_task(run_until_left(self.plan, self.journal, left))
            visits = tasks.create_task(self.visitors.run(self._stop))
            # Whoever asks before the first sample may be told for up to 2 s that there is none (404).
            await until(lambda: self.journal.acked > 0, 10, "the first ack")
            watching = [tasks.create_task(dashboard.run()) for dashboard in self.dashboards]
            reading = [tasks.create_task(read(self._client, path, self.answers, self._stop)) for path in PATHS]
            yield
            left.set()
            await fleet
            self._stop.set()
            await asyncio.gather(visits, *reading)
            await self._all_hear_the_newest()
            for task in watching:
                task.cancel()

    async def _all_hear_the_newest(self) -> None:
        newest = (await self._client.get("/api/sqal/samples?limit=1")).json()["items"][0]
        await until(
            lambda: all(name_of(newest) in one.heard for one in self.dashboards), KEEP_UP_S, "the newest sample is seen"
        )

    async def crossing(self, replica: str) -> float:
        """Seconds until every dashboard, all of them on the other one, hears what `replica` commits from now on."""
        since = time.monotonic()
        assert all(dashboard.replica != replica for dashboard in self.dashboards)

        def heard(dashboard: Dashboard) -> bool:
            return any(
                name in dashboard.heard for name, who, at in self.visitors.acked if who == replica and at > since
            )

        return await until(lambda: all(map(heard, self.dashboards)), CROSS_S, f"dashboards hear {replica}")


def longest_lag_s(answers: list[Answer]) -> float:
    """How long after a sample was shown as the latest an older one still was, by whichever replica."""
    shown_at: list[float] = []
    moments: list[datetime] = []
    for answer in sorted(answers, key=lambda answer: answer.answered_at):
        if not moments or answer.moment > moments[-1]:
            moments.append(answer.moment)
            shown_at.append(answer.answered_at)
    newer = [(answer, bisect_right(moments, answer.moment)) for answer in answers]
    return max((answer.asked_at - shown_at[at] for answer, at in newer if at < len(moments)), default=0.0)
