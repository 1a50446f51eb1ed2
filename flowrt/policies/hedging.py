"""Hedge: when a straggler gets a second attempt beside its first."""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass
from typing import Final

from flowrt._util.quantiles import Quantiles
from flowrt._util.validation import check_count, check_number, seconds_to_ns

__all__ = ["Hedge", "HedgeTracker"]

_GENERATION: Final = 1000
_QUANTILE: Final = re.compile(r"p(\d{1,2}(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Hedge:
    """A second attempt for an item whose first takes unusually long; the first success wins.

    For nodes that may run twice for one item at the same time, such as reads.

    Args:
        after: The duration from which an attempt is a straggler: a quantile of successful attempts, such as `"p95"`,
            or seconds.
        most: Further attempts that one item may get.
        share: Hedges that a batch may spend, as a share of its first attempts: when everything is slow, hedges only
            add load. The first hedge is always free.
        minimum: Successful attempts needed before a quantile is used.

    Raises:
        ValueError: A setting is out of its range.

    Example:
        >>> tracker = Hedge(after=0.5).begin()
        >>> tracker.due(running_ns=400_000_000, hedges=0, first_attempts=10)
        False
        >>> tracker.due(running_ns=500_000_000, hedges=0, first_attempts=10)
        True
    """

    after: str | float = "p95"
    _: KW_ONLY
    most: int = 1
    share: float = 0.1
    minimum: int = 20

    def __post_init__(self) -> None:
        if isinstance(self.after, str):
            if self.quantile is None:
                raise ValueError(f"after must be a quantile from 'p1' to 'p99.9', or seconds, not {self.after!r}")
        else:
            check_number("after", self.after, above=True, unit="of seconds, or a quantile such as 'p95',")
        check_count("most", self.most)
        check_number("share", self.share, above=True, most=1)
        check_count("minimum", self.minimum)

    @property
    def quantile(self) -> float | None:
        """The quantile, 0 to 1, or None if `after` is a time."""
        found = _QUANTILE.fullmatch(self.after) if isinstance(self.after, str) else None
        return float(found[1]) / 100 if found and float(found[1]) > 0 else None

    def begin(self) -> HedgeTracker:
        """Create the state of this policy for one batch."""
        return HedgeTracker(self)


class HedgeTracker:
    """State of a batch's hedges, created by `Hedge.begin`.

    The quantile covers the last one to two thousand attempts: a service that becomes slower as a whole has no more
    stragglers than before.

    Attributes:
        learns: True if `record` needs the attempts' durations.
        after_ns: The duration from which a running attempt is a straggler, in nanoseconds; None while unknown.
        most: Hedges that one item may get.
        share: Hedges that a batch may spend, as a share of its first attempts.
        hedged: Hedges granted so far.
    """

    __slots__ = ("_durations", "_mark", "_quantile", "after_ns", "hedged", "learns", "most", "share")

    def __init__(self, policy: Hedge) -> None:
        self._quantile = policy.quantile or 0.0
        self.most = policy.most
        self.share = policy.share
        self._mark = policy.minimum
        self._durations = Quantiles()
        self.learns = policy.quantile is not None
        self.after_ns = None if isinstance(policy.after, str) else max(1, seconds_to_ns(policy.after))
        self.hedged = 0

    def record(self, duration_ns: int) -> None:
        """Record a successful attempt; needed only if `learns` is true.

        Args:
            duration_ns: The item's duration in nanoseconds; for a hedged item from the start of its first attempt, or
                the quantile would fall with every hedge.
        """
        durations = self._durations
        durations.add(duration_ns * 1e-9)
        if durations.count >= self._mark:
            self.after_ns = max(1, seconds_to_ns(durations.at(self._quantile)))
            # computed at 20, 40, 80 … and then once per thousand, because it sorts several hundred buckets
            self._mark *= 2
            if self._mark > _GENERATION:
                if durations.count >= _GENERATION:
                    self._durations = Quantiles()
                self._mark = _GENERATION

    def due(self, running_ns: int, hedges: int, first_attempts: int) -> bool:
        """Decide if a running item gets a further attempt now; a granted one counts against the share.

        Args:
            running_ns: How long the item's first attempt has been running, in nanoseconds.
            hedges: Further attempts that the item already got.
            first_attempts: Items that the batch has started.
        """
        after = self.after_ns
        if after is None or hedges >= self.most or running_ns < after * (hedges + 1):
            return False
        if self.hedged >= 1 + self.share * first_attempts:
            return False
        self.hedged += 1
        return True

    def give_back(self) -> None:
        """Return the hedge that `due` granted last, unused."""
        self.hedged -= 1

    def __repr__(self) -> str:
        after = "quantile unknown" if self.after_ns is None else f"after {self.after_ns / 1e9:.3g} s"
        return f"<HedgeTracker: {after}, {self.hedged} hedged>"
