"""The Universal Scalability Law: what throughput becomes of concurrency, fitted to what was measured.

`X(n) = λ n / (1 + σ (n - 1) + κ n (n - 1))`: λ is the throughput of one at a time, σ the share that is done one after
the other, κ what the items cost each other. With κ above 0 throughput has a peak, beyond which more at once is less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Scalability", "fit_usl"]

_COEFFICIENTS: Final = 3
_LEAST_POINTS: Final = 3
_NEAR: Final = 0.15


@dataclass(frozen=True, slots=True)
class Scalability:
    """The law's coefficients.

    Attributes:
        rate: λ, items a second one at a time.
        contention: σ.
        coherency: κ.
        error: How far the throughputs that were measured are from it, as a share, in the root of the mean square.
        points: How many concurrencies it was fitted to.
    """

    rate: float
    contention: float
    coherency: float
    error: float = 0.0
    points: int = 0

    def throughput(self, n: float) -> float:
        """Items a second at a concurrency, as the law has it."""
        return self.rate * n / (1 + self.contention * (n - 1) + self.coherency * n * (n - 1))

    @property
    def peak(self) -> float:
        """The concurrency of the highest throughput, at least 1; infinite where there is none."""
        return max(1.0, math.sqrt(max(0.0, 1 - self.contention) / self.coherency)) if self.coherency else math.inf

    @property
    def knee(self) -> float:
        """Where throughput for latency is best (Kleinrock's power); beyond, latency grows faster than throughput does.

        At least 1, and infinite where the law sees neither contention nor cost of coherency.
        """
        sigma, kappa = self.contention, self.coherency
        free = max(0.0, 1 - sigma)
        if not kappa:
            return max(1.0, free / sigma) if sigma else math.inf
        slope = sigma - kappa
        return max(1.0, (math.sqrt(slope * slope + 12 * kappa * free) - slope) / (6 * kappa))

    @property
    def trusted(self) -> bool:
        """Whether it says something: it has fewer coefficients than points, and goes near all of them."""
        return self.points > _COEFFICIENTS and self.error <= _NEAR


def fit_usl(points: Sequence[tuple[float, float]]) -> Scalability | None:
    """Fit the law to concurrencies and their throughputs, each of which counts by its relative error.

    Args:
        points: Pairs of a concurrency and items a second.

    Returns:
        The coefficients, none of them negative; None for fewer than three concurrencies, or where nothing came through.

    Example:
        >>> law = Scalability(10.0, 0.05, 0.001)
        >>> fitted = fit_usl([(n, law.throughput(n)) for n in (1, 2, 4, 8, 16, 32)])
        >>> round(fitted.contention, 3), round(fitted.coherency, 4), round(fitted.peak)
        (0.05, 0.001, 31)
    """
    points = [(n, x) for n, x in points if x > 0 and n > 0]
    if len({n for n, _ in points}) < _LEAST_POINTS:
        return None
    # n / X = (1 + σ (n - 1) + κ n (n - 1)) / λ is linear in 1/λ, σ/λ and κ/λ; weighted by X / n, all shall be 1
    rows = [(x / n, x / n * (n - 1), x * (n - 1)) for n, x in points]
    best: tuple[float, list[float]] | None = None
    for some in ((0,), (0, 1), (0, 2), (0, 1, 2)):  # a coefficient that would be negative is 0
        solved = _least_squares(rows, some)
        if solved is None or min(solved) < 0 or solved[0] <= 0:
            continue
        wrong = sum((sum(a * c for a, c in zip(row, solved, strict=True)) - 1) ** 2 for row in rows)
        if best is None or wrong < best[0] * (1 - 1e-9):
            best = wrong, solved
    if best is None:
        return None
    wrong, (inverse, sigma, kappa) = best
    error = math.sqrt(wrong / len(points))
    return Scalability(1 / inverse, sigma / inverse, kappa / inverse, error, len({n for n, _ in points}))


def _least_squares(rows: Sequence[tuple[float, float, float]], some: tuple[int, ...]) -> list[float] | None:
    """Coefficients, those not among `some` 0, that make every row's sum come nearest to 1."""
    size = len(some)
    system = [[sum(row[i] * row[j] for row in rows) for j in some] + [sum(row[i] for row in rows)] for i in some]
    for at in range(size):
        pivot = max(range(at, size), key=lambda row: abs(system[row][at]))
        if abs(system[pivot][at]) < 1e-300:
            return None
        system[at], system[pivot] = system[pivot], system[at]
        for row in range(size):
            if row != at:
                times = system[row][at] / system[at][at]
                system[row] = [a - times * b for a, b in zip(system[row], system[at], strict=True)]
    found = [0.0, 0.0, 0.0]
    for at, place in enumerate(some):
        found[place] = system[at][size] / system[at][at]
    return found
