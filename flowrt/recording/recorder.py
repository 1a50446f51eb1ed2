"""Recorder: packs the times of every attempt on the loop's thread and encodes them in another."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import Any, Final

from flowrt.engine.instrument import Instrument, Phase
from flowrt.model import BatchRecord, ItemRecord
from flowrt.recording.columns import PACK, RowBuffer, finished_ns
from flowrt.recording.error_groups import NO_CAUSE, ErrorGroups
from flowrt.recording.metadata import describe
from flowrt.recording.slowest import Slowest
from flowrt.recording.writer_thread import OnDone, WriterThread

__all__ = ["Recorder"]

_log = logging.getLogger("flowrt.recorder")

_ROWS: Final = 65_536  # rows per row group: 2 MB in memory
_SAVE_S: Final = 5.0  # time for one step of the writer at the batch's end, such as a row group
_START_S: Final = 60.0  # time for its start: importing pyarrow takes seconds on a busy machine
_HEDGE_OUTCOMES: Final = {"won": "ok", "lost": "cancelled", "failed": "failed"}
_MAX_LIMITS: Final = 10_000  # recorded changes of the concurrency limit


class Recorder(Instrument):
    """Records one batch into a Parquet file. Each batch gets its own.

    The file appears under its name once it is complete. If the disk fails or does not keep up, the batch goes on
    without a recording, and an error is logged.

    Args:
        path: The recording; an existing file is replaced.
        settings: The processor's settings, for the metadata.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """

    phase = Phase.RECORDING

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self._settings = settings
        self._writer = WriterThread(path)
        self._error_groups = ErrorGroups()
        self._slowest = Slowest()
        self._between_attempts: dict[
            int, tuple[int, int]
        ] = {}  # per waiting item: end of its backoff, rate wait so far
        self._limits: list[tuple[int, int]] = []
        self._flushed_ns = 0
        self._batch: BatchRecord | None = None
        self._began_cpu_ns = self._cpu_ns = 0
        self._fresh_rows()

    def _fresh_rows(self) -> None:
        rows = self._rows = RowBuffer()
        self._packed = rows.packed
        self._append = rows.packed.append

    # -- on the loop --------------------------------------------------------------------------------------------------

    def batch_started(self, batch: BatchRecord) -> None:
        """Start the writer's thread. Times in the file count from the batch's start."""
        self._batch = batch
        self._began_cpu_ns = time.thread_time_ns()
        self._flushed_ns = batch.started_ns
        self._limits.append((0, batch.limit))
        self._writer.start(batch.started_ns, batch.batch_id)

    def item_finished(self, item: ItemRecord) -> None:
        """Record the item's last attempt. Hot path: called for every item."""
        if item.attempts != 1 or item.status != "ok":
            self._add_annotated(item)
            return
        pulled, finished = item.pulled_ns, item.finished_ns
        self._append(PACK(item.index, pulled, item.started_ns, finished))
        if finished - pulled > self._slowest.bar_ns:
            self._offer(item)
        if len(self._packed) >= _ROWS:
            self._flush()

    def retry_scheduled(self, item: ItemRecord) -> None:
        """Record an attempt that is not the item's last."""
        self._add_attempt(item, last=False)
        self._between_attempts[item.index] = (item.finished_ns + item.retry.delay_ns, item.rate_wait_ns)
        if len(self._packed) >= _ROWS:
            self._flush()

    def hedge_ended(self, item: ItemRecord) -> None:
        """Record a hedge."""
        hedge = item.hedge
        result = hedge.result
        outcome = _HEDGE_OUTCOMES[hedge.outcome]
        self._rows.add(
            item.index,
            hedge.started_ns,
            hedge.finished_ns,
            hedge.number,
            outcome,
            self._error_groups.number_of(result) if outcome == "failed" else NO_CAUSE,
            last=False,
            hedge=True,
            arrival_ns=hedge.started_ns,
            slot_ns=hedge.started_ns,
        )
        if len(self._packed) >= _ROWS:
            self._flush()

    def limit_changed(self, batch: BatchRecord) -> None:
        """Record the new limit. It counts from the end of the last attempt, after which adaptive limits change."""
        if len(self._limits) < _MAX_LIMITS:
            at_ns = finished_ns(self._packed[-1]) if self._packed else self._flushed_ns
            self._limits.append((at_ns - batch.started_ns, batch.limit))

    def batch_ended(self, batch: BatchRecord) -> None:  # noqa: ARG002
        """Hand over the last rows, and measure the CPU time of the loop's thread."""
        self._cpu_ns = time.thread_time_ns() - self._began_cpu_ns
        self._flush()

    async def save(self) -> None:
        """Wait until the file is complete under its name, or has failed."""
        batch = self._batch
        if batch is None:
            return
        meta = describe(
            batch,
            settings=self._settings,
            causes=self._error_groups.found,
            slowest=self._slowest.ranked(),
            limits=self._limits,
            cpu_ns=self._cpu_ns,
        )
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def wake(error: BaseException | None) -> None:
            if not done.done():
                done.set_result(error)

        deadline = _Deadline(self._writer, _threadsafe(loop, wake))
        self._writer.close(meta, deadline.on_done)
        deadline.start()
        error: BaseException | None = None
        try:
            error = await done
        finally:
            deadline.cancel()
            in_place = not self._writer.give_up()
        if error is not None and not in_place:
            _log.error("batch %r was not recorded in %s: %s", batch.name, self.path, error)

    # -- attempts off the fast path ------------------------------------------------------------------------------------

    def _add_annotated(self, item: ItemRecord) -> None:
        self._add_attempt(item, last=True)
        self._offer(item)
        if len(self._packed) >= _ROWS:
            self._flush()

    def _offer(self, item: ItemRecord) -> None:
        duration = item.finished_ns - item.pulled_ns
        if duration > self._slowest.bar_ns and self._batch is not None:
            self._slowest.offer(item, duration, item.finished_ns - self._batch.started_ns)

    def _add_attempt(self, item: ItemRecord, *, last: bool) -> None:
        arrival = slot = item.pulled_ns
        attempt = item.beside or item.attempts  # a hedge has a row of its own
        started = item.started_ns if item.attempts else 0  # a rejected input got a slot, but reached no node
        waiting = self._between_attempts.pop(item.index, None)
        if waiting is not None:
            arrival, waited = waiting
            if started:
                slot = max(arrival, started - (item.rate_wait_ns - waited))
            else:  # the item ended before this attempt started
                attempt += 1
                arrival = slot = min(arrival, item.finished_ns)
        failed = item.status not in ("ok", "resumed", "cancelled")
        cause = self._error_groups.number_of(item) if failed else NO_CAUSE
        self._rows.add(
            item.index,
            started,
            item.finished_ns,
            attempt,
            item.status,
            cause,
            last=last,
            arrival_ns=arrival,
            slot_ns=slot,
        )

    def _flush(self) -> None:
        if self._packed:
            self._flushed_ns = finished_ns(self._packed[-1])
            self._writer.put(self._rows)
            self._fresh_rows()


class _Deadline:
    """Deadline for each step of a writer that finishes its file.

    The time counts from the step's start, and anew whenever the thread has used CPU time: encoding takes long on a
    busy machine, and only a disk that hangs should end a recording.

    Args:
        writer: The writer.
        on_done: Called with the error or None, once the writer is done or late.
    """

    def __init__(self, writer: WriterThread, on_done: OnDone) -> None:
        self.on_done = on_done
        self._writer = writer
        self._began = self._worked_at = time.monotonic()
        self._cpu_ns = writer.cpu_ns()
        self._timer: threading.Timer | None = None
        self._cancelled = threading.Event()

    def start(self) -> None:
        """Check the writer when it would be late."""
        if self._cancelled.is_set():
            return
        since, step = self._writer.step
        now = time.monotonic()
        if (cpu_ns := self._writer.cpu_ns()) != self._cpu_ns:
            self._cpu_ns, self._worked_at = cpu_ns, now
        late_at = self._began + _START_S if since is None else max(since, self._began) + _SAVE_S
        late_at = max(late_at, self._worked_at + _SAVE_S)
        if now >= late_at:
            self.on_done(TimeoutError(step.format(_START_S if since is None else _SAVE_S)))
            return
        # not the loop's timer, which would fire at once in virtual time
        self._timer = threading.Timer(min(late_at - now, _SAVE_S / 5), self.start)
        self._timer.daemon = True
        self._timer.start()
        if self._cancelled.is_set():  # meanwhile
            self._timer.cancel()

    def cancel(self) -> None:
        """Stop checking."""
        self._cancelled.set()
        if self._timer is not None:
            self._timer.cancel()


def _threadsafe(loop: asyncio.AbstractEventLoop, call: OnDone) -> OnDone:
    def from_thread(error: BaseException | None) -> None:
        try:
            loop.call_soon_threadsafe(call, error)
        except RuntimeError:  # the loop is closed, and with it the waiting task
            return

    return from_thread
