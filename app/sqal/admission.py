"""Whether one more message of a device is taken now: the limits, as one connection meets them."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Final

from app.core.rate_policy import Gcra, Rate

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.core.rate_limiter import Limiter

# So many messages over the limit, and then so many more a minute, are answered; who sends on is let go.
PATIENCE: Final = Gcra(Rate(per_second=1_000 / 60, burst=5_000))
OTHERS: Final = "*"
LONGEST_RETRY_S: Final = 60.0
# While the database is away nothing is charged, as devices send each message again when they are told to; beyond this:
FLOOD: Final = Gcra(Rate(per_second=2_000, burst=20_000))


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """Budgets by device. A connection that names more devices than `devices_per_connection` has one for the rest."""

    messages: Limiter
    message_bytes: Limiter
    devices_per_connection: int


class Admission:
    """The limits of one connection. Keyed by who is behind it and the device that a message names, so that devices
    behind one address, or on one socket, do not share a budget, and inventing devices gains little.
    """

    def __init__(self, limits: DeviceLimits, who: str, connection: str, monotonic: Callable[[], float]) -> None:
        """`connection` stands for messages that name no device."""
        self._limits = limits
        self._who = who
        self._connection = connection
        self._monotonic = monotonic
        self._keys: dict[str, str] = {}
        self._next_at: dict[str, float] = {}
        self._patience_until = 0.0
        self._flood_until = 0.0

    def retry_after_s(self, device: str, size_bytes: int) -> float:
        """0 when the message is taken. Else it is not, and after so many seconds there will be room for it: each one is
        told a later time than the one before, so that a device which obeys comes at its rate, not with all at once.
        """
        key = self._keys.get(device) or self._key(device)
        messages, sizes = self._limits.messages, self._limits.message_bytes
        decision = messages.check(key)
        if decision.allowed:
            decision = sizes.check(key, size_bytes)
            if decision.allowed:
                return 0.0
            messages.give_back(key)
        if not isfinite(decision.retry_after_s):
            return LONGEST_RETRY_S
        now = self._monotonic()
        each_s = max(1 / messages.rate.per_second, size_bytes / sizes.rate.per_second)
        wait_s = max(decision.retry_after_s, self._next_at.get(key, now) + each_s - now)
        self._next_at[key] = now + min(wait_s, LONGEST_RETRY_S)
        return max(0.001, min(wait_s, LONGEST_RETRY_S))

    def give_back(self, device: str, size_bytes: int) -> None:
        """A message that was taken found no room: it costs its device nothing."""
        key = self._keys.get(device) or self._key(device)
        self._limits.messages.give_back(key)
        self._limits.message_bytes.give_back(key, size_bytes)

    def _key(self, device: str) -> str:
        if len(self._keys) >= self._limits.devices_per_connection:
            return self._keys.setdefault(OTHERS, f"{self._who} {self._connection} {OTHERS}")
        key = self._keys[device] = f"{self._who} {device or self._connection}"
        return key

    def is_flood(self) -> bool:
        """One more message came while none can be stored: whether these are too many for any fleet."""
        self._flood_until, decision = FLOOD.decide(self._flood_until, self._monotonic())
        return not decision.allowed

    def is_abuse(self) -> bool:
        """One more message came over the limit: whether these are too many."""
        self._patience_until, decision = PATIENCE.decide(self._patience_until, self._monotonic())
        return not decision.allowed
