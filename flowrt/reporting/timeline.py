"""What happened when: counts and means over equal pieces of the batch's time."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from flowrt.recording.columns import OUTCOMES
from flowrt.reporting.attempts import Attempts, require_numpy

if TYPE_CHECKING:
    from flowrt.reporting.attempts import Ints

__all__ = ["Histogram", "Timeline", "make_histogram", "make_timeline"]

_PIECES: Final = 240
_BARS: Final = 80


@dataclass(slots=True)
class Timeline:
    """Equal pieces of a batch's time.

    Attributes:
        edges: Where they begin and end, in seconds: one more than there are pieces.
        ended: Items per second by how they ended.
        running: How many attempts ran, on average.
        limited: How many items held a slot and waited for a rate limit, on average.
        p50: The median service time of the attempts that ended, in seconds; NaN where none did.
        p95: Their 95th percentile.
        dry_s: When the last item got its first slot: from then on the batch only runs out.
    """

    edges: list[float]
    ended: dict[str, list[float]]
    running: list[float]
    limited: list[float]
    p50: list[float]
    p95: list[float]
    dry_s: float

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it: null where nothing ended."""
        shown: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        for name in ("p50", "p95"):
            shown[name] = [None if value != value else value for value in shown[name]]  # noqa: PLR0124  # NaN
        return shown


def make_timeline(attempts: Attempts, wall_ns: int) -> Timeline | None:
    """The pieces of a batch's time, or None where there is nothing to show.

    Args:
        attempts: The batch's attempts.
        wall_ns: How long it took.
    """
    np = require_numpy("a report of a recording")
    if not len(attempts) or wall_ns <= 0:
        return None
    edges = np.linspace(0, wall_ns, _PIECES + 1)
    width_s = wall_ns / 1e9 / _PIECES
    ended = {}
    for number, name in enumerate(OUTCOMES):
        of_it = attempts.last & (attempts.outcome == number)
        if of_it.any():
            ended[name] = (np.histogram(attempts.end[of_it], edges)[0] / width_s).tolist()
    ran = attempts.ran
    service = (attempts.end - attempts.start)[ran]
    piece = np.clip(np.searchsorted(edges, attempts.end[ran], side="right") - 1, 0, _PIECES - 1)
    order = np.lexsort((service, piece))
    starts = np.searchsorted(piece[order], np.arange(_PIECES + 1))
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
    """A quantile of each run of sorted values, in seconds."""
    found = []
    for begin, end in pairwise(starts.tolist()):
        found.append(float("nan") if begin == end else int(ranked[begin + int(q * (end - begin - 1))]) / 1e9)
    return found


def _mean_level(begin: Ints, end: Ints, edges: Any) -> list[float]:
    """How many intervals were open on average between each two edges."""
    np = require_numpy("a report of a recording")

    def spent(at: Ints) -> Any:
        """The time that all intervals have been open until each edge, were they never to end."""
        at = np.sort(at)
        sums = np.concatenate(([0], np.cumsum(at, dtype=np.float64)))
        count = np.searchsorted(at, edges, side="right")
        return count * edges - sums[count]

    area = spent(begin) - spent(end)
    return np.maximum(np.diff(area) / np.diff(edges), 0).tolist()  # type: ignore[no-any-return]


@dataclass(slots=True)
class Histogram:
    """How service times are spread, in pieces of equal ratio.

    Attributes:
        edges: In seconds: one more than there are pieces.
        ok: Attempts that went well.
        other: All others.
    """

    edges: list[float]
    ok: list[int]
    other: list[int]


def make_histogram(attempts: Attempts) -> Histogram | None:
    """The spread of the service times, or None where nothing ran.

    Args:
        attempts: The batch's attempts.
    """
    np = require_numpy("a report of a recording")
    ran = attempts.ran
    if not ran.any():
        return None
    service = np.maximum((attempts.end - attempts.start)[ran], 1000) / 1e9
    low, high = service.min(), service.max()
    edges = np.geomspace(low * 0.99, max(high, low * 1.5) * 1.01, _BARS + 1)
    ok = attempts.outcome[ran] == OUTCOMES.index("ok")
    return Histogram(
        edges=edges.tolist(),
        ok=np.histogram(service[ok], edges)[0].tolist(),
        other=np.histogram(service[~ok], edges)[0].tolist(),
    )
