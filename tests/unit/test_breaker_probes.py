"""What background probes and handles do to a breaker."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from app.core.breaker_policy import Mode, Outcome, State
from app.core.circuit_breaker import BreakerHandle, CircuitBreaker, CircuitOpenError, cache_breaker, db_breaker
from tests.unit.test_circuit_breaker import Hands, half_open_it, open_it, sick, well


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def breaker(hands: Hands) -> CircuitBreaker:
    return CircuitBreaker(name="database", monotonic=hands, rng=Random(1), jitter=0)


async def test_probes_alone_close_it_again(breaker: CircuitBreaker) -> None:
    await open_it(breaker)
    with pytest.raises(ConnectionError):
        await breaker.check(sick)
    assert (breaker.state, breaker.outcomes[Outcome.FAILURE]) == (State.OPEN, 5)
    states = []
    for _ in range(3):
        await breaker.check(well)
        states.append(breaker.state)
    assert states == [State.HALF_OPEN, State.HALF_OPEN, State.CLOSED]
    assert breaker.outcomes[Outcome.SUCCESS] == 2  # the probe of an open breaker is no call


async def test_a_probe_that_fails_when_the_open_time_is_over_delays_no_caller(
    breaker: CircuitBreaker, hands: Hands
) -> None:
    await open_it(breaker)
    hands.now_s += 60
    with pytest.raises(ConnectionError):
        await breaker.check(sick)
    assert breaker.entered[State.OPEN] == 1
    assert await breaker.call(well) == "well"


async def test_a_probe_that_fails_half_open_opens_it_and_closed_counts(breaker: CircuitBreaker) -> None:
    await half_open_it(breaker)
    with pytest.raises(ConnectionError):
        await breaker.check(sick)
    assert breaker.view().state is State.OPEN
    breaker.reset()
    with pytest.raises(ConnectionError):
        await breaker.check(sick)
    assert breaker.view().consecutive_failures == 1


async def test_a_probe_without_a_permit_runs_and_counts_for_nothing(breaker: CircuitBreaker) -> None:
    await half_open_it(breaker)
    call = breaker.enter()
    await breaker.check(well)
    with pytest.raises(ConnectionError):
        await breaker.check(sick)
    assert breaker.view().permits_in_use == 1
    assert (breaker.outcomes[Outcome.SUCCESS], breaker.outcomes[Outcome.REJECTED]) == (0, 0)
    breaker.leave(call, None)


async def test_a_half_open_probe_may_go_through_the_breaker_itself(breaker: CircuitBreaker) -> None:
    await half_open_it(breaker)
    await breaker.check(breaker(well))
    await breaker.check(breaker(well))
    assert breaker.view().state is State.CLOSED


async def test_a_cancelled_probe_keeps_no_permit(breaker: CircuitBreaker) -> None:
    await half_open_it(breaker)

    async def cut() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await breaker.check(cut)
    assert (breaker.state, breaker.view().permits_in_use) == (State.HALF_OPEN, 0)


async def test_a_probe_lifts_no_forced_opening(breaker: CircuitBreaker) -> None:
    breaker.set_mode(Mode.FORCED_OPEN)
    ran = 0

    async def probe() -> None:
        nonlocal ran
        ran += 1

    await breaker.check(probe)
    assert (ran, breaker.state, breaker.mode, breaker.state_number) == (1, State.OPEN, Mode.FORCED_OPEN, 1)


async def test_a_decorated_function_follows_its_handle(breaker: CircuitBreaker) -> None:
    handle = BreakerHandle("database")
    ask = handle(well)
    await ask()
    handle.bind(breaker)
    await ask()
    assert handle.outcomes == breaker.outcomes
    await open_it(breaker)
    with pytest.raises(CircuitOpenError):
        await ask()
    assert (handle.state, handle.view()) == (State.OPEN, breaker.view())
    handle.unbind()
    await ask()
    assert handle.outcomes[Outcome.SUCCESS] == 2


async def test_a_call_ends_at_the_breaker_that_admitted_it(breaker: CircuitBreaker, hands: Hands) -> None:
    handle, other = BreakerHandle("database"), CircuitBreaker(monotonic=hands)
    handle.bind(breaker)
    await half_open_it(handle)
    call = handle.enter()
    handle.bind(other)
    handle.leave(call, None)
    handle.bind(breaker)
    async with handle:
        handle.bind(other)
    assert breaker.view().state is State.CLOSED
    assert handle.outcomes == dict.fromkeys(Outcome, 0)


def test_the_handles_of_the_process_have_the_usual_options() -> None:
    assert [(handle.name, handle.state) for handle in (db_breaker, cache_breaker)] == [
        ("database", State.CLOSED),
        ("cache", State.CLOSED),
    ]
