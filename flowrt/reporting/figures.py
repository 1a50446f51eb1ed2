"""Figures of a batch: totals, quantiles, causes of failures, retries, timelines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from flowrt.recording.columns import OUTCOMES
from flowrt.reporting.attempts import Attempts, require_numpy
from flowrt.reporting.slot_timeline import Lanes, make_lanes
from flowrt.reporting.timeline import Histogram, Timeline, make_histogram, make_timeline

if TYPE_CHECKING:
    from flowrt.reporting.attempts import Ints

__all__ = ["Detail", "detail_of"]

_QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}


@dataclass(slots=True)
class Detail:
    """Figures of a finished batch. Times are in seconds.

    Attributes:
        name: Name of the batch.
        node: Id of the node.
        status: Status of the batch, or "" if unknown.
        started_at: Start as ISO 8601 text, or "".
        wall_s: Wall time; 0 if unknown.
        counts: Number of items by status.
        attempts: Number of calls of the node.
        service: Quantiles of the service time of attempts.
        duration: Quantiles of items' time from being pulled to their end.
        waiting: Quantiles of items' time in a slot before their first attempt.
        busy_s: Sum of all service times.
        throttled_s: Sum of the times that items in slots waited for rate limits or an open circuit.
        causes: Causes of failed items and attempts, the most frequent first.
        retries: Number of retried and of recovered items, and items by number of attempts.
        slowest: Slowest items with trace ids. `duration` is None if only the last attempt's time is known.
        bound: Wall time by cause of the ledger; empty if none was recorded.
        bound_timeline: The ledger over time: begin, end, and seconds by cause.
        explanation: Sentence of clauses about what limited the batch, the main cause first.
        overstated: Reason why the claimed speedup is far above the measured one, or "".
        stalls: Stalls of the event loop with culprit and delayed items, the worst first.
        speedup: Measured and claimed speedup; empty if unknown.
        limits: Pairs of a second and the concurrency limit from then on.
        settings: Settings of the processor.
        versions: Versions of flowrt and Python.
        source: File that the figures were read from, or "".
        command: Command line that ran the batch, without secrets, or "".
        timeline: Rates and levels over time, if times are known.
        histogram: Distribution of service times.
        lanes: Attempts by slot.
    """

    name: str
    node: str = ""
    status: str = ""
    started_at: str = ""
    wall_s: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    service: dict[str, float] = field(default_factory=dict)
    duration: dict[str, float] = field(default_factory=dict)
    waiting: dict[str, float] = field(default_factory=dict)
    busy_s: float = 0.0
    throttled_s: float = 0.0
    causes: list[dict[str, Any]] = field(default_factory=list)
    retries: dict[str, Any] = field(default_factory=dict)
    slowest: list[dict[str, Any]] = field(default_factory=list)
    bound: dict[str, float] = field(default_factory=dict)
    bound_timeline: list[tuple[float, float, dict[str, float]]] = field(default_factory=list)
    explanation: str = ""
    overstated: str = ""
    stalls: list[dict[str, Any]] = field(default_factory=list)
    speedup: dict[str, Any] = field(default_factory=dict)
    limits: list[tuple[float, int]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    source: str = ""
    command: str = ""
    timeline: Timeline | None = None
    histogram: Histogram | None = None
    lanes: Lanes | None = None

    @property
    def total(self) -> int:
        """Number of finished items."""
        return sum(self.counts.values())

    @property
    def succeeded(self) -> int:
        """Number of items that ended ok, in this run or in the run that it resumed."""
        return self.counts.get("ok", 0) + self.counts.get("resumed", 0)

    @property
    def failed(self) -> int:
        """Number of items that ended with any other status."""
        return self.total - self.succeeded

    @property
    def throughput(self) -> float:
        """Items per second; 0 if the wall time is unknown."""
        return self.total / self.wall_s if self.wall_s else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values, without the histogram and the lanes."""
        shown = {name: getattr(self, name) for name in self.__slots__ if name not in ("timeline", "histogram", "lanes")}
        shown |= {"total": self.total, "succeeded": self.succeeded, "failed": self.failed}
        shown["throughput"] = self.throughput
        shown["timeline"] = None if self.timeline is None else self.timeline.as_dict()
        return shown


def detail_of(meta: dict[str, Any], attempts: Attempts, *, source: str = "") -> Detail:
    """Compute the figures of a recorded batch.

    Args:
        meta: Metadata of the recording.
        attempts: Attempts of the recording.
        source: Name of the file.

    Raises:
        MissingExtraError: numpy is not installed.
    """
    np = require_numpy("a report of a recording")
    last, ran = attempts.last, attempts.ran
    ended = np.bincount(attempts.outcome[last], minlength=len(OUTCOMES))
    wall_ns = int(meta.get("wall_ns") or (attempts.end.max() if len(attempts) else 0))
    service = (attempts.end - attempts.start)[ran]
    first = ran & (attempts.attempt <= 1)
    bound = meta.get("ledger") or {"causes": [], "bound_ns": [], "timeline": []}
    return Detail(
        name=meta["batch"],
        node=meta.get("node", ""),
        status=meta.get("status", ""),
        started_at=meta.get("started_at", ""),
        wall_s=wall_ns / 1e9,
        counts={name: int(count) for name, count in zip(OUTCOMES, ended, strict=True)},
        attempts=int(ran.sum()),
        service=quantiles(service),
        duration=quantiles((attempts.end - attempts.pulled)[last & (attempts.attempt > 0)]),
        waiting=quantiles((attempts.start - attempts.slot)[first]),
        busy_s=float(service.sum()) / 1e9,
        throttled_s=float((attempts.start - attempts.slot).sum()) / 1e9,
        causes=_causes(meta.get("causes", []), attempts),
        retries=_retries(attempts),
        slowest=[
            {
                "index": item["index"],
                "status": item["status"],
                "attempts": item["attempts"],
                "duration": item["duration_ns"] / 1e9,
                "service": item["service_ns"] / 1e9,
                "ended": item["at_ns"] / 1e9,
                "trace_id": item["trace_id"],
            }
            for item in meta.get("slowest", [])
        ],
        bound={cause: ns / 1e9 for cause, ns in zip(bound["causes"], bound["bound_ns"], strict=True)},
        bound_timeline=[
            (begin / 1e9, end / 1e9, {c: ns / 1e9 for c, ns in zip(bound["causes"], spent, strict=True)})
            for begin, end, spent in bound["timeline"]
        ],
        explanation=meta.get("explanation") or "",
        overstated=meta.get("overstated") or "",
        stalls=sorted(meta.get("stalls") or [], key=lambda stall: -float(stall["delayed_s"])),
        speedup=meta.get("speedup") or {},
        limits=[(ns / 1e9, limit) for ns, limit in meta.get("limits", [])],
        settings=meta.get("settings", {}),
        versions=meta.get("versions", {}),
        source=source,
        command=meta.get("command") or "",
        timeline=make_timeline(attempts, wall_ns),
        histogram=make_histogram(service, attempts.outcome[ran] == OUTCOMES.index("ok")),
        lanes=make_lanes(attempts, wall_ns),
    )


def quantiles(values_ns: Ints) -> dict[str, float]:
    """Return quantiles, mean and extremes in seconds; empty if there are no values.

    Args:
        values_ns: Durations in nanoseconds.
    """
    np = require_numpy("a report of a recording")
    if not len(values_ns):
        return {}
    found = np.quantile(values_ns, list(_QUANTILES.values()))
    return {
        "mean": float(values_ns.mean()) / 1e9,
        "min": int(values_ns.min()) / 1e9,
        **{name: float(value) / 1e9 for name, value in zip(_QUANTILES, found, strict=True)},
        "max": int(values_ns.max()) / 1e9,
    }


def _causes(known: list[dict[str, Any]], attempts: Attempts) -> list[dict[str, Any]]:
    np = require_numpy("a report of a recording")
    had = attempts.cause >= 0
    size = max(len(known), int(attempts.cause.max(initial=-1)) + 1)
    tried = np.bincount(attempts.cause[had], minlength=size)
    ended = np.bincount(attempts.cause[had & attempts.last], minlength=size)
    shown = [
        {**cause, "items": int(ended[number]), "attempts": int(tried[number])} for number, cause in enumerate(known)
    ]
    for cause in shown:
        cause.pop("count", None)
    return sorted(shown, key=lambda cause: (-cause["items"], -cause["attempts"]))


def _retries(attempts: Attempts) -> dict[str, Any]:
    np = require_numpy("a report of a recording")
    retried = attempts.last & (attempts.attempt > 1)
    recovered = retried & (attempts.outcome == OUTCOMES.index("ok"))
    numbers = np.bincount(attempts.attempt[attempts.last])
    return {
        "items": int(retried.sum()),
        "recovered": int(recovered.sum()),
        "by_attempts": {number: int(count) for number, count in enumerate(numbers.tolist()) if count},
    }
