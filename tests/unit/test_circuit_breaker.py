"""Calls through a breaker, as tasks, decorators and handles make them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from random import Random
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.core import circuit_breaker
from app.core.breaker_policy import BreakerEvent, Mode, Outcome, State
from app.core.circuit_breaker import BreakerHandle, CircuitBreaker, CircuitOpenError
from app.core.errors import AppError


class Hands:
    """A clock's."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def breaker(hands: Hands) -> CircuitBreaker:
    return CircuitBreaker(name="database", monotonic=hands, rng=Random(1), jitter=0)


async def well() -> str:
    return "well"


async def sick() -> str:
    raise ConnectionError("sick")


async def open_it(breaker: CircuitBreaker | BreakerHandle) -> None:
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await breaker.call(sick)
    assert breaker.view().state is State.OPEN


async def half_open_it(breaker: CircuitBreaker | BreakerHandle) -> None:
    await open_it(breaker)
    await breaker.check(well)
    assert breaker.view().state is State.HALF_OPEN


async def through_decorator(breaker: CircuitBreaker, function: Callable[[], Any]) -> Any:
    return await breaker(function)()


async def through_call(breaker: CircuitBreaker, function: Callable[[], Any]) -> Any:
    return await breaker.call(function)


async def through_with(breaker: CircuitBreaker, function: Callable[[], Any]) -> Any:
    async with breaker:
        return await function()


async def through_pair(breaker: CircuitBreaker, function: Callable[[], Any]) -> Any:
    call = breaker.enter()
    try:
        result = await function()
    except BaseException as error:
        breaker.leave(call, error)
        raise
    breaker.leave(call, None)
    return result


WAYS = pytest.mark.parametrize("way", [through_decorator, through_call, through_with, through_pair])
Way = Callable[[CircuitBreaker, Callable[[], Any]], Coroutine[Any, Any, Any]]


@WAYS
async def test_every_way_counts_opens_rejects_and_closes_alike(breaker: CircuitBreaker, hands: Hands, way: Way) -> None:
    assert await way(breaker, well) == "well"
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await way(breaker, sick)
    with pytest.raises(CircuitOpenError):
        await way(breaker, well)
    hands.now_s += 60
    assert await way(breaker, well) == await way(breaker, well) == "well"
    assert breaker.view().state is State.CLOSED
    assert breaker.outcomes == {"success": 3, "failure": 5, "ignored": 0, "cancelled": 0, "rejected": 1}
    assert breaker.entered == {"closed": 1, "open": 1, "half_open": 1}


@WAYS
async def test_a_cancelled_call_is_no_failure_and_gives_its_permit_back(breaker: CircuitBreaker, way: Way) -> None:
    await half_open_it(breaker)
    for _ in range(3):
        began = asyncio.Event()

        async def hang(began: asyncio.Event = began) -> None:
            began.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(way(breaker, hang))
        await began.wait()
        assert breaker.view().permits_in_use == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert breaker.view().permits_in_use == 0
    assert breaker.outcomes[Outcome.CANCELLED] == 3
    assert await way(breaker, well) == "well"


@WAYS
async def test_a_call_inside_a_call_is_not_turned_away_for_want_of_a_second_permit(
    breaker: CircuitBreaker, way: Way
) -> None:
    await half_open_it(breaker)

    async def outer() -> Any:
        with pytest.raises(CircuitOpenError):
            await asyncio.create_task(way(breaker, well))  # another task asks for itself
        return await way(breaker, well)

    through = through_call if way is through_pair else way
    assert await through(breaker, outer) == "well"
    assert breaker.view().state is State.HALF_OPEN  # one success, not two
    assert await way(breaker, well) == "well"
    assert breaker.view().state is State.CLOSED


async def test_a_permit_of_another_breaker_takes_nobody_along(breaker: CircuitBreaker) -> None:
    other = CircuitBreaker()
    await half_open_it(breaker)
    await half_open_it(other)
    breaker.enter()
    async with other:
        with pytest.raises(CircuitOpenError):
            await breaker.call(well)


async def test_a_call_that_is_over_takes_nobody_along(breaker: CircuitBreaker) -> None:
    await half_open_it(breaker)
    async with breaker:
        pass
    for _ in range(3):
        breaker.enter()
    with pytest.raises(CircuitOpenError):
        await breaker.call(well)


async def test_a_permit_that_is_void_takes_nobody_along(breaker: CircuitBreaker, hands: Hands) -> None:
    await half_open_it(breaker)
    async with breaker:
        hands.now_s += 11
        assert breaker.view().state is State.OPEN
        await breaker.check(well)
        breaker.enter()
        with pytest.raises(CircuitOpenError):
            await breaker.call(well)


async def test_a_task_does_not_gather_the_calls_that_it_has_ended(breaker: CircuitBreaker) -> None:
    for _ in range(100):
        async with breaker:
            pass
    assert len(circuit_breaker._under_way.get()) == 1


async def test_an_inner_block_ends_its_own_call_and_leaves_the_outer_one_its_permit(breaker: CircuitBreaker) -> None:
    await half_open_it(breaker)
    async with breaker:
        async with breaker:
            pass
        assert breaker.view().permits_in_use == 1
    assert breaker.view().permits_in_use == 0


async def test_a_failure_inside_a_half_open_call_opens_it_though_the_outer_one_forgives(
    breaker: CircuitBreaker,
) -> None:
    await half_open_it(breaker)
    async with breaker:
        with pytest.raises(ConnectionError):
            await breaker.call(sick)
    assert breaker.view().state is State.OPEN


async def test_of_two_hundred_waiting_callers_one_reaches_a_dependency_that_is_still_sick(
    breaker: CircuitBreaker, hands: Hands
) -> None:
    await open_it(breaker)
    hands.now_s += 60
    reached = 0

    @breaker
    async def ask() -> None:
        nonlocal reached
        reached += 1
        await asyncio.sleep(0)
        raise ConnectionError

    outcomes = await asyncio.gather(*(ask() for _ in range(200)), return_exceptions=True)
    assert reached == 1
    assert sum(isinstance(outcome, CircuitOpenError) for outcome in outcomes) == 199


async def test_concurrent_blocks_on_one_breaker_end_each_their_own_call(breaker: CircuitBreaker) -> None:
    gates = [asyncio.Event() for _ in range(6)]

    async def block(number: int) -> None:
        async with breaker:
            async with breaker:
                await gates[number].wait()
            if number % 2:
                raise ConnectionError

    tasks = [asyncio.create_task(block(number)) for number in range(6)]
    for number in (3, 0, 5, 1, 4, 2):
        await asyncio.sleep(0)
        gates[number].set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (breaker.outcomes[Outcome.SUCCESS], breaker.outcomes[Outcome.FAILURE]) == (9, 3)


async def test_a_deadline_inside_a_call_is_a_failure(breaker: CircuitBreaker) -> None:
    @breaker
    async def late() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await late()
    assert breaker.outcomes[Outcome.FAILURE] == 1


async def test_a_result_from_before_the_last_transition_is_counted_and_changes_nothing(
    breaker: CircuitBreaker, hands: Hands
) -> None:
    late = [breaker.enter() for _ in range(10)]
    await half_open_it(breaker)
    before = breaker.view()
    for call in late[:5]:
        breaker.leave(call, ConnectionError())
    for call in late[5:]:
        breaker.leave(call, None)
    assert breaker.view() == before
    assert (breaker.outcomes[Outcome.SUCCESS], breaker.outcomes[Outcome.FAILURE]) == (5, 10)


async def test_leaving_twice_counts_once(breaker: CircuitBreaker) -> None:
    await half_open_it(breaker)
    call = breaker.enter()
    breaker.leave(call, None)
    breaker.leave(call, ConnectionError())
    assert (breaker.state, breaker.outcomes[Outcome.SUCCESS], breaker.view().permits_in_use) == (State.HALF_OPEN, 1, 0)


async def test_a_rejection_is_an_error_that_a_client_can_read(breaker: CircuitBreaker, hands: Hands) -> None:
    await open_it(breaker)
    hands.now_s += 20
    with pytest.raises(CircuitOpenError) as raised:
        await breaker.call(well)
    error = raised.value
    assert isinstance(error, AppError)
    assert (error.status, error.code, error.name, error.retry_after_s) == (503, "circuit_open", "database", 40)
    assert error.detail == str(error) == "database is not asked at the moment; try again shortly"


async def test_excluded_errors_are_answers() -> None:
    breaker = CircuitBreaker(excluded=(LookupError,))
    for error in (ConnectionError, KeyError):
        for _ in range(4):
            breaker.leave(breaker.enter(), error())
    assert breaker.view().consecutive_failures == 0
    assert (breaker.outcomes[Outcome.SUCCESS], breaker.outcomes[Outcome.FAILURE]) == (4, 4)


async def test_a_classifier_has_the_last_word_on_exceptions_and_none_on_cancellation() -> None:
    def classify(error: BaseException) -> Outcome:
        return Outcome.IGNORED if isinstance(error, BlockingIOError) else Outcome.SUCCESS

    breaker = CircuitBreaker(classify=classify, excluded=(BlockingIOError,))
    for error in (BlockingIOError(), ConnectionError(), asyncio.CancelledError(), KeyboardInterrupt()):
        breaker.leave(breaker.enter(), error)
    assert breaker.outcomes == {"success": 1, "failure": 0, "ignored": 1, "cancelled": 2, "rejected": 0}


async def test_what_a_classifier_calls_rejected_is_ignored() -> None:
    breaker = CircuitBreaker(classify=lambda _error: Outcome.REJECTED)
    breaker.leave(breaker.enter(), ConnectionError())
    assert (breaker.outcomes[Outcome.IGNORED], breaker.outcomes[Outcome.REJECTED]) == (1, 0)


@pytest.mark.parametrize("answer", [None, "nonsense", ZeroDivisionError()])
async def test_a_classifier_that_is_broken_keeps_no_permit_and_hides_no_error(answer: Any) -> None:
    def classify(_error: BaseException) -> Outcome:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    breaker = CircuitBreaker(classify=classify)
    with capture_logs() as lines, pytest.raises(ConnectionError):
        await breaker.call(sick)
    assert breaker.outcomes[Outcome.FAILURE] == 1
    assert [line["event"] for line in lines] == ["breaker_classify_failed"]


async def test_a_rejection_by_another_breaker_says_nothing_about_this_one(breaker: CircuitBreaker) -> None:
    other = CircuitBreaker(name="cache")
    other.set_mode(Mode.FORCED_OPEN)
    for _ in range(10):
        with pytest.raises(CircuitOpenError, match="cache"):
            await breaker.call(other(well))
    assert (breaker.state, breaker.outcomes[Outcome.IGNORED]) == (State.CLOSED, 10)


async def test_a_result_can_be_a_failure() -> None:
    breaker = CircuitBreaker(is_failed_result=lambda status: status >= 500)

    @breaker
    async def answer(status: int) -> int:
        return status

    for status in (200, 500, 503):
        assert await answer(status) == status
    assert (breaker.outcomes[Outcome.SUCCESS], breaker.outcomes[Outcome.FAILURE]) == (1, 2)


def test_only_coroutine_functions_are_guarded(breaker: CircuitBreaker) -> None:
    async def generate() -> AsyncIterator[int]:
        yield 1

    for other in (lambda: None, generate, 3):
        with pytest.raises(TypeError, match="coroutine function"):
            breaker(other)  # type: ignore[arg-type]


async def test_a_decorated_function_keeps_its_name_and_arguments(breaker: CircuitBreaker) -> None:
    @breaker
    async def add(one: int, *, two: int) -> int:
        """Sum."""
        return one + two

    assert await add(1, two=2) == 3
    assert (add.__name__, add.__doc__, inspect.iscoroutinefunction(add)) == ("add", "Sum.", True)


async def test_states_have_numbers_for_alerts(breaker: CircuitBreaker, hands: Hands) -> None:
    numbers = [breaker.state_number]
    await open_it(breaker)
    numbers.append(breaker.state_number)
    hands.now_s += 60
    call = breaker.enter()
    numbers.append(breaker.state_number)
    hands.now_s += 11  # and it hangs
    numbers.append(breaker.state_number)
    breaker.leave(call, None)
    breaker.set_mode(Mode.DISABLED)
    assert [*numbers, breaker.state_number] == [0, 1, 2, 1, 0]


async def test_each_transition_is_told_and_logged_once_and_a_broken_listener_harms_nobody(
    breaker: CircuitBreaker,
) -> None:
    events: list[BreakerEvent] = []

    def broken(_event: BreakerEvent) -> None:
        raise ZeroDivisionError

    breaker.on_transition(broken)
    breaker.on_transition(events.append)
    with capture_logs() as lines:
        await open_it(breaker)
    assert events == [BreakerEvent("database", State.CLOSED, State.OPEN, "5 failures in a row", 0.0)]
    assert [line["event"] for line in lines] == ["breaker_moved", "breaker_listener_failed"]
    assert lines[0]["log_level"] == "warning"


def test_an_open_time_longer_than_the_limit_of_growth_is_kept() -> None:
    breaker = CircuitBreaker(failure_threshold=1, timeout=600, jitter=0, monotonic=lambda: 0.0)
    breaker.leave(breaker.enter(), ConnectionError())
    assert breaker.view().retry_after_s == 600
