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
PATIENCE: Final = Gcra(Rate(per_second=1_000 / 60, burst=1_000))
OTHERS: Final = "*"
LONGEST_RETRY_S: Final = 60.0


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
        self._patience_until = 0.0

    def retry_after_s(self, device: str, size_bytes: int) -> float:
        """0 when the message is taken; else it is not, and after so many seconds it would be."""
        key = self._keys.get(device) or self._key(device)
        decision = self._limits.messages.check(key)
        if decision.allowed:
            decision = self._limits.message_bytes.check(key, size_bytes)
        if decision.allowed:
            return 0.0
        wait_s = decision.retry_after_s
        return max(0.001, min(wait_s, LONGEST_RETRY_S)) if isfinite(wait_s) else LONGEST_RETRY_S

    def _key(self, device: str) -> str:
        if len(self._keys) >= self._limits.devices_per_connection:
            return self._keys.setdefault(OTHERS, f"{self._who} {self._connection} {OTHERS}")
        key = self._keys[device] = f"{self._who} {device or self._connection}"
        return key

    def is_abuse(self) -> bool:
        """One more message came over the limit: whether these are too many."""
        self._patience_until, decision = PATIENCE.decide(self._patience_until, self._monotonic())
        return not decision.allowed
