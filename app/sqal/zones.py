"""The zone matrices of a message: found wherever a firmware puts them, shapes and values checked, never clamped."""

from __future__ import annotations

from itertools import chain
from math import isfinite
from typing import TYPE_CHECKING, Final

import numpy as np

from app.sqal.errors import Code, RefusalError
from app.sqal.flags import Flag
from app.sqal.frame import PLANE_LIMITS, pack_doubles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.sqal.wire import Matrices, Matrix, TofBlock

MIN_DISTANCE_MM: Final = 20
DISTANCE_BELOW_RANGE: Final = int(Flag.DISTANCE_BELOW_RANGE)
STATUS_UNKNOWN: Final = int(Flag.STATUS_UNKNOWN)
STATUS_BIT: Final = 1 << 4
_MATRIX_NAMES: Final = (
    ("distance_matrix", 0),
    ("reflectance_matrix", int(Flag.MISSING_REFLECTANCE)),
    ("amplitude_matrix", int(Flag.MISSING_AMPLITUDE)),
    ("ambient_matrix", int(Flag.MISSING_AMBIENT)),
    ("status_matrix", STATUS_UNKNOWN),
)
_ROW_LENGTHS: Final = {side: [side] * side for side in (4, 8)}


def _find(tof: TofBlock, name: str) -> Matrix | None:
    direct: Matrix | None = getattr(tof, name)
    if direct is not None:
        return direct
    places: tuple[Matrices | None, ...] = (tof.raw, tof.analysis)
    for place in places:
        if place is not None and (matrix := getattr(place, name)) is not None:
            return matrix  # type: ignore[no-any-return]
    return None


def read_matrices(tof: TofBlock) -> tuple[int, int, bytes, int]:
    """(zones a side, mask of matrices, their zones packed, flags); the shapes checked, not the values."""
    distance = _find(tof, "distance_matrix")
    if distance is None:
        raise RefusalError(Code.MISSING_FIELD, "vl53l8ch.distance_matrix is missing")
    side = 4 if len(distance) == 4 else 8  # noqa: PLR2004
    lengths = _ROW_LENGTHS[side]
    zones: list[float] = []
    mask = flags = 0
    for bit, (name, missing) in enumerate(_MATRIX_NAMES):
        matrix = _find(tof, name)
        if matrix is None:
            flags |= missing
            continue
        if list(map(len, matrix)) != lengths:
            raise RefusalError(Code.INVALID_MATRIX, f"vl53l8ch.{name} must be {side} rows of {side}")
        mask |= 1 << bit
        zones += chain.from_iterable(matrix)
    return side, mask, pack_doubles(zones), flags


def blame(packed: bytes, side: int, mask: int) -> RefusalError:
    """Which of a sample's packed zones hold a value that they must not."""
    size = side * side
    zones = memoryview(packed).cast("d")
    present = [bit for bit in range(len(_MATRIX_NAMES)) if mask & (1 << bit)]
    for row, bit in enumerate(present):
        name, limit = _MATRIX_NAMES[bit][0], PLANE_LIMITS[bit]
        values = zones[row * size : (row + 1) * size]
        if not all(map(isfinite, values)):
            return RefusalError(Code.NOT_FINITE, f"vl53l8ch.{name} holds a value that is not a finite number")
        if min(values) < 0 or max(values) > limit:
            return RefusalError(Code.OUT_OF_RANGE, f"vl53l8ch.{name} holds a value outside 0..{limit}")
    return RefusalError(Code.INVALID_TYPE, "vl53l8ch.status_matrix must hold whole numbers")


def flags_of(values: NDArray[np.float64], mask: int) -> list[int | None]:
    """What the zones of each sample give to remark; None for a status that is no whole number."""
    below = values[:, 0].min(axis=1) < MIN_DISTANCE_MM
    if not mask & STATUS_BIT:
        return [DISTANCE_BELOW_RANGE if one else 0 for one in below.tolist()]
    status = values[:, -1]
    whole = np.all(np.equal(np.trunc(status), status), axis=1)
    known = np.any(status, axis=1)
    return [
        ((DISTANCE_BELOW_RANGE if near else 0) | (0 if one else STATUS_UNKNOWN)) if number else None
        for near, number, one in zip(below.tolist(), whole.tolist(), known.tolist(), strict=True)
    ]
