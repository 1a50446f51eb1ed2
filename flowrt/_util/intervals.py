"""Quantiles for confidence intervals."""

from __future__ import annotations

from statistics import NormalDist
from typing import Final

__all__ = ["NORMAL_95", "students_t"]

NORMAL_95: Final = NormalDist().inv_cdf(0.975)
"""Two-sided 95 % quantile of the normal distribution, for shares; `students_t` has that for means."""

_SMALL: Final = (12.706, 4.303, 3.182, 2.776)  # where the expansion below is off by more than 1 %


def students_t(degrees: int) -> float:
    """Compute the two-sided 95 % quantile of Student's t distribution.

    From 5 degrees of freedom on, it uses the expansion around the normal quantile (Abramowitz and Stegun, 26.7.5).

    Args:
        degrees: Degrees of freedom, at least 1.
    """
    if degrees <= len(_SMALL):
        return _SMALL[degrees - 1]
    z = NORMAL_95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3
