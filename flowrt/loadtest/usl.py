"""The Universal Scalability Law, fitted to measured throughputs.

`X(n) = λ n / (1 + σ (n - 1) + κ n (n - 1))`: λ is the throughput at a concurrency of one, σ the serial share
(contention), κ the cost of keeping concurrent items consistent (coherency). With κ above 0, throughput peaks and falls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["COEFFICIENTS", "Scalability", "fit_usl"]

COEFFICIENTS: Final = 3
"""Coefficients of the law: as many points fit it exactly, whatever they are."""
_MIN_POINTS: Final = 3
_MAX_ERROR: Final = 0.15  # a model further off than this has no knee worth reporting


@dataclass(frozen=True, slots=True)
class Scalability:
    """Coefficients of the law, and how well they fit.

    Attributes:
        rate: λ, items a second at a concurrency of one.
        contention: σ, the serial share.
        coherency: κ, the cost of consistency.
        error: Relative distance of the measured throughputs from the law, as a root mean square.
        points: Distinct concurrencies in the fit.
    """

    rate: float
    contention: float
    coherency: float
    error: float = 0.0
    points: int = 0

    def throughput(self, n: float) -> float:
        """Predicted items a second at a concurrency."""
        return self.rate * n / (1 + self.contention * (n - 1) + self.coherency * n * (n - 1))

    @property
    def peak(self) -> float:
        """Concurrency of the highest throughput, at least 1; infinite if throughput never falls."""
        return max(1.0, math.sqrt(max(0.0, 1 - self.contention) / self.coherency)) if self.coherency else math.inf

    @property
    def knee(self) -> float:
        """Concurrency with the most throughput per latency (Kleinrock's power); beyond it, latency grows faster.

        At least 1; infinite if the law has neither contention nor coherency.
        """
        sigma, kappa = self.contention, self.coherency
        free = max(0.0, 1 - sigma)
        if not kappa:
            return max(1.0, free / sigma) if sigma else math.inf
        slope = sigma - kappa
        return max(1.0, (math.sqrt(slope * slope + 12 * kappa * free) - slope) / (6 * kappa))

    @property
    def trusted(self) -> bool:
        """True if the fit is meaningful: more points than coefficients, and close to all of them."""
        return self.points > COEFFICIENTS and self.error <= _MAX_ERROR


def fit_usl(points: Sequence[tuple[float, float]]) -> Scalability | None:
    """Fit the law by least squares of the relative error.

    Args:
        points: Pairs of concurrency and throughput in items a second.

    Returns:
        Coefficients that are not negative; None for fewer than three concurrencies with a throughput above 0.

    Example:
        >>> law = Scalability(10.0, 0.05, 0.001)
        >>> fitted = fit_usl([(n, law.throughput(n)) for n in (1, 2, 4, 8, 16, 32)])
        >>> round(fitted.contention, 3), round(fitted.coherency, 4), round(fitted.peak)
        (0.05, 0.001, 31)
    """
    points = [(n, x) for n, x in points if x > 0 and n > 0]
    if len({n for n, _ in points}) < _MIN_POINTS:
        return None
    # n / X = (1 + σ (n - 1) + κ n (n - 1)) / λ is linear in 1/λ, σ/λ and κ/λ; weighted by X / n, each target is 1
    rows = [(x / n, x / n * (n - 1), x * (n - 1)) for n, x in points]
    best: tuple[float, list[float]] | None = None
    for columns in ((0,), (0, 1), (0, 2), (0, 1, 2)):  # leaving a column out sets its coefficient to 0, not below
        solved = _least_squares(rows, columns)
        if solved is None or min(solved) < 0 or solved[0] <= 0:
            continue
        residual = sum((sum(a * c for a, c in zip(row, solved, strict=True)) - 1) ** 2 for row in rows)
        if best is None or residual < best[0] * (1 - 1e-9):
            best = residual, solved
    if best is None:
        return None
    residual, (inverse, sigma, kappa) = best
    error = math.sqrt(residual / len(points))
    return Scalability(1 / inverse, sigma / inverse, kappa / inverse, error, len({n for n, _ in points}))


def _least_squares(rows: Sequence[tuple[float, float, float]], columns: tuple[int, ...]) -> list[float] | None:
    """Solve the normal equations of `row · coefficients = 1` for the chosen columns; the others are 0.

    Returns None for a singular system.
    """
    size = len(columns)
    system = [[sum(row[i] * row[j] for row in rows) for j in columns] + [sum(row[i] for row in rows)] for i in columns]
    for at in range(size):
        pivot = max(range(at, size), key=lambda row: abs(system[row][at]))
        if abs(system[pivot][at]) < 1e-300:
            return None
        system[at], system[pivot] = system[pivot], system[at]
        for row in range(size):
            if row != at:
                factor = system[row][at] / system[at][at]
                system[row] = [a - factor * b for a, b in zip(system[row], system[at], strict=True)]
    solution = [0.0, 0.0, 0.0]
    for at, column in enumerate(columns):
        solution[column] = system[at][size] / system[at][at]
    return solution
