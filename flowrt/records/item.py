"""One item's way through a batch, with what ran beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from flowrt.records.result import BatchResult
from flowrt.records.seldom import Seldom

if TYPE_CHECKING:
    from flowrt.records.batch import BatchRecord

__all__ = ["HedgeOutcome", "HedgeRecord", "ItemRecord"]

State = Literal["running", "ok", "failed", "timed_out", "cancelled", "resumed"]

HedgeOutcome = Literal["won", "lost", "failed"]
"""What became of a hedge: it was first, the item's own attempt was (or both were cut short), or it failed."""


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
    backoff_ns = Seldom[int](0)
    beside = Seldom[int](0)
    first_started_ns = Seldom[int](0)
    hedge = Seldom[Any](None)
    hedges = Seldom[int](0)
    held_ns = Seldom[int](0)
    rate_wait_ns = Seldom[int](0)
    retry = Seldom[Any](None)
    stalled_ns = Seldom[int](0)
    ticket = Seldom[Any](None)
    uncancellable = Seldom[bool](False)
    unkept = Seldom[bool](False)

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
