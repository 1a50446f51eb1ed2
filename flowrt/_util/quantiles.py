"""Quantiles of a stream of durations in constant memory."""

from __future__ import annotations

import math

__all__ = ["Quantiles"]

_GROWTH = math.log(1.02)  # a bucket is 2 % wide, so a quantile is within 1 % of the true value


class Quantiles:
    """Log-linear histogram of positive values, exact to about 1 % from a microsecond to a day.

    Example:
        >>> q = Quantiles()
        >>> for ms in range(1, 101):
        ...     q.add(ms / 1000)
        >>> round(q.at(0.5), 2)
        0.05
    """

    __slots__ = ("_buckets", "count", "highest", "lowest", "total")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.total = 0.0
        self.lowest = math.inf
        self.highest = 0.0

    def add(self, value: float) -> None:
        """Add one value, in seconds."""
        bucket = math.floor(math.log(value) / _GROWTH) if value > 1e-9 else -1100
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.total += value
        if value < self.lowest:
            self.lowest = value
        if value > self.highest:
            self.highest = value

    def at(self, q: float) -> float:
        """Return the quantile `q` (0 to 1); 0 while there are no values."""
        if not self.count:
            return 0.0
        rank = q * (self.count - 1)
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen > rank:
                middle = math.exp((bucket + 0.5) * _GROWTH)
                return min(max(middle, self.lowest), self.highest)
        return self.highest
