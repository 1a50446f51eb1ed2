"""Unstarted inputs: how a batch that is drained or stopped gives each a result, or says that some have none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from flowrt.engine.cancellation import Cancellation
from flowrt.engine.outcome import cancel, cancel_retry
from flowrt.engine.parts import RunParts, UnstartedBlock
from flowrt.engine.source import END, LATER, Source
from flowrt.errors import FlowrtError
from flowrt.model import BatchRecord, make_record

__all__ = ["UnstartedInputs", "cut_off_error", "time_is_over"]

_TURN_NS: Final = 5_000_000  # longest time without a turn of the loop
_BULK_FROM: Final = 1_000  # up to this number, each input has its own span and events
_CHUNK: Final = 10_000  # inputs that are cancelled between two readings of the clock


def time_is_over(limit_s: float) -> str:
    """Return the reason of a batch's stop at its time limit, in seconds."""
    return f"the batch took longer than batch_timeout={limit_s:g} s"


def cut_off_error(batch: BatchRecord, reason: str, limit_s: float | None) -> Exception | None:
    """Return the error of a batch that was ended before its input, or None if each of a known number has a result.

    Args:
        batch: The batch's record.
        reason: Why it ended.
        limit_s: Its time limit in seconds, or None.
    """
    if batch.expected is not None and batch.pulled >= batch.expected:
        return None
    is_late = limit_s is not None and reason == time_is_over(limit_s)
    of = "" if batch.expected is None else f" of {batch.expected:,}"
    inputs = f"{batch.pulled:,}{of} input{'' if batch.pulled == 1 and not of else 's'}"
    advice = f"{'raise batch_timeout, or ' if is_late else ''}use a journal, with which the same call continues"
    message = (
        f"batch {batch.name!r} was ended after {inputs}, before its input had ended ({reason}): "
        f"the inputs not yet read have no result; {advice}"
    )
    return TimeoutError(message) if is_late else FlowrtError(message)


class UnstartedInputs:
    """Cancels the items and inputs that no worker will run.

    These are items in the retry queue, inputs that have arrived but were not pulled, and inputs that were never read.

    Args:
        parts: The run's parts.
        source: Source of the items.
        cancellation: Has the reason, and finishes the items.
        keep: Receives the inputs that are cancelled in bulk, whose results are made on demand.
    """

    def __init__(
        self, parts: RunParts, source: Source, cancellation: Cancellation, keep: Callable[[UnstartedBlock], None]
    ) -> None:
        self._batch = parts.batch
        self._clock = parts.clock
        self._admission = parts.admission
        self._dispatch = parts.dispatch
        self._keep = None if parts.journal is not None or parts.paced else keep
        self._source = source
        self._cancellation = cancellation

    def cancel_requeued(self) -> None:
        """Cancel the items that wait for another attempt."""
        for item in self._source.take_requeued():
            if item.attempts:
                cancel_retry(item, self._cancellation.reason)
            else:  # it was parked before it started
                self._dispatch.notify("item_started", item)
                cancel(item, f"not started: {self._cancellation.reason}")
            item.finished_ns = self._clock()
            self._cancellation.finish(item)

    def cancel_arrived(self) -> None:
        """Cancel the inputs that arrived too late to be pulled."""
        for data in self._source.take_unpulled():
            self._cancel(data)

    async def cancel_rest(self) -> None:
        """Cancel the inputs that were never read, at the pace of the consumer if there is one."""
        batch, source, clock = self._batch, self._source, self._clock
        left = 0 if batch.expected is None else batch.expected - batch.pulled
        turn_ns = clock()
        try:
            if left > _BULK_FROM and self._keep is not None and self._dispatch.takes_inputs_cancelled():
                await self._cancel_in_bulk(self._keep)
                return
            while True:
                await self._admission.take_capacity()
                data = source.pull()
                if data is END or data is LATER:
                    self._cancellation.cut_off = None  # every input has a result
                    return
                pulled_ns = self._cancel(data)
                if pulled_ns - turn_ns > _TURN_NS:
                    await asyncio.sleep(0)
                    turn_ns = clock()
        except Exception as exc:  # the source failed
            self._cancellation.source_failed(exc)

    async def _cancel_in_bulk(self, keep: Callable[[UnstartedBlock], None]) -> None:
        """Cancel many inputs at once: count them now, and make their results on demand.

        Millions of results could not be made within the grace period.
        """
        batch, clock = self._batch, self._clock
        block = UnstartedBlock(batch.pulled, [], f"not started: {self._cancellation.reason}")
        turn_ns = clock()
        try:
            more = True
            while more:
                before = len(block.inputs)
                try:
                    self._source.take_rest(block.inputs, _CHUNK)
                finally:
                    count = len(block.inputs) - before
                    batch.pulled += count
                    batch.unstarted += count
                    batch.counts["cancelled"] += count
                more = count == _CHUNK
                if clock() - turn_ns > _TURN_NS:
                    await asyncio.sleep(0)
                    turn_ns = clock()
            self._cancellation.cut_off = None
        finally:
            keep(block)
            self._dispatch.notify("inputs_cancelled", batch)

    def _cancel(self, data: Any) -> int:
        """Cancel an input, unless an earlier run has finished it; returns the time by the batch's clock."""
        batch, cancellation = self._batch, self._cancellation
        reason = f"not started: {cancellation.reason}"
        item = make_record(batch, batch.pulled, data, self._clock())
        batch.pulled += 1
        if batch.starts_at_once:  # instruments then take a pulled item for a started one, unless it is cancelled
            cancel(item, reason)
        self._dispatch.notify("item_started", item)
        if not cancellation.finish_restored(item):
            cancel(item, reason)
            item.finished_ns = item.pulled_ns
            cancellation.finish(item)
        return item.pulled_ns
