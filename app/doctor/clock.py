"""The time: ours against the network's, the database's and Redis's."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Final

from app.bug_resources import CLOCKS_APART_S
from app.doctor.finding import Finding, fine, note, problem, warning

if TYPE_CHECKING:
    from app.doctor.patient import Patient

TOPIC: Final = "clock"
APART_S: Final = 2.0
TIME_ERROR: Final = 5  # adjtimex(2): the kernel's clock is not synchronised
TIMEX_BYTES: Final = 512  # more than any struct timex; all zero asks and sets nothing
SYNCHRONISE: Final = "timedatectl set-ntp true (or start chrony)"


async def check_clock(_patient: Patient) -> list[Finding]:
    return judge_kernel(_kernel_state())


def _kernel_state() -> int | None:
    """What adjtimex(2) returns; None where it cannot be asked."""
    if sys.platform != "linux":
        return None
    state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    return state if state >= 0 else None


def judge_kernel(state: int | None) -> list[Finding]:
    if state is None:
        return [note(TOPIC, "the kernel does not say whether this clock is synchronised", do="timedatectl")]
    if state == TIME_ERROR:
        follows = "received_at, alerts and shifts follow this clock; devices are told to correct theirs by it"
        return [warning(TOPIC, "this machine's clock is not synchronised", follows, SYNCHRONISE)]
    return [fine(TOPIC, "the kernel says that it is synchronised")]


def judge_offset(whose: str, offset_s: float, trip_s: float) -> list[Finding]:
    """`offset_s`: theirs minus ours, known to half a round trip."""
    apart_s = abs(offset_s) - trip_s / 2
    what = f"{whose}'s clock is {abs(offset_s):.1f} s {'ahead of' if offset_s > 0 else 'behind'} ours"
    if apart_s > CLOCKS_APART_S:
        follows = "alerts of one replica are missed by the others' bugs; ages and shifts are wrong"
        return [problem(TOPIC, what, follows, f"on both machines: {SYNCHRONISE}")]
    if apart_s > APART_S:
        return [warning(TOPIC, what, "ages of samples and devices are off by as much", f"on both: {SYNCHRONISE}")]
    return [fine(TOPIC, f"{whose} and we agree to {max(abs(offset_s), trip_s / 2) * 1000:.0f} ms")]
