"""Timeline and histogram of a batch: rates and levels over equal intervals, distribution of service times."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from flowrt.recording.columns import OUTCOMES
from flowrt.reporting.attempts import Attempts, require_numpy

if TYPE_CHECKING:
    from flowrt.reporting.attempts import Ints

__all__ = ["Histogram", "Timeline", "make_histogram", "make_timeline"]

_INTERVALS: Final = 240
_BINS: Final = 80


@dataclass(slots=True)
class Timeline:
    """Series over equal intervals of a batch's wall time.

    Attributes:
        edges: Edges of the intervals, in seconds; one more than there are intervals.
        ended: Items per second, by status.
        running: Mean number of running attempts.
        limited: Mean number of items that held a slot and waited for a rate limit.
        p50: Median service time of the attempts that ended in the interval, in seconds; NaN if none did.
        p95: 95th percentile of the same, in seconds.
        dry_s: Time at which the last item was pulled, in seconds: from then on the input is exhausted.
    """

    edges: list[float]
    ended: dict[str, list[float]]
    running: list[float]
    limited: list[float]
    p50: list[float]
    p95: list[float]
    dry_s: float

    def as_dict(self) -> dict[str, Any]:
        """Return the series as JSON values, with null for NaN."""
        shown: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        for name in ("p50", "p95"):
            shown[name] = [None if value != value else value for value in shown[name]]  # noqa: PLR0124  # NaN
        return shown


def make_timeline(attempts: Attempts, wall_ns: int) -> Timeline | None:
    """Return the timeline of a batch, or None if it has no attempts.

    Args:
        attempts: Attempts of the batch.
        wall_ns: Wall time in nanoseconds.
    """
    np = require_numpy("a report of a recording")
    if not len(attempts) or wall_ns <= 0:
        return None
    edges = np.linspace(0, wall_ns, _INTERVALS + 1)
    width_s = wall_ns / 1e9 / _INTERVALS
    ended = {}
    for number, name in enumerate(OUTCOMES):
        matches = attempts.last & (attempts.outcome == number)
        if matches.any():
            ended[name] = (np.histogram(attempts.end[matches], edges)[0] / width_s).tolist()
    ran = attempts.ran
    service = (attempts.end - attempts.start)[ran]
    interval = np.clip(np.searchsorted(edges, attempts.end[ran], side="right") - 1, 0, _INTERVALS - 1)
    order = np.lexsort((service, interval))
    starts = np.searchsorted(interval[order], np.arange(_INTERVALS + 1))
    ranked = service[order]
    return Timeline(
        edges=(edges / 1e9).tolist(),
        ended=ended,
        running=_mean_level(attempts.start[ran], attempts.end[ran], edges),
        limited=_mean_level(attempts.slot, attempts.start, edges),
        p50=_ranks(ranked, starts, 0.5),
        p95=_ranks(ranked, starts, 0.95),
        dry_s=int(attempts.pulled[attempts.last].max(initial=0)) / 1e9,
    )


def _ranks(ranked: Ints, starts: Ints, q: float) -> list[float]:
    """Return a quantile of each group of sorted values, in seconds."""
    found = []
    for begin, end in pairwise(starts.tolist()):
        found.append(float("nan") if begin == end else int(ranked[begin + int(q * (end - begin - 1))]) / 1e9)
    return found


def _mean_level(begin: Ints, end: Ints, edges: Any) -> list[float]:
    """Return the mean number of open intervals between neighbouring edges."""
    np = require_numpy("a report of a recording")

    def spent(at: Ints) -> Any:
        """Return the total time since all earlier times, at each edge."""
        at = np.sort(at)
        sums = np.concatenate(([0], np.cumsum(at, dtype=np.float64)))
        count = np.searchsorted(at, edges, side="right")
        return count * edges - sums[count]

    area = spent(begin) - spent(end)
    return np.maximum(np.diff(area) / np.diff(edges), 0).tolist()  # type: ignore[no-any-return]


@dataclass(slots=True)
class Histogram:
    """Distribution of service times over logarithmic bins.

    Attributes:
        edges: Edges of the bins, in seconds; one more than there are bins.
        ok: Number of attempts that ended ok, by bin.
        other: Number of all other attempts, by bin.
    """

    edges: list[float]
    ok: list[int]
    other: list[int]


def make_histogram(service_ns: Ints, ok: Any) -> Histogram | None:
    """Return the distribution of service times, or None if nothing ran.

    Args:
        service_ns: Service times of the attempts that ran, in nanoseconds.
        ok: True for each attempt that ended ok.
    """
    np = require_numpy("a report of a recording")
    if not len(service_ns):
        return None
    service = np.maximum(service_ns, 1000) / 1e9
    low, high = service.min(), service.max()
    edges = np.geomspace(low * 0.99, max(high, low * 1.5) * 1.01, _BINS + 1)
    return Histogram(
        edges=edges.tolist(),
        ok=np.histogram(service[ok], edges)[0].tolist(),
        other=np.histogram(service[~ok], edges)[0].tolist(),
    )
