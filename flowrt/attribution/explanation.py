"""Explanation: one sentence with the causes that limited a batch, and advice that the figures support."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

from flowrt._util.cores import usable_cores
from flowrt._util.cpu_time import CpuTime
from flowrt.attribution.ledger import CAUSES, Cause, Ledger
from flowrt.attribution.processes_gain import advise_processes, processes_gain
from flowrt.attribution.speedup import Speedup, threads_compete, threads_compute
from flowrt.attribution.stalls import Stall

__all__ = ["EndedBatch", "explain", "explain_batch", "why_overstated"]

_LEAST_SHARE: Final = 0.05  # of the wall time; the first cause is always named
_LEAST_FOR_ADVICE: Final = 0.10
_LEAST_CULPRIT: Final = 0.10  # of the time for which the loop was blocked
_MOST_FAILED: Final = 0.10  # of the items; above, more at a time may make more of them fail
_CORE_FULL: Final = 0.7  # of a core's time
_LOOP_FULL: Final = 0.7  # of the loop's time: more items at once would mostly wait for it
_LESS: Final = "do less per item"
_SHORTEST_NS: Final = 1_000_000  # a shorter batch has nothing to explain

_Part = Cause | Literal["workerless"]
_PARTS: Final[tuple[_Part, ...]] = (*CAUSES, "workerless")
"""Parts of a sentence: the causes, and the time in which no remote worker was ready."""

_COLLECTOR: Final = "Python's garbage collector"


class EndedBatch(Protocol):
    """The fields of a batch that has ended, as far as an explanation needs them."""

    @property
    def ledger(self) -> Ledger | None:
        """The ledger, or None if none was kept."""

    @property
    def batch_id(self) -> str:
        """The id of the batch's run."""

    @property
    def limit(self) -> int:
        """The concurrency limit."""

    @property
    def pulled(self) -> int:
        """Number of inputs pulled."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of items that ended, by status."""

    @property
    def cpu_time(self) -> CpuTime | None:
        """Times of the attempts, if they ran in threads."""

    @property
    def speedup(self) -> Speedup | None:
        """The speedup, or None while it is not known."""

    @property
    def in_process(self) -> bool:
        """True if the attempts ran in this process, on the loop or in threads."""

    @property
    def plain_workers(self) -> int:
        """Number of remote workers that run one item of the batch at a time, or 0."""

    @property
    def started_ns(self) -> int:
        """When the batch started, by its clock."""

    @property
    def finished_ns(self) -> int:
        """When the batch ended, by its clock."""


def explain_batch(batch: EndedBatch, bound_ns: Mapping[Cause, int] | None = None) -> str:
    """Explain a batch in one sentence; empty if it has no ledger.

    Args:
        batch: The batch's record.
        bound_ns: Nanoseconds by cause so far, for a batch that has not ended.
    """
    ledger = batch.ledger
    if ledger is None:
        return ""
    if bound_ns is None:
        if batch.finished_ns - batch.started_ns < _SHORTEST_NS:
            return ""
        bound_ns = ledger.read(batch.finished_ns)
    return explain(
        bound_ns,
        limit=batch.limit,
        items=batch.pulled,
        ended=bool(batch.finished_ns),
        completed=sum(batch.counts.values()),
        failed=batch.counts["failed"] + batch.counts["timed_out"],
        left=ledger.left,
        computing_ns=ledger.computing_ns,
        blocked_computing_ns=ledger.blocked_computing_ns,
        workerless_ns=ledger.read_workerless(bound_ns),
        cpu=batch.cpu_time,
        in_process=batch.in_process,
        plain_workers=batch.plain_workers,
        busy_ns=ledger.busy_ns,
        overstated=bool(batch.finished_ns) and (speedup := batch.speedup) is not None and speedup.diverges,
        stalls=_stalls_of_others(batch, ledger),
    )


def explain(
    bound_ns: Mapping[Cause, int],
    *,
    limit: int,
    items: int = 0,
    ended: bool = True,
    completed: int = 0,
    failed: int = 0,
    left: int = 0,
    computing_ns: int = 0,
    blocked_computing_ns: int = 0,
    workerless_ns: Mapping[Cause, int] | None = None,
    cpu: CpuTime | None = None,
    in_process: bool = True,
    plain_workers: int = 0,
    cores: int | None = None,
    busy_ns: int = 0,
    overstated: bool = False,
    stalls: Sequence[Stall] = (),
) -> str:
    """Name the causes by their share of the wall time, and give the advice for the largest cause that has any.

    Args:
        bound_ns: The ledger, in nanoseconds by cause.
        limit: The concurrency limit.
        items: Number of items so far, or 0 if unknown.
        ended: True if no further items will come.
        completed: Number of items that ended, or 0 for all.
        failed: Number of items that failed or timed out.
        left: Number of items that were still running or queued when the input was exhausted.
        computing_ns: The part of `service` in which the loop's thread computed.
        blocked_computing_ns: The part of `loop_blocked` in which the loop's thread computed.
        workerless_ns: The part of each cause in which items had slots and no remote worker was ready.
        cpu: Times of the attempts, if they ran in threads.
        in_process: True if the attempts ran in this process, so that worker processes may be faster.
        plain_workers: Number of remote workers that run one item of the batch at a time, or 0.
        cores: Number of cores for worker processes; None for this machine's.
        busy_ns: Time for which the loop was busy and not blocked.
        overstated: True if the claimed speedup is far above the measured one, so that more slots would not help.
        stalls: The longest stalls of the loop.
    """
    wall_ns = sum(bound_ns.values())
    if wall_ns < _SHORTEST_NS:
        return ""
    bound: dict[_Part, int] = {"workerless": 0}
    for cause in CAUSES:
        part_ns = 0 if workerless_ns is None else workerless_ns.get(cause, 0)
        bound[cause] = bound_ns.get(cause, 0) - part_ns
        bound["workerless"] += part_ns  # more slots would have waited for the workers, too
    if 0 < items < limit + ended:  # no item ever waited for a slot
        bound["service"] += bound["slots"]
        bound["slots"] = 0
    completed = completed or items
    failing = failed / completed if completed else 0.0
    cpu_ns = computing_ns + blocked_computing_ns if cpu is None else cpu.cpu_ns
    share_loop = in_process and (overstated or (cpu is None and busy_ns >= _LOOP_FULL * wall_ns))
    if share_loop and cpu is None:  # `computing_ns` has only the intervals in which the loop never rested
        cpu_ns = max(cpu_ns, min(busy_ns + blocked_computing_ns, wall_ns))

    def compute_less() -> str:  # only where it is said: to count the cores takes longer than the rest
        return _compute_less(cpu_ns, wall_ns, items, limit, cores or usable_cores()) if in_process else _LESS

    words = _Words(
        bound, wall_ns, limit, items, failing, left, computing_ns, blocked_computing_ns, cpu, compute_less, stalls,
        plain_workers, cores, share_loop,
    )  # fmt: skip
    parts: list[str] = []
    advised = False
    for each in sorted(_PARTS, key=lambda each: -bound[each]):
        share = bound[each] / wall_ns
        if share < _LEAST_SHARE and parts:
            break
        what, advice = words.of(each)
        text = what.replace("{share}", _percent(share), 1)  # not `format`: a node's name may hold braces
        if advice and not advised and share >= _LEAST_FOR_ADVICE:
            advised = True
            text = f"{text}: {advice}"
        parts.append(text)
    return "; ".join(parts)


def _compute_less(cpu_ns: int, wall_ns: int, items: int, limit: int, cores: int) -> str:
    """Give the advice for a batch whose items compute, with what processes would gain."""
    at_once = min(limit, items or limit)
    workers = min(cores, at_once)
    if cores == 1 and advise_processes(processes_gain(cpu_ns, cpu_ns, items, min(2, at_once)), 2) != _LESS:
        # compare CPU times: other programs may take most of the wall time of a single core
        return f'{_LESS}, or use executor="processes" where there is more than this one core'
    return advise_processes(processes_gain(cpu_ns, wall_ns, items, workers), workers)


class _Words:
    """Words and advice for each cause of one batch."""

    def __init__(
        self,
        bound_ns: Mapping[_Part, int],
        wall_ns: int,
        limit: int,
        items: int,
        failing: float,
        left: int,
        computing_ns: int,
        blocked_computing_ns: int,
        cpu: CpuTime | None,
        compute_less: Callable[[], str],
        stalls: Sequence[Stall],
        plain_workers: int,
        cores: int | None,
        share_loop: bool,
    ) -> None:
        self._blocked_ns = bound_ns.get("loop_blocked", 0)
        self._limit = limit
        self._items = items
        self._failing = failing
        self._left = left
        self._computes = computing_ns > 0.5 * bound_ns.get("service", 0)
        self._block_computes = blocked_computing_ns > 0.5 * self._blocked_ns
        self._cpu = cpu
        self._compute_less = compute_less
        self._cores = 0.0 if cpu is None else cpu.cpu_ns / wall_ns  # mean number of cores that the threads used
        self._compete = cpu is not None and threads_compete(cpu, wall_ns / 1e9, self._blocked_ns / 1e9)
        self._stalls = stalls
        self._workers = plain_workers
        self._all_cores = cores
        self._share_loop = share_loop

    def of(self, cause: _Part) -> tuple[str, str]:
        """Return the words, with the field `{share}`, and the advice."""
        if cause == "workerless":
            return "{share} of the time the workers were starting", ""
        if cause == "slots":
            return self._of_slots()
        if cause == "input":
            return "{share} waited for input", "more slots would not help, a faster source would"
        if cause == "paused":
            return "{share} it was paused", ""
        if cause == "rate_limit":
            return (
                "{share} waited for the rate limit or an open circuit",
                "more slots would not help, a higher limit would",
            )
        if cause == "backoff":
            return "{share} waited to try failed items again", self._find_out_why_they_fail()
        if cause == "consumer":
            return "{share} waited for results to be taken", "take them faster, more slots would not help"
        if cause == "loop_blocked":
            return self._of_blocked_loop()
        if cause == "tail":
            known = self._items and self._left
            last = f"the last {_percent(self._left / self._items)} of items" if known else "the last items"
            if known and self._left >= self._items:  # each had a slot from the beginning
                last = "the slowest items"
            return f"{last} took {{share}} of the time", "a shorter item_timeout or a hedge would bound that"
        if self._computes:
            return "{share} Python itself was the bottleneck (one core full)", self._compute_less()
        if self._compete:
            return "{share} the threads computed and waited for each other", self._compute_less()
        if 0 < self._workers < min(self._limit, self._items or self._limit):
            return self._of_workers()
        return "{share} every item left was running", self._find_out_why_they_fail() or "only faster items would help"

    def _of_slots(self) -> tuple[str, str]:
        if 0 < self._workers <= self._limit:
            return self._of_workers()
        busy = "the one slot was" if self._limit == 1 else f"all {self._limit:,} slots were"
        what = f"{{share}} of the time {busy} busy"
        if self._compete or (self._cpu is not None and threads_compute(self._cpu) and self._are_cores_full()):
            return f"{what} with threads that compute", self._compute_less()
        if self._share_loop:  # more of them would only wait longer
            which = (
                "items that waited for each other on one event loop"
                if self._cpu is None
                else "threads that waited for each other"
            )
            return f"{what} with {which}", self._compute_less()
        return what, self._find_out_why_they_fail() or "raise max_concurrency"

    def _of_workers(self) -> tuple[str, str]:
        """Words for items with slots that wait for a worker, so that more slots would not help."""
        busy = "the one worker was" if self._workers == 1 else f"all {self._workers:,} workers were"
        add_workers = "add workers, of which each runs one item at a time"
        if self._workers >= (self._all_cores or usable_cores()):
            add_workers = "more of them would help only if the items wait, or with more cores"
        return f"{{share}} of the time {busy} busy", self._find_out_why_they_fail() or add_workers

    def _find_out_why_they_fail(self) -> str:
        """Return advice if many items of the batch fail, else an empty text."""
        if self._failing < _MOST_FAILED:
            return ""
        return f"find out first why {_percent(self._failing)} of the items failed"

    def _are_cores_full(self) -> bool:
        # one thread can fill a core under the interpreter's lock; several can only while they compute without it
        return self._cores >= _CORE_FULL * (1 if self._limit == 1 else usable_cores())

    def _of_blocked_loop(self) -> tuple[str, str]:
        """List the nodes that stalled the loop with their shares, with advice for the node with the largest share."""
        parts = {who: ns / max(1, self._blocked_ns) for who, ns in _blocked_by(self._stalls).items()}
        named = {who: min(1.0, part) for who, part in parts.items() if part >= _LEAST_CULPRIT}
        unknown = max(0.0, 1.0 - sum(parts.values()))
        if self._compete and unknown > 0.5:
            return "{share} the event loop waited for threads that compute", self._compute_less()
        what = "{share} the event loop was blocked"
        if not named:
            # a watchdog samples every stall, so that at least its stack is known
            unseen = bool(self._stalls) and not any(stall.stack or stall.garbage_collection for stall in self._stalls)
            return f"{what}, cause unknown", "run it with flowrt.run, which finds what blocks" if unseen else ""
        main = max(named, key=lambda who: named[who])
        computes = self._block_computes and main != _COLLECTOR
        if named[main] >= 1 - _LEAST_CULPRIT:
            what += f" by {main}, which computes" if computes else f" by {main}"
        else:
            listed = [f"{_percent(part)} by {who}" for who, part in named.items()]
            if unknown >= _LEAST_CULPRIT:
                listed.append(f"{_percent(unknown)} unknown")
            what += f" ({', '.join(listed)})"
        if named[main] < 0.5:
            return what, ""
        if main == _COLLECTOR:
            return what, "batch_as_completed keeps no results for it to go through"
        if computes:  # in a thread, too, it would keep the others from computing
            return what, self._compute_less()
        return what, "make what blocks a plain function, which runs in a thread"


def why_overstated(batch: EndedBatch, speedup: Speedup) -> str:
    """Explain why a claimed speedup is far above the measured one, as far as the ledger knows.

    Args:
        batch: Its record; it has ended.
        speedup: Its speedup; it diverges.
    """
    if speedup.method == "cpu":  # whatever held the loop held no thread
        may_have = "may have " if speedup.measured is None else ""
        return f"the items computed in threads, which {may_have}waited for each other"
    ledger = batch.ledger
    wall_ns = max(1, batch.finished_ns - batch.started_ns)
    if ledger is not None:
        blocked_ns = ledger.read(batch.finished_ns)["loop_blocked"]
        computing = ledger.computing_ns / wall_ns
        if blocked_ns / wall_ns >= max(0.2, computing):
            culprits = _blocked_by(_stalls_of_others(batch, ledger))
            by = next((who for who, ns in culprits.most_common(1) if ns >= 0.5 * blocked_ns), "something")
            share = _percent(blocked_ns / wall_ns)
            return f"{by} blocked the event loop for {share} of the time, and the other items waited for it"
        delayed = ledger.delays.total_ns / wall_ns
        if computing >= 0.2 or delayed > 0.5 * (speedup.claimed - (speedup.measured or 0.0)):
            return "the items computed on one thread, and those that were ready waited for each other"
    if speedup.method == "sample":
        return "the items took longer together than alone: they compete for what they call, or for the processor"
    return "the items waited for each other on one event loop"


def _stalls_of_others(batch: EndedBatch, ledger: Ledger) -> list[Stall]:
    """Return the stalls, except those attributed to the batch's own items although these ran in threads.

    Such an item has the loop only for an instant; a stall then is its wait for the interpreter's lock.
    """
    stalls = ledger.delays.stalls.copy()
    if batch.cpu_time is None:
        return stalls
    return [stall for stall in stalls if stall.batch_id != batch.batch_id or stall.garbage_collection]


def _blocked_by(stalls: Sequence[Stall]) -> Counter[str]:
    """Nanoseconds for which each known culprit blocked the loop: a node or the garbage collector."""
    blocked: Counter[str] = Counter()
    for stall in stalls:
        if stall.garbage_collection:
            blocked[_COLLECTOR] += round(stall.duration_s * 1e9)
        elif stall.node is not None:
            blocked[f"node {stall.node!r}"] += round(stall.duration_s * 1e9)
    return blocked


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or not share else f"{100 * share:.1g} %"
