"""Small dense algebra over many frames at once, the frames along the last axis.

Only +, -, *, / and sqrt on whole arrays, and sums in an order of our own: IEEE 754 fixes every bit of the result, so a
frame comes out the same alone and among five hundred. (BLAS and numpy's own reductions choose their order by shape.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fold(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum along the last axis but one, halves added to halves; its length is a power of two."""
    while (length := values.shape[-2]) > 1:
        values = values[..., : length // 2, :] + values[..., length // 2 :, :]
    return values[..., 0, :]


class Symmetric:
    """A positive definite matrix for each frame, factored as L D L^T: (K, K) of (frames,).

    `rows[k]` holds the elements k.. of row k, (K - k, frames). Each diagonal element grows by the share `damping` of
    itself and by a millionth of the greatest, so that no pivot vanishes.
    """

    def __init__(self, rows: list[NDArray[np.float64]], damping: NDArray[np.float64] | float = 0.0) -> None:
        size = len(rows)
        top = rows[0][0]
        for row in rows[1:]:
            top = np.maximum(top, row[0])
        ridge = 1e-9 + 1e-6 * top
        left = [row.copy() for row in rows]
        for row in left:
            row[0] = row[0] * (1.0 + damping) + ridge
        self._pivots: list[NDArray[np.float64]] = []
        self._lower: list[NDArray[np.float64]] = []  # _lower[k][i] = L[k + 1 + i, k]
        for k in range(size):
            pivot = np.maximum(left[k][0], ridge)
            column = left[k][1:] / pivot
            self._pivots.append(pivot)
            self._lower.append(column)
            for i in range(k + 1, size):
                left[i] = left[i] - column[i - k - 1] * left[k][i - k :]

    def solve(self, right: NDArray[np.float64]) -> NDArray[np.float64]:
        """(K, frames) -> the solution, (K, frames)."""
        x = self._forward(right)
        size = len(x)
        for k in range(size):
            x[k] = x[k] / self._pivots[k]
        for k in range(size - 2, -1, -1):
            for i in range(k + 1, size):
                x[k] = x[k] - self._lower[k][i - k - 1] * x[i]
        return np.stack(x)

    def _forward(self, right: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        x = list(right)
        for k in range(len(x)):
            for i in range(k + 1, len(x)):
                x[i] = x[i] - self._lower[k][i - k - 1] * x[k]
        return x

    def quadratic(self, right: NDArray[np.float64]) -> NDArray[np.float64]:
        """v^T M^-1 v for (K, ..., frames): (..., frames)."""
        total = None
        for part, pivot in zip(self._forward(right), self._pivots, strict=True):
            term = part * part / pivot
            total = term if total is None else total + term
        if total is None:
            raise ValueError("an empty system")
        return total
