"""What was odd about a sample that was accepted all the same. The bit numbers are stored: never reuse one."""

from __future__ import annotations

from enum import IntFlag


class Flag(IntFlag):
    """Set on a stored sample, listed by name in its `flags`."""

    MISSING_REFLECTANCE = 1 << 0
    MISSING_AMPLITUDE = 1 << 1
    MISSING_AMBIENT = 1 << 2
    STATUS_UNKNOWN = 1 << 3
    """The status matrix is absent or all zero: the zones count as usable."""
    DISTANCE_BELOW_RANGE = 1 << 4
    """A zone nearer than the sensor's 20 mm."""
    UNKNOWN_SITE = 1 << 5
    IMPLAUSIBLE_CLOCK = 1 << 6
    """Device time beyond now - retention .. now + 5 min: server time makes the bucket."""
    ODD_CLAIM = 1 << 7
    """The claimed grade is none of ours, or the claimed compliance no boolean."""
    CLAIM_DISAGREES = 1 << 8
    """The server graded otherwise than the device claimed."""
    ODD_TEXT = 1 << 9
    """A descriptive field (farmer, location, ...) is no short text: kept in the original message only."""
    UNREADABLE_DEFECTS = 1 << 10
    MISSING_GAIN = 1 << 11

    @staticmethod
    def names(bits: int) -> list[str]:
        """`["status_unknown", ...]` in bit order."""
        return [flag.name.lower() for flag in Flag if bits & flag and flag.name]
