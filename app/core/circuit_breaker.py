"""Calls through a breaker: a dependency that fails is left alone for a while, and asked again by few."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from inspect import iscoroutinefunction
from random import Random
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypedDict, TypeVar

from app.core.breaker_policy import (
    FAILURE,
    SUCCESS,
    BreakerEvent,
    BreakerOptions,
    BreakerPolicy,
    BreakerView,
    Call,
    Mode,
    Outcome,
    State,
)
from app.core.errors import UnavailableError
from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from types import TracebackType
    from typing import Unpack

P = ParamSpec("P")
R = TypeVar("R")

STATE_NUMBERS: Final = {State.CLOSED: 0, State.OPEN: 1, State.HALF_OPEN: 2}

log = get_logger("gaveurs.breaker")


class CircuitOpenError(UnavailableError):
    """The breaker `name` did not let the call through; the dependency was not asked."""

    code = "circuit_open"

    def __init__(self, name: str, retry_after_s: float) -> None:
        # Not by way of the base: its two more calls are a fifth of what a rejection costs.
        self.name = name
        self.retry_after_s = retry_after_s
        self.detail = f"{name} is not asked at the moment; try again shortly"

    def __str__(self) -> str:
        return self.detail


@dataclass(frozen=True, slots=True)
class _Entry:
    """A call that is under way in a context."""

    guard: Guard
    call: Call
    task: asyncio.Task[Any] | None


# One for all breakers: a context keeps every variable that was ever set in it.
_under_way: ContextVar[tuple[_Entry, ...]] = ContextVar("calls under way", default=())


class _Core:
    """A policy with its clock and its listeners: what guards share when a handle is bound."""

    __slots__ = ("is_failed_result", "listeners", "monotonic", "options", "policy")

    def __init__(self, name: str, options: BreakerOptions, monotonic: Callable[[], float], rng: Random) -> None:
        self.options = options
        self.monotonic = monotonic
        self.is_failed_result = options.is_failed_result
        self.listeners: list[Callable[[BreakerEvent], None]] = []
        self.policy = BreakerPolicy(name, options, rng, self.announce)

    def enter_half_open(self, now_s: float) -> Call:
        """What no permit was free for: it goes along with an outer call, or is turned away."""
        policy = self.policy
        if _under_way.get() and self._holds_permit_here():
            return policy.ride(now_s)
        raise CircuitOpenError(policy.name, policy.reject(now_s))

    def _holds_permit_here(self) -> bool:
        """Whether this task is inside a call that holds a permit: rejecting it there would fail its own rehearsal."""
        policy, task = self.policy, asyncio.current_task()
        return any(
            entry.task is task
            and entry.call.has_permit
            and not entry.call.settled
            and entry.call.policy is policy
            and entry.call.generation == policy.generation
            for entry in _under_way.get()
        )

    def leave(self, call: Call, error: BaseException | None) -> None:
        outcome = SUCCESS if error is None else self._outcome_of(error)
        call.policy.settle(call, outcome, self.monotonic())  # not our policy: a handle may have been bound meanwhile

    def _outcome_of(self, error: BaseException) -> Outcome:
        if not isinstance(error, Exception):
            return Outcome.CANCELLED
        if self.options.classify is not None:
            return self._classified(error, self.options.classify)
        if isinstance(error, self.options.excluded):
            return SUCCESS
        return Outcome.IGNORED if isinstance(error, CircuitOpenError) else FAILURE

    def _classified(self, error: Exception, classify: Callable[[BaseException], Outcome]) -> Outcome:
        try:
            outcome = Outcome(classify(error))
        except Exception:  # whatever a foreign function raises must not replace the call's own error or keep its permit
            log.exception("breaker_classify_failed", breaker=self.policy.name)
            return FAILURE
        return Outcome.IGNORED if outcome is Outcome.REJECTED else outcome

    def announce(self, event: BreakerEvent) -> None:
        write = log.warning if event.after is State.OPEN else log.info
        write("breaker_moved", breaker=event.name, before=event.before, after=event.after, reason=event.reason)
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:  # a listener's fault is not the caller's, whose result this transition came with
                log.exception("breaker_listener_failed", breaker=event.name)


class Guard:
    """The ways through a breaker, shared by `CircuitBreaker` and `BreakerHandle`; for one event loop.

    Decorate a coroutine function, `await call(function, ...)`, `async with`, or pair `enter` and `leave`. Each raises
    `CircuitOpenError` instead of asking. A deadline belongs inside the guarded call, where it ends as a TimeoutError
    and a failure; one around it cancels, which says nothing about the dependency. `async with` is to be left in the
    context in which it was entered. A call inside another of the same task goes along on the half-open permit of the
    outer one, unless that one came by `enter`.
    """

    __slots__ = ("_core",)

    _core: _Core

    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        """The coroutine function, guarded; TypeError for any other."""
        if not iscoroutinefunction(function):
            raise TypeError(f"a breaker guards coroutine functions, and {function!r} is none")
        return wraps(function)(self._guarded(function))

    async def call(self, function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `function` returns or raises, unless the breaker rejects."""
        return await self._guarded(function)(*args, **kwargs)

    def _guarded(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            core = self._core
            policy, now_s = core.policy, core.monotonic()
            if now_s < policy.shut_until_s:
                raise CircuitOpenError(policy.name, policy.reject(now_s))
            call = policy.admit(now_s) or core.enter_half_open(now_s)
            if call.has_permit:
                self._note(call)
            try:
                result = await function(*args, **kwargs)
                failed = core.is_failed_result is not None and core.is_failed_result(result)
            except BaseException as error:
                core.leave(call, error)
                raise
            policy.settle(call, FAILURE if failed else SUCCESS, core.monotonic())
            return result

        return guarded

    async def __aenter__(self) -> None:
        self._note(self.enter())

    async def __aexit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        for entry in reversed(_under_way.get()):
            if entry.guard is self and not entry.call.settled:
                self.leave(entry.call, error)
                return

    def enter(self) -> Call:
        """The bare pair for hot paths: whatever happens, `leave` must follow."""
        core = self._core
        policy, now_s = core.policy, core.monotonic()
        if now_s < policy.shut_until_s:
            raise CircuitOpenError(policy.name, policy.reject(now_s))
        return policy.admit(now_s) or core.enter_half_open(now_s)

    def leave(self, call: Call, error: BaseException | None) -> None:
        """End a call with what it raised; never raises, and a second time is ignored."""
        self._core.leave(call, error)

    async def check(self, probe: Callable[[], Awaitable[object]]) -> None:
        """Run a background checker's `probe`, which does not go through this breaker itself; raises what it raises.

        While open it is no call, and its success lets calls try at once. Half-open or closed it is a call like others,
        so that an idle service closes again by itself; without a free permit it counts for nothing. It never lifts a
        forced opening.
        """
        core = self._core
        policy, now_s = core.policy, core.monotonic()
        call = None if self.state is State.OPEN else policy.admit(now_s)
        generation = policy.generation
        if call is not None and call.has_permit:
            self._note(call)
        try:
            await probe()
        except BaseException as error:
            if call is not None:
                core.leave(call, error)
            raise
        if call is not None:
            core.leave(call, None)
        else:
            policy.rehearse(generation, core.monotonic())

    def on_transition(self, listener: Callable[[BreakerEvent], None]) -> None:
        """Tell `listener` of each transition, after it is complete; through a handle, of the breaker bound now."""
        self._core.listeners.append(listener)

    def set_mode(self, mode: Mode) -> None:
        """Take the breaker in hand, or give it back with `Mode.AUTO`: then it is closed, with an empty window."""
        self._core.policy.set_mode(mode, self._core.monotonic())

    def reset(self) -> None:
        """Closed, with an empty window; a forced opening stays."""
        self._core.policy.reset(self._core.monotonic())

    @property
    def name(self) -> str:
        return self._core.policy.name

    @property
    def mode(self) -> Mode:
        return self._core.policy.mode

    @property
    def state(self) -> State:
        """Open stays open until a call or a probe comes; half-open that lasted too long is open again."""
        self._core.policy.lapse(self._core.monotonic())
        return self._core.policy.state

    @property
    def state_number(self) -> int:
        """0 closed, 1 open, 2 half-open; 1 when forced open, 0 when disabled."""
        return STATE_NUMBERS[self.state]

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """Calls since the start, by outcome."""
        return self._core.policy.outcomes

    @property
    def entered(self) -> dict[State, int]:
        """Transitions since the start, by the state they led to."""
        return dict(self._core.policy.entered)

    def view(self) -> BreakerView:
        return self._core.policy.view(self._core.monotonic())

    def _note(self, call: Call) -> None:
        others = tuple(entry for entry in _under_way.get() if not entry.call.settled)
        _under_way.set((*others, _Entry(self, call, asyncio.current_task())))


class OptionValues(TypedDict, total=False):
    """The fields of `BreakerOptions` as keywords."""

    failure_threshold: int
    success_threshold: int
    timeout: float
    half_open_max_calls: int
    max_timeout: float
    timeout_growth: float
    jitter: float
    window: float
    minimum_calls: int
    failure_rate: float
    slow_call: float | None
    slow_call_rate: float
    half_open_max_wait: float
    excluded: tuple[type[BaseException], ...]
    classify: Callable[[BaseException], Outcome] | None
    is_failed_result: Callable[[Any], bool] | None
    rehearsed: bool


class CircuitBreaker(Guard):
    """A breaker with the fields of `BreakerOptions` as keywords.

    `monotonic` gives seconds that never run backwards, `rng` the jitter of the open time. Each transition is logged
    once. A rejection by another breaker that passes through a call is ignored unless `classify` or `excluded` name it.
    """

    __slots__ = ()

    def __init__(
        self,
        *,
        name: str = "breaker",
        monotonic: Callable[[], float] = time.monotonic,
        rng: Random | None = None,
        **options: Unpack[OptionValues],
    ) -> None:
        jitter = rng or Random()  # noqa: S311 - spreads load, guards nothing
        self._core = _Core(name, BreakerOptions(**options), monotonic, jitter)


class BreakerHandle(Guard):
    """A name that can be imported before the process has its breaker: each use goes to the one that is bound then.

    Unbound, it goes to a breaker of its own with the default options.
    """

    __slots__ = ("_own",)

    def __init__(self, name: str) -> None:
        self._own = CircuitBreaker(name=name)
        self.unbind()

    def bind(self, breaker: CircuitBreaker) -> None:
        self._core = breaker._core  # noqa: SLF001 - the same family

    def unbind(self) -> None:
        self.bind(self._own)


db_breaker: Final = BreakerHandle("database")
cache_breaker: Final = BreakerHandle("cache")
