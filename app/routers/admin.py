"""`/api/admin`: breakers, the cache and faults on purpose. For admins alone."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from app.core.breaker_policy import Mode
from app.core.circuit_breaker import CircuitBreaker
from app.core.errors import BadRequestError, ForbiddenError, NotFoundError
from app.core.faults import LONGEST_S, FaultKind, FaultSwitches
from app.core.logging import get_logger
from app.dependencies import Admin, CurrentRuntime
from app.infrastructure import CACHE_ENTRIES, EVENT_LOOP
from app.routers.sqal import PROBLEMS
from app.runtime import Runtime

LONGEST_BLOCK_S = 30.0
router = APIRouter(prefix="/api/admin", tags=["admin"], responses=PROBLEMS)
log = get_logger("gaveurs.admin")
Name = Annotated[str, Path(max_length=64)]


class BreakerMode(BaseModel):
    """`auto` follows what calls tell; `forced_open` rejects all; `disabled` admits all and only counts."""

    model_config = ConfigDict(extra="forbid")
    mode: Mode


class Pattern(BaseModel):
    """Keys to drop: `*`, `?` and `[...]` as in a shell."""

    model_config = ConfigDict(extra="forbid")
    pattern: str = Field(min_length=1, max_length=256)


class FaultOrder(BaseModel):
    """`latency` delays each call by `latency_ms`, `error` fails it, `stall` leaves it without an answer."""

    model_config = ConfigDict(extra="forbid")
    kind: FaultKind
    latency_ms: float = Field(default=0.0, ge=0, le=60_000)
    expires_s: float = Field(gt=0, le=LONGEST_S)


def _breakers(runtime: Runtime) -> dict[str, CircuitBreaker]:
    return {one.declared.name: one.breaker for one in runtime.infrastructure.dependencies}


def _breaker(runtime: Runtime, name: str) -> CircuitBreaker:
    if (breaker := _breakers(runtime).get(name)) is None:
        raise NotFoundError("there is no such breaker")
    return breaker


def _shown(breaker: CircuitBreaker) -> dict[str, Any]:
    return {**asdict(breaker.view()), "outcomes": breaker.outcomes}


@router.get("/breakers")
async def breakers(runtime: CurrentRuntime, _who: Admin) -> dict[str, Any]:
    """Every circuit breaker: its state, and the figures of its window."""
    return {"items": [_shown(breaker) for breaker in _breakers(runtime).values()]}


@router.get("/breakers/{name}")
async def one_breaker(runtime: CurrentRuntime, _who: Admin, name: Name) -> dict[str, Any]:
    return _shown(_breaker(runtime, name))


@router.put("/breakers/{name}")
async def switch_breaker(runtime: CurrentRuntime, who: Admin, name: Name, wanted: BreakerMode) -> dict[str, Any]:
    """Take a breaker in hand, or give it back (`auto`: closed, with an empty window)."""
    breaker = _breaker(runtime, name)
    breaker.set_mode(wanted.mode)
    log.warning("a breaker was switched", breaker=name, mode=wanted.mode, by=who.id)
    return _shown(breaker)


@router.post("/breakers/{name}/reset")
async def reset_breaker(runtime: CurrentRuntime, who: Admin, name: Name) -> dict[str, Any]:
    """Close it with an empty window."""
    breaker = _breaker(runtime, name)
    breaker.reset()
    log.warning("a breaker was reset", breaker=name, by=who.id)
    return _shown(breaker)


@router.get("/cache")
async def cache_stats(runtime: CurrentRuntime, _who: Admin) -> dict[str, Any]:
    """Hits and misses of this process, and what it holds."""
    return await runtime.infrastructure.cache.get_stats()


@router.post("/cache/invalidate")
async def invalidate(runtime: CurrentRuntime, who: Admin, wanted: Pattern) -> dict[str, int]:
    """Drop what matches, in all replicas."""
    dropped = await runtime.infrastructure.cache.invalidate_by_pattern(wanted.pattern)
    log.warning("cached values were dropped", pattern=wanted.pattern, dropped=dropped, by=who.id)
    return {"dropped": dropped}


def _faults(runtime: Runtime) -> FaultSwitches:
    if not runtime.settings.fault_switches:
        raise ForbiddenError("fault switches are off: FAULT_SWITCHES allows them")
    return runtime.infrastructure.faults


def _known(faults: FaultSwitches, name: str) -> str:
    if name not in faults.names:
        raise NotFoundError("there is no such dependency")
    return name


def _shown_fault(faults: FaultSwitches, name: str) -> dict[str, Any]:
    fault = faults.active(name)
    if fault is None:
        return {"name": name, "kind": None}
    kind, left_s = str(fault.kind), round(faults.left_s(fault), 1)
    return {"name": name, "kind": kind, "latency_ms": fault.latency_s * 1_000, "expires_in_s": left_s}


@router.get("/faults")
async def fault_list(runtime: CurrentRuntime, _who: Admin) -> dict[str, Any]:
    """What can be made to fail, and what is."""
    faults = _faults(runtime)
    return {"items": [_shown_fault(faults, name) for name in faults.names]}


@router.put("/faults/{name}")
async def switch_fault_on(runtime: CurrentRuntime, who: Admin, name: Name, wanted: FaultOrder) -> dict[str, Any]:
    """Inject a fault until it expires or is switched off. `event_loop` takes `stall` alone: it blocks the loop at once,
    for `latency_ms`.
    """
    faults = _faults(runtime)
    log.warning("a fault was ordered", dependency=_known(faults, name), by=who.id, **wanted.model_dump())
    latency_s = wanted.latency_ms / 1_000
    if wanted.kind is FaultKind.LATENCY and not latency_s:
        raise BadRequestError("latency takes a latency_ms of more than 0")
    if name == EVENT_LOOP:
        if wanted.kind is not FaultKind.STALL or not 0 < latency_s <= LONGEST_BLOCK_S:
            raise BadRequestError("event_loop takes kind stall with a latency_ms of at most 30000")
        asyncio.get_running_loop().call_later(0.05, block_event_loop_on_purpose, latency_s)
        return {"name": name, "kind": wanted.kind, "latency_ms": wanted.latency_ms}
    if name == CACHE_ENTRIES and wanted.kind is not FaultKind.ERROR:
        raise BadRequestError("cache_entries takes kind error: while it lasts, every read of the cache is a miss")
    faults.switch_on(name, wanted.kind, latency_s=latency_s, expires_s=wanted.expires_s)
    return _shown_fault(faults, name)


def block_event_loop_on_purpose(seconds: float) -> None:
    """What the log must name."""
    time.sleep(seconds)


@router.delete("/faults/{name}")
async def switch_fault_off(runtime: CurrentRuntime, _who: Admin, name: Name) -> dict[str, Any]:
    faults = _faults(runtime)
    faults.switch_off(_known(faults, name))
    return _shown_fault(faults, name)
