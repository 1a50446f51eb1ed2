"""What is known about a batch and each of its items.

One `ItemRecord` per item carries its state and its times, written by the engine alone. Results, spans, metrics
and logs all read that record; nobody keeps a second clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TypeVar, overload

if TYPE_CHECKING:
    import asyncio

    from flowrt.ledger import Ledger
    from flowrt.speedup import Speedup

__all__ = [
    "STATUSES",
    "BatchRecord",
    "BatchResult",
    "HedgeOutcome",
    "HedgeRecord",
    "ItemRecord",
    "Rejected",
    "Slot",
    "Status",
]

T = TypeVar("T")

Status = Literal["ok", "failed", "timed_out", "cancelled", "resumed"]
"""How an item ended."""

STATUSES: Final[tuple[Status, ...]] = ("ok", "failed", "timed_out", "cancelled", "resumed")

HedgeOutcome = Literal["won", "lost", "failed"]
"""What became of a hedge: it was first, the item's own attempt was (or both were cut short), or it failed."""

State = Literal["running", "ok", "failed", "timed_out", "cancelled", "resumed"]
BatchStatus = Literal["running", "ok", "failed", "cancelled"]


class Rejected:
    """An input that could not be read: it takes its place in the batch as a failed item and reaches no node.

    Args:
        error: What is wrong and where, for the item's `error`.
        error_type: The error's low-cardinality name.
        input_data: As much of the input as there is to show.
    """

    __slots__ = ("error", "error_type", "input_data")

    def __init__(self, error: str, error_type: str = "RejectedInput", input_data: Any = None) -> None:
        self.error = error
        self.error_type = error_type
        self.input_data = input_data

    def __repr__(self) -> str:
        return f"Rejected({self.error!r})"


class _Seldom(Generic[T]):
    """An attribute that is at its default on nearly every record: what differs is kept in a dictionary of its own.

    A batch keeps a record per item, and the garbage collector walks each of its slots again and again.
    """

    __slots__ = ("_default", "_name")

    def __init__(self, default: T) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, record: None, owner: type) -> Self: ...
    @overload
    def __get__(self, record: BatchResult, owner: type) -> T: ...
    def __get__(self, record: BatchResult | None, owner: type) -> Self | T:
        if record is None:  # asked of the class
            return self
        values = record._seldom  # noqa: SLF001  # of this module
        return self._default if values is None else values.get(self._name, self._default)

    def __set__(self, record: BatchResult, value: T) -> None:
        values = record._seldom  # noqa: SLF001  # as above
        if values is not None:
            values[self._name] = value
        elif value is not self._default:
            record._seldom = {self._name: value}  # noqa: SLF001  # as above


class BatchResult:
    """What became of one item.

    Results of a batch are its items' own records, so that nothing is made anew for each; they compare, copy and pickle
    as plain BatchResults.

    Args:
        index: Its place in the input.
        input_data: The input itself, unchanged by the node.
        success: Whether it ended `ok` or `resumed`.
        output: What the node gave; falsy outputs are outputs.
        error: Why it failed; never empty when `success` is false.
        execution_time: Service time of the last attempt, in seconds.
        status: `ok`, `failed`, `timed_out`, `cancelled` or `resumed`; `ok` or `failed` by default, as `success` says.
        error_type: The error's low-cardinality name, the same as on the metric and the span.
        exception: The exception itself, when there was one.
        attempts: How many attempts were started; 0 for an item that never ran.
        queue_time: From pulled to first start, in seconds.
        metadata: The metadata of the node's `NodeResult`.
        trace_id: 32 hexadecimal digits, or None when the item was not traced.
        span_id: 16 hexadecimal digits, or None when the item was not traced.

    Raises:
        ValueError: `status` contradicts `success`.
    """

    __slots__ = ("_seldom", "attempts", "index", "input_data", "output", "status")

    index: int
    input_data: Any
    output: Any
    status: Status
    attempts: int
    error = _Seldom[str | None](None)
    error_type = _Seldom[str | None](None)
    exception = _Seldom[BaseException | None](None)
    _execution_time = _Seldom[float](0.0)
    _queue_time = _Seldom[float](0.0)
    _metadata = _Seldom[dict[str, Any] | None](None)
    _trace_id = _Seldom[str | None](None)
    _span_id = _Seldom[str | None](None)

    def __init__(
        self,
        index: int,
        input_data: Any,
        success: bool,
        output: Any = None,
        error: str | None = None,
        execution_time: float = 0.0,
        status: Status | None = None,
        error_type: str | None = None,
        exception: BaseException | None = None,
        attempts: int = 0,
        queue_time: float = 0.0,
        metadata: dict[str, Any] | None = None,
        trace_id: str | None = None,
        span_id: str | None = None,
    ) -> None:
        if status is None:
            status = "ok" if success else "failed"
        elif success != (status in _SUCCESSES):
            raise ValueError(f"status={status!r} contradicts success={success!r}")
        self._seldom: dict[str, Any] | None = None
        self.index = index
        self.input_data = input_data
        self.output = output
        self.error = error
        self.status = status
        self.error_type = error_type
        self.exception = exception
        self.attempts = attempts
        self._execution_time = execution_time
        self._queue_time = queue_time
        self._metadata = metadata
        self._trace_id = trace_id
        self._span_id = span_id

    @property
    def success(self) -> bool:
        """Whether it ended `ok` or `resumed`."""
        return self.status in _SUCCESSES

    @property
    def execution_time(self) -> float:
        """Service time of the last attempt, in seconds."""
        return self._execution_time

    @property
    def queue_time(self) -> float:
        """From pulled to first start, in seconds."""
        return self._queue_time

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of the node's `NodeResult`; made when it is first asked for."""
        if self._metadata is None:
            self._metadata = {}
        return self._metadata

    @property
    def trace_id(self) -> str | None:
        """32 hexadecimal digits, or None when the item was not traced."""
        return self._trace_id

    @property
    def span_id(self) -> str | None:
        """16 hexadecimal digits, or None when the item was not traced."""
        return self._span_id

    def as_dict(self) -> dict[str, Any]:
        """Its values by their names; the exception and the data are the very objects."""
        return dict(zip(_RESULT_FIELDS, self._values(), strict=True))

    def replace(self, **changes: Any) -> BatchResult:
        """A plain BatchResult that says the same but for some values.

        Args:
            changes: As the constructor takes them.
        """
        if changes.keys() & {"success", "status"}:
            changes = {"success": changes.get("status") in _SUCCESSES, "status": None, **changes}
        return BatchResult(**{**self.as_dict(), **changes})

    __replace__ = replace  # for copy.replace

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in _RESULT_FIELDS])

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, BatchResult) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[BatchResult], tuple[Any, ...]]:
        return BatchResult, self._values()

    def __repr__(self) -> str:
        shown = (f"{name}={value!r}" for name, value in zip(_RESULT_FIELDS, self._values(), strict=True))
        return f"BatchResult({', '.join(shown)})"


_SUCCESSES: Final = ("ok", "resumed")
_RESULT_FIELDS: Final = tuple(BatchResult.__init__.__annotations__)[:-1]


class ItemRecord(BatchResult):
    """One item's way through a batch, and in the end its result.

    Times are nanoseconds of the batch's monotonic clock, 0 for not yet.

    Args:
        batch: The batch it belongs to.
        index: Its place in the input.
        input_data: The input itself, the very object that the source gave.
        pulled_ns: When it was pulled from the source.

    Attributes:
        status: `running`, then one of the terminal statuses.
        started_ns: When its latest attempt started; 0 while it waits for one.
        first_started_ns: When its first attempt started, where there were several.
        finished_ns: When it ended.
        held_ns: How long it was ready to go on while something else blocked the loop, as far as is known.
        stalled_ns: That again, as it was after the last stall that is told of; 0 where there was none.
        retry: The decision by which it is tried again, or was last.
        backoff_ns: How long it was told to wait between attempts, in all.
        beside: The number of its latest attempt that is no hedge, where that has been hedged, else 0.
        hedge: Its hedge that ended last.
        hedges: How many of its attempts were hedges.
        rate_wait_ns: How long it waited for rate limits and an open circuit, in all.
        span: The tracing instrument's own handle.
        unkept: It was traced, and its span will not be exported, as far as is known.
        ticket: The rate limits' own handle.
        ids: Its trace's id in the first 16 bytes and its span's in the last 8; empty when not traced.
        uncancellable: It did not end within the grace period after it was cancelled.
    """

    __slots__ = ("batch", "finished_ns", "ids", "pulled_ns", "span", "started_ns")

    status: State  # type: ignore[assignment]  # it is `running` at first
    backoff_ns = _Seldom[int](0)
    beside = _Seldom[int](0)
    first_started_ns = _Seldom[int](0)
    hedge = _Seldom[Any](None)
    hedges = _Seldom[int](0)
    held_ns = _Seldom[int](0)
    rate_wait_ns = _Seldom[int](0)
    retry = _Seldom[Any](None)
    stalled_ns = _Seldom[int](0)
    ticket = _Seldom[Any](None)
    uncancellable = _Seldom[bool](False)
    unkept = _Seldom[bool](False)

    def __init__(self, batch: BatchRecord, index: int, input_data: Any, pulled_ns: int) -> None:
        self.batch = batch
        self.index = index
        self.input_data = input_data
        self.pulled_ns = pulled_ns
        self.started_ns = 0
        self.finished_ns = 0
        self.attempts = 0
        self.ids = b""
        self.status = "running"
        self.output: Any = None
        self.span: Any = None
        self._seldom = None

    @property
    def execution_time(self) -> float:
        """Service time of the last attempt, in seconds; of a restored item, as it was then."""
        return (self.finished_ns - self.started_ns) / 1e9 if self.started_ns else self._execution_time

    @property
    def held_time(self) -> float:
        """How long it was ready to go on while something else blocked the loop, in seconds, as far as is known."""
        return self.held_ns / 1e9

    @property
    def queue_wait_ns(self) -> int:
        """From being pulled to its first attempt, or -1 where it never had one."""
        started_ns = self.started_ns if self.attempts < 2 and self.started_ns else self.first_started_ns
        return started_ns - self.pulled_ns if started_ns else -1

    @property
    def queue_time(self) -> float:
        """From being pulled to its first attempt, in seconds."""
        return max(0, self.queue_wait_ns) / 1e9

    @property
    def trace_id(self) -> str | None:
        """Its trace's id, 32 hexadecimal digits, or None when not traced."""
        return self.ids[:16].hex() if self.ids else None

    @property
    def span_id(self) -> str | None:
        """Its span's id, 16 hexadecimal digits, or None when not traced."""
        return self.ids[-8:].hex() if self.ids else None

    def forget_outcome(self) -> None:
        """Begin another attempt with nothing left of the one before."""
        self.output = self._metadata = self.error = self.error_type = self.exception = None
        self.beside = 0

    def restore(self, before: BatchResult) -> None:
        """End as the item did in an earlier run, all but the attempts: there were none in this one.

        Args:
            before: How it ended then.
        """
        self.status = before.status
        self.output = before.output
        self.error = before.error
        self.error_type = before.error_type
        self._execution_time = before.execution_time

    def clone(self) -> ItemRecord:
        """Another record that says the same."""
        twin = ItemRecord(self.batch, self.index, self.input_data, self.pulled_ns)
        for name in (*BatchResult.__slots__, *ItemRecord.__slots__):
            setattr(twin, name, getattr(self, name))
        twin._seldom = None if self._seldom is None else self._seldom.copy()
        return twin


class HedgeRecord:
    """A further attempt that ran beside an item's own.

    Args:
        number: Which of the item's attempts it was.
        started_ns: When it started, by the batch's clock.
        finished_ns: When it ended, or was given up.
        outcome: `won`, `lost` or `failed`.
        result: Of one that failed: its error.
    """

    __slots__ = ("finished_ns", "number", "outcome", "result", "started_ns")

    def __init__(
        self, number: int, started_ns: int, finished_ns: int, outcome: HedgeOutcome, result: ItemRecord
    ) -> None:
        self.number = number
        self.started_ns = started_ns
        self.finished_ns = finished_ns
        self.outcome = outcome
        self.result = result

    def __repr__(self) -> str:
        return f"<HedgeRecord: attempt {self.number} {self.outcome}>"


class Slot:
    """One place for an item to run in; there are `max_concurrency` of them.

    Attributes:
        item: The item that is running here, or None.
        task: The worker that serves the slot.
        cancelled_ns: When the item was told to stop because its time was over, else 0.
        abandoned: The item did not stop when told to; the slot has been given to another worker.
        keeping: The item has ended and waits for its journal.
    """

    __slots__ = ("abandoned", "cancelled_ns", "item", "keeping", "task")

    def __init__(self) -> None:
        self.item: ItemRecord | None = None
        self.task: asyncio.Task[None] | None = None
        self.cancelled_ns = 0
        self.abandoned = False
        self.keeping = False


class BatchRecord:
    """One run of a node over many items.

    Attributes:
        name: The processor's name, the `batch` label.
        node_id: The node's id, the `node` label.
        node_type: The node's type.
        batch_id: A random id of this run, 32 hexadecimal digits.
        expected: How many items the input holds, or None when that is not known beforehand.
        limit: The concurrency limit in force.
        slots: The slots now served by a worker.
        counts: Items that ended, by status.
        pulled: Items pulled from the source.
        latest: The item that got a slot last.
        ledger: What holds the batch back, where account of it is kept.
        speedup: How many times as long it would have taken one item after another, once that is known.
        queued: Items that wait for another attempt, a rate limit or an open circuit.
        status: `running`, then `ok` (every item ok), `failed` (some not) or `cancelled` (it was stopped).
        started_ns: When it started, by the monotonic clock.
        finished_ns: When it ended.
        epoch_offset_ns: Nanoseconds to add to the monotonic clock for the time since 1970.
        limit_change: The latest change of the limit.
        circuit: The latest change of the circuit breaker's state.
        shard: The metrics instrument's own handle.
        span: The tracing instrument's own handle.
    """

    __slots__ = (
        "__weakref__",
        "batch_id",
        "circuit",
        "counts",
        "epoch_offset_ns",
        "expected",
        "finished_ns",
        "latest",
        "ledger",
        "limit",
        "limit_change",
        "name",
        "node_id",
        "node_type",
        "pulled",
        "queued",
        "shard",
        "slots",
        "span",
        "speedup",
        "started_ns",
        "status",
    )

    def __init__(
        self,
        *,
        name: str,
        node_id: str,
        node_type: str,
        batch_id: str,
        limit: int,
        expected: int | None = None,
        started_ns: int = 0,
        epoch_offset_ns: int = 0,
    ) -> None:
        self.name = name
        self.node_id = node_id
        self.node_type = node_type
        self.batch_id = batch_id
        self.expected = expected
        self.limit = limit
        self.slots: list[Slot] = []
        self.counts: dict[str, int] = dict.fromkeys(STATUSES, 0)
        self.pulled = 0
        self.latest: ItemRecord | None = None
        self.ledger: Ledger | None = None
        self.speedup: Speedup | None = None
        self.queued = 0
        self.status: BatchStatus = "running"
        self.started_ns = started_ns
        self.finished_ns = 0
        self.epoch_offset_ns = epoch_offset_ns
        self.limit_change: Any = None
        self.circuit: Any = None
        self.shard: Any = None
        self.span: Any = None

    @property
    def completed(self) -> int:
        """Items that reached a terminal status."""
        return sum(self.counts.values())

    @property
    def latest_ns(self) -> int:
        """When an item got a slot last; the batch's start while none has."""
        item = self.latest
        return self.started_ns if item is None else max(item.pulled_ns, item.started_ns)

    @property
    def inflight(self) -> int:
        """Items in a slot now."""
        return sum(slot.item is not None for slot in self.slots.copy())

    def __repr__(self) -> str:
        of = "?" if self.expected is None else self.expected
        return f"<BatchRecord {self.name!r}: {self.status}, {self.completed} of {of} done, {self.inflight} in flight>"
