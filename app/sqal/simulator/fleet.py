"""A fleet of simulated devices against one server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

from app.sqal.simulator.device import SimulatedDevice
from app.sqal.simulator.messages import MessageMaker

if TYPE_CHECKING:
    from app.sqal.simulator.journal import Journal

SITES: Final = ("LL", "LS", "MT")
LAST_ACKS_S: Final = 60.0
FOR_EVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """`devices` boxes, each `rate` samples a second, for `duration_s` seconds; `buffer` samples kept when cut off."""

    url: str
    devices: int = 3
    rate: float = 1.0
    duration_s: float = FOR_EVER
    seed: int = 1
    buffer: int = 10_000
    key: str | None = None


def sensor_url(url: str) -> str:
    """`url` as a WebSocket address: http becomes ws, and without a path it is `/ws/sensors`."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    return urlunsplit((scheme, parts.netloc, parts.path if parts.path.strip("/") else "/ws/sensors", parts.query, ""))


def device_names(count: int) -> list[tuple[str, str]]:
    """(device id, site): `ESP32_DEMO_LL_01`, ..."""
    return [(f"ESP32_DEMO_{SITES[number % 3]}_{number // 3 + 1:02d}", SITES[number % 3]) for number in range(count)]


async def run_fleet(plan: FleetPlan, journal: Journal) -> None:
    """Run all devices; at the end wait at most a minute for the last acks."""
    until = asyncio.get_running_loop().time() + plan.duration_s
    url = sensor_url(plan.url)
    devices = [
        SimulatedDevice(
            MessageMaker(device_id, site, number, plan.seed),
            journal,
            url,
            key=plan.key,
            interval_s=1 / plan.rate,
            buffer=plan.buffer,
        )
        for number, (device_id, site) in enumerate(device_names(plan.devices))
    ]
    tasks = [asyncio.create_task(device.run(until)) for device in devices]
    try:
        done, _ = await asyncio.wait(
            tasks,
            timeout=None if plan.duration_s == FOR_EVER else plan.duration_s + LAST_ACKS_S,
            return_when=asyncio.FIRST_EXCEPTION,
        )
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        journal.close()
