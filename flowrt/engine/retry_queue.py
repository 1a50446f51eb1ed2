"""Items that come back: a source that gives each of them again when its time to be retried has come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

from flowrt._util.clock import Clock
from flowrt.attribution.ledger import BACKOFF
from flowrt.engine.delay_queue import DelayQueue
from flowrt.engine.source import END, LATER, Source, is_own
from flowrt.model import BatchRecord, ItemRecord

__all__ = ["RetryQueue"]


class RetryQueue(Source):
    """The inputs of another source, and in between, as they fall due, the items that are to be tried again.

    While as many items wait as may, no new input is pulled. END comes when the inputs are over and no item can come
    back any more; an error of the inputs' own is raised then, too.

    Args:
        inputs: The source of new inputs.
        batch: The batch's record.
        bound: How many items may wait.
        loop: The running loop.
        clock: The batch's clock.
    """

    def __init__(
        self, inputs: Source, batch: BatchRecord, bound: int, loop: asyncio.AbstractEventLoop, clock: Clock
    ) -> None:
        self.awaits = inputs.awaits
        self.computes = inputs.computes
        self.expected = inputs.expected
        self.dry = False
        self._inputs = inputs
        self._batch = batch
        self._loop = loop
        self._clock = clock
        self._backoff: DelayQueue[ItemRecord] = DelayQueue(bound)
        self._due: deque[ItemRecord] = deque()
        self._fetched: deque[Any] = deque()
        self._fetching: asyncio.Task[Any] | bool = False  # whether somebody waits for the next input, as a task or not
        self._parked: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._error: Exception | asyncio.CancelledError | None = None
        self._held = False  # slots stand empty for want of items that are in backoff, as the ledger knows

    def push(self, item: ItemRecord, due_ns: int) -> None:
        """Let an item wait for its next attempt.

        Args:
            item: It has just had an attempt.
            due_ns: When the next one is due, by the batch's clock.
        """
        first = self._backoff.due_ns
        self._backoff.push(due_ns, item)
        self._batch.queued += 1
        if first is None or due_ns < first:
            self._set_timer()
        self._tell()

    @property
    def unattended(self) -> bool:
        """Items wait here, and whoever asks for one waits for the next input and would not see them fall due."""
        return self._fetching is True and not self._parked and bool(self._backoff or self._due)

    def item_ended(self) -> None:
        """An item will not come back: it may have been the last that could."""
        if self._parked and self._is_over():
            self._wake_all()

    def pull(self) -> Any:
        if self._due:
            self._batch.queued -= 1
            item = self._due.popleft()
            if not self._due:
                self._tell()
            return item
        if self._fetched:
            if not self._fetching:
                self._wake_one()  # whoever takes this one is gone: another has to ask for the next
            return self._fetched.popleft()
        if not self._inputs.dry and not self._backoff.full:
            try:
                data = self._inputs.pull()
            except Exception as exc:  # raised when what is under way has ended
                self._end_inputs(exc)
            else:
                if data is not END:
                    if self._parked and data is not LATER:
                        self._wake_one()  # of those who found as many items in backoff as may be: there is more
                    return data
                self._inputs.dry = True
        return self._at_end() if self._is_over() else LATER

    async def apull(self) -> Any:
        while (data := self.pull()) is LATER:
            if self._inputs.dry or self._backoff.full or self._fetching:
                await self._park()
                self._tell()
            elif self._backoff:
                # items may fall due before the next input comes: whoever is parked takes what is first
                task = self._fetching = self._loop.create_task(self._inputs.apull())
                task.add_done_callback(self._take_fetched)
            else:  # the usual case pays for no task
                self._fetching = True
                try:
                    data = await self._inputs.apull()
                except (Exception, asyncio.CancelledError) as exc:  # as in pull
                    if not is_own(exc):
                        raise
                    self._end_inputs(exc)
                else:
                    if data is not END:
                        return data
                    self._wake_all()
                finally:
                    self._fetching = False
                    self._wake_one()
        return data

    async def aclose(self) -> None:
        if isinstance(self._fetching, asyncio.Task):
            self._fetching.cancel()
            await asyncio.wait([self._fetching])
            await asyncio.sleep(0)  # it may have been done already, and what it gave is taken in this turn
        await self._inputs.aclose()

    def leftover(self) -> Iterable[ItemRecord]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        left = [*self._due, *self._backoff.drain()]
        self._due.clear()
        self._batch.queued -= len(left)
        return left

    def unpulled(self) -> Iterable[Any]:
        left = list(self._fetched)
        self._fetched.clear()
        return left

    # -- within -----------------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        batch = self._batch
        return self._inputs.dry and not self._fetched and batch.completed == batch.pulled

    def _at_end(self) -> Any:
        self.dry = True
        self._wake_all()  # of those who found as many items in backoff as may be, not all have been woken
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # or it would hold on to itself by its traceback
        return END

    def _end_inputs(self, exc: Exception | asyncio.CancelledError) -> None:
        self._inputs.dry = True
        self._error = exc
        self._wake_all()

    def _take_fetched(self, task: asyncio.Task[Any]) -> None:
        self._fetching = False
        try:
            data = task.result()
        except (Exception, asyncio.CancelledError) as exc:
            if not task.cancelling():  # else aclose has ended it
                self._end_inputs(exc)
        else:
            if data is not END:
                self._fetched.append(data)
        self._wake_all() if self._inputs.dry else self._wake_one()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_ns = self._backoff.due_ns
        if due_ns is not None:
            self._timer = self._loop.call_later(max(0, due_ns - self._clock()) / 1e9, self._fall_due)

    def _fall_due(self) -> None:
        self._timer = None
        was_full = self._backoff.full
        now = self._clock()
        while (item := self._backoff.pop(now)) is not None:
            self._due.append(item)
            self._wake_one()
        self._set_timer()
        if was_full and not self._backoff.full:
            self._wake_one()
        self._tell()

    def _tell(self) -> None:
        """Keep account of the time for which slots stand empty while items are in backoff, or for want of any."""
        batch, ledger = self._batch, self._batch.ledger
        if ledger is None:
            return
        dry = self._inputs.dry
        held = bool(self._parked and self._backoff and (dry or self._backoff.full))
        if held is not self._held:
            self._held = held
            (ledger.wait if held else ledger.resume)(BACKOFF, self._clock())
        if dry:
            if self._due or self._fetched:
                ledger.input_available(self._clock())
            else:
                ended = bool(self._backoff) or batch.completed > 0
                ledger.input_exhausted(self._clock(), batch.latest_ns, batch.pulled - batch.completed, ended=ended)

    async def _park(self) -> None:
        waiter = self._loop.create_future()
        self._parked.append(waiter)
        self._tell()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._wake_one()  # it was somebody's turn: another one's now
            raise

    def _wake_one(self) -> None:
        parked = self._parked
        while parked:
            waiter = parked.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break

    def _wake_all(self) -> None:
        while self._parked:
            self._wake_one()
