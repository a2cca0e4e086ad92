"""When a dependency is asked and when it is left alone: a state machine without I/O, given the time at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

BUCKETS: Final = 10
REHEARSED_RETRY_S: Final = 2.0  # a probe every second, then one more second to be admitted
HALF_OPEN_RETRY_S: Final = 1.0


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Mode(StrEnum):
    """`forced_open` rejects everything, `disabled` admits everything and only counts."""

    AUTO = "auto"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"


class Outcome(StrEnum):
    """What a call says about the dependency: ignored and cancelled ones nothing; a rejected one never reached it."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


# The few that each call needs: reading a member from its class costs 65 ns in Python 3.11.
SUCCESS: Final = Outcome.SUCCESS
FAILURE: Final = Outcome.FAILURE


@dataclass(frozen=True, slots=True)
class BreakerOptions:
    """When a breaker opens and closes. Times in seconds, rates above 0 up to 1; ValueError for what makes no sense."""

    failure_threshold: int = 5
    """Failures in a row that open it."""
    success_threshold: int = 2
    """Half-open successes that close it."""
    timeout: float = 60
    """How long it stays open the first time."""
    half_open_max_calls: int = 3
    """At once, after the first has succeeded."""
    max_timeout: float = 300
    """Where growing ends, before jitter; never less than `timeout`."""
    timeout_growth: float = 2.0
    """Factor each time it opens again without having closed."""
    jitter: float = 0.1
    """Spreads each open time by this share to both sides, so that replicas do not ask together."""
    window: float = 30.0
    """What the rates look back on, in ten steps."""
    minimum_calls: int = 20
    """Below it in the window no rate is judged."""
    failure_rate: float = 0.5
    slow_call: float | None = None
    """From this duration on a call is slow."""
    slow_call_rate: float = 0.8
    half_open_max_wait: float = 10.0
    """Half-open calls that bring no decision for longer than this open it again."""
    excluded: tuple[type[BaseException], ...] = ()
    """Exceptions with which the dependency answered: successes."""
    classify: Callable[[BaseException], Outcome] | None = None
    """Says what an `Exception` means; `excluded` is not looked at then."""
    is_failed_result: Callable[[Any], bool] | None = None
    """Whether what a function returned is a failure after all."""
    rehearsed: bool = False
    """Somebody runs a probe every second: a rejected caller may try again long before the open time is over."""

    def __post_init__(self) -> None:
        for name in ("failure_threshold", "success_threshold", "half_open_max_calls", "minimum_calls"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("timeout", "max_timeout", "window", "half_open_max_wait"):
            self._require(name, 0 < getattr(self, name) < math.inf, "a number of seconds above 0")
        for name in ("failure_rate", "slow_call_rate"):
            self._require(name, 0 < getattr(self, name) <= 1, "above 0 and at most 1")
        self._require("slow_call", self.slow_call is None or self.slow_call > 0, "None or above 0")
        self._require("timeout_growth", 1 <= self.timeout_growth < math.inf, "at least 1")
        self._require("jitter", 0 <= self.jitter < 1, "at least 0 and below 1")

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {wanted}, not {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class BreakerEvent:
    """A transition; `at_s` on the breaker's monotonic clock."""

    name: str
    before: State
    after: State
    reason: str
    at_s: float


@dataclass(frozen=True, slots=True)
class BreakerView:
    """A breaker at one moment; calls, failures and slow calls are those in the window."""

    name: str
    state: State
    mode: Mode
    generation: int
    calls: int
    failures: int
    slow_calls: int
    failure_rate: float
    consecutive_failures: int
    permits_in_use: int
    open_for_s: float
    """Since when it is open; 0 when it is not."""
    retry_after_s: float
    """When trying again may help; 0 when it would be tried now."""
    transitions: int


class Call:
    """An admitted call, to be settled once with the policy that admitted it."""

    __slots__ = ("generation", "has_permit", "policy", "settled", "started_s")

    def __init__(self, policy: BreakerPolicy, generation: int, started_s: float) -> None:
        self.policy = policy
        self.generation = generation
        self.started_s = started_s
        self.has_permit = False
        """Whether it is one of the few of a half-open breaker."""
        self.settled = False


class SlidingWindow:
    """Sums over the last `window_s` seconds in a ring of ten buckets; the oldest leaves as a whole."""

    __slots__ = ("_bucket", "_ring", "_slot", "_width_s", "calls", "failures", "slow_calls")

    def __init__(self, window_s: float) -> None:
        self._width_s = window_s / BUCKETS
        self._slot = 0
        self.clear()

    def clear(self) -> None:
        self.calls = self.failures = self.slow_calls = 0
        self._ring = [[0, 0, 0] for _ in range(BUCKETS)]
        self._bucket = self._ring[self._slot % BUCKETS]

    def add(self, failed: bool, slow: bool, now_s: float) -> None:
        if now_s // self._width_s != self._slot:
            self.turn_to(now_s)
        bucket = self._bucket
        bucket[0] += 1
        self.calls += 1
        if failed:
            bucket[1] += 1
            self.failures += 1
        if slow:
            bucket[2] += 1
            self.slow_calls += 1

    def turn_to(self, now_s: float) -> None:
        """Forget what is older than the window."""
        slot = int(now_s // self._width_s)
        for passed in range(max(self._slot + 1, slot - BUCKETS + 1), slot + 1):
            bucket = self._ring[passed % BUCKETS]
            self.calls -= bucket[0]
            self.failures -= bucket[1]
            self.slow_calls -= bucket[2]
            bucket[:] = (0, 0, 0)
        self._slot = max(slot, self._slot)
        self._bucket = self._ring[self._slot % BUCKETS]


class BreakerPolicy:
    """Closed, open, half-open, as `BreakerOptions` says; `announce` gets each transition after it is complete.

    `admit` gives a `Call` or None, `settle` ends it. Half-open admits one call, then up to `half_open_max_calls` at
    once. A call from before the last transition is counted in `outcomes` and changes nothing else.
    """

    def __init__(
        self, name: str, options: BreakerOptions, rng: Random, announce: Callable[[BreakerEvent], None]
    ) -> None:
        self.name = name
        self.options = options
        self.mode = Mode.AUTO
        self.generation = -1
        self.rejected = 0
        self._settled = dict.fromkeys(Outcome, 0)
        self.entered = dict.fromkeys(State, 0)
        self._rng = rng
        self._announce = announce
        self._window = SlidingWindow(options.window)
        self._slow_call_s = math.inf if options.slow_call is None else options.slow_call
        self._opened_at_s = 0.0
        self._permits = self._streak = self._successes = 0
        self._undecided_since_s: float | None = None
        self._begin(State.CLOSED, 0.0)

    def admit(self, now_s: float) -> Call | None:
        """A call that may go ahead, or None; what is turned away then is told to `reject`."""
        if self._free:
            return Call(self, self.generation, now_s)
        return self._admit_few(now_s)

    def reject(self, now_s: float) -> float:
        """Count a rejection; in how many seconds trying again may help."""
        self.rejected += 1
        rest_s = self.shut_until_s - now_s
        if rest_s <= 0:
            return HALF_OPEN_RETRY_S
        return rest_s if rest_s < self._retry_cap_s else self._retry_cap_s  # noqa: FURB136 - min() takes 75 ns more

    def ride(self, now_s: float) -> Call:
        """A call inside one that holds a permit: its failure counts, its success is the outer call's to report."""
        return Call(self, self.generation, now_s)

    def settle(self, call: Call, outcome: Outcome, now_s: float) -> None:
        """End a call; a second time is ignored."""
        if call.settled:
            return
        call.settled = True
        self._settled[outcome] += 1
        if self._undecided_since_s is not None:
            self.lapse(now_s)
        if call.generation != self.generation:
            return
        if call.has_permit:
            self._permits -= 1
        failed = outcome is FAILURE
        if failed:
            self._streak += 1
        elif outcome is SUCCESS:
            self._streak = 0
        else:
            return
        window = self._window
        window.add(failed, now_s - call.started_s >= self._slow_call_s, now_s)
        if not self._free:
            self._decide(call, failed, now_s)
        elif window.failures or window.slow_calls:
            self._judge(now_s)

    def lapse(self, now_s: float) -> None:
        """Open again when calls went out half-open and brought no success for longer than `half_open_max_wait`.

        An idle half-open breaker does not lapse: nothing hangs, and opening would keep sparse callers out for good.
        """
        since_s = self._undecided_since_s
        if since_s is not None and now_s - since_s > self.options.half_open_max_wait:
            self._move(State.OPEN, "half-open calls brought no decision", now_s)

    def rehearse(self, generation: int, now_s: float) -> None:
        """A probe that began in `generation` succeeded: an open breaker tries calls at once."""
        if generation == self.generation and self.state is State.OPEN and self.mode is Mode.AUTO:
            self._move(State.HALF_OPEN, "a probe succeeded", now_s)

    def set_mode(self, mode: Mode, now_s: float) -> None:
        """A change of mode starts anew, with an empty window: open when forced open, else closed."""
        if mode is not self.mode:
            self.mode = mode
            after = State.OPEN if mode is Mode.FORCED_OPEN else State.CLOSED
            self._move(after, f"the mode was set to {mode}", now_s)

    def reset(self, now_s: float) -> None:
        """Closed, with an empty window; the mode stays, and forced open stays open."""
        if self.mode is not Mode.FORCED_OPEN:
            self._move(State.CLOSED, "it was reset", now_s)

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """All calls so far, by outcome."""
        return self._settled | {Outcome.REJECTED: self.rejected}

    def view(self, now_s: float) -> BreakerView:
        self.lapse(now_s)
        window = self._window
        window.turn_to(now_s)
        return BreakerView(
            name=self.name,
            state=self.state,
            mode=self.mode,
            generation=self.generation,
            calls=window.calls,
            failures=window.failures,
            slow_calls=window.slow_calls,
            failure_rate=window.failures / window.calls if window.calls else 0.0,
            consecutive_failures=self._streak,
            permits_in_use=self._permits,
            open_for_s=now_s - self._opened_at_s if self.state is State.OPEN else 0.0,
            retry_after_s=self._retry_after_s(now_s),
            transitions=sum(self.entered.values()),
        )

    def _retry_after_s(self, now_s: float) -> float:
        if self.state is State.HALF_OPEN and self._permits >= self._allowed:
            return HALF_OPEN_RETRY_S
        return min(max(self.shut_until_s - now_s, 0.0), self._retry_cap_s)

    def _admit_few(self, now_s: float) -> Call | None:
        self.lapse(now_s)
        if self.state is State.OPEN and now_s >= self.shut_until_s:
            self._move(State.HALF_OPEN, "the open time is over", now_s)
        if self.state is State.HALF_OPEN and self._permits < self._allowed:
            self._permits += 1
            if self._undecided_since_s is None:
                self._undecided_since_s = now_s
            call = Call(self, self.generation, now_s)
            call.has_permit = True
            return call
        return Call(self, self.generation, now_s) if self._free else None  # a listener may have closed it

    def _decide(self, call: Call, failed: bool, now_s: float) -> None:
        if failed:
            self._move(State.OPEN, "a half-open call failed", now_s)
        elif call.has_permit:
            self._successes += 1
            self._allowed = self.options.half_open_max_calls
            self._undecided_since_s = now_s if self._permits else None
            if self._successes >= self.options.success_threshold:
                self._move(State.CLOSED, f"{self._successes} half-open calls succeeded", now_s)

    def _judge(self, now_s: float) -> None:
        options, window = self.options, self._window
        if self.mode is not Mode.AUTO:
            return
        if self._streak >= options.failure_threshold:
            self._move(State.OPEN, f"{self._streak} failures in a row", now_s)
        elif window.calls < options.minimum_calls:
            return
        elif window.failures / window.calls >= options.failure_rate:
            self._move(State.OPEN, f"{window.failures} of {window.calls} calls failed", now_s)
        elif window.slow_calls / window.calls >= options.slow_call_rate:
            self._move(State.OPEN, f"{window.slow_calls} of {window.calls} calls were slow", now_s)

    def _move(self, after: State, reason: str, now_s: float) -> None:
        before = self.state
        self._begin(after, now_s)
        if before is not after:
            self.entered[after] += 1
            self._announce(BreakerEvent(self.name, before, after, reason, now_s))

    def _begin(self, state: State, now_s: float) -> None:
        self.state = state
        self.generation += 1
        self._free = state is State.CLOSED
        self._window.clear()
        self._permits = self._streak = self._successes = 0
        self._allowed = 1
        self._undecided_since_s = None
        self.shut_until_s = -math.inf
        self._retry_cap_s = REHEARSED_RETRY_S if self.options.rehearsed else math.inf
        if state is State.CLOSED:
            self._next_open_s = self.options.timeout
        elif state is State.OPEN:
            self._shut(now_s)

    def _shut(self, now_s: float) -> None:
        self._opened_at_s = now_s
        if self.mode is Mode.FORCED_OPEN:
            self.shut_until_s = math.inf
            self._retry_cap_s = self.options.timeout
            return
        options, open_s = self.options, self._next_open_s
        self.shut_until_s = now_s + open_s * (1 + options.jitter * self._rng.uniform(-1, 1))
        self._next_open_s = min(open_s * options.timeout_growth, max(options.timeout, options.max_timeout))
