"""Retry queue: a source that also yields items for their next attempt, and items parked by the cache."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextvars import Context
from typing import Any

from flowrt._util.clock import Clock
from flowrt.attribution.ledger import BACKOFF
from flowrt.attribution.wait import Wait
from flowrt.engine.delay_queue import DelayQueue
from flowrt.engine.pause import Pause
from flowrt.engine.source import END, LATER, AsyncSource, Source
from flowrt.engine.waiters import Waiters
from flowrt.model import BatchRecord, ItemRecord

__all__ = ["Requeued", "RetryQueue"]


class Requeued:
    """Return value of `pull` for an item of the queue, in place of an input.

    There is one object per queue, which saves an allocation for each retry.

    Attributes:
        item: The item; valid until the next `pull`.
    """

    __slots__ = ("item",)

    item: ItemRecord


class RetryQueue(Source):
    """Source that yields the inputs of another source and, before them, items that are ready for another attempt.

    An item in backoff waits for its next attempt; a parked item waits until an equal input has run. While either
    number is at the bound, no new input is pulled. `pull` returns END when the inputs are exhausted and every item has
    ended; an exception of the inputs is raised only then, too, so that the items in flight finish.

    Args:
        inputs: The source of new inputs.
        batch: The batch's record.
        bound: Bound of the number of items in backoff, and of the number of parked items.
        loop: The running loop.
        clock: The batch's clock.
        pause: The batch's pause, which ends when no item is left for it to hold back.
    """

    def __init__(
        self,
        inputs: Source,
        batch: BatchRecord,
        bound: int,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        pause: Pause,
    ) -> None:
        self.awaits = inputs.awaits
        self.computes = inputs.computes
        self.sets_variables = inputs.sets_variables  # `pull` copies the inputs' `variables`
        self.expected = inputs.expected
        self._inputs = inputs
        self._pull_input = inputs.pull
        self._batch = batch
        self._loop = loop
        self._clock = clock
        self._ledger = batch.ledger
        self._pause = pause
        self._backoff: DelayQueue[ItemRecord] = DelayQueue(bound)
        self._parked: dict[int, ItemRecord] = {}  # by index
        self._ready: deque[ItemRecord] = deque()
        self._requeued = Requeued()
        self._waiters = inputs.waiters if isinstance(inputs, AsyncSource) else Waiters()
        self._idle = Waiters()  # workers for which no input may be fetched: they wait for a retry
        self._timer: asyncio.TimerHandle | None = None
        self._error: BaseException | None = None
        self._inputs_ended = False
        self._stopped = False
        self._full = False  # the bound is reached
        self._holds_back = False  # the ledger charges empty slots to items in backoff

    @property
    def exhausted(self) -> bool:  # type: ignore[override]  # an attribute of the inputs
        """True once the inputs have ended by themselves."""
        ended = self._inputs_ended and self._error is None and not self.awaits
        return ended or self._inputs.exhausted

    def start(self, context: Context, wait: Wait | None) -> None:
        self._inputs.start(context, wait)

    def push(self, item: ItemRecord, due_ns: int) -> None:
        """Queue an item for its next attempt.

        Args:
            item: An item whose attempt has just ended.
            due_ns: When the next attempt is due, by the batch's clock.
        """
        batch = self._batch
        if self._ledger is not None and not batch.queued and batch.pulled >= self._inputs.known:
            # no item of a list that is pulled whole has waited for a slot; from now on one may
            self._ledger.settle(item.finished_ns)
        batch.queued += 1
        if due_ns <= item.finished_ns:  # no backoff, so no timer
            self._ready.append(item)
            if self._idle.futures or self._waiters.futures:
                self._wake_one()
        else:
            first = self._backoff.due_ns
            self._backoff.push(due_ns, item)
            self._full = self._full or self._backoff.full
            if first is None or due_ns < first:
                self._set_timer()
        if self._ledger is not None:
            self._account()

    def park(self, item: ItemRecord) -> None:
        """Park an item that has not started until `release` is called with it."""
        self._parked[item.index] = item
        self._full = self._full or len(self._parked) >= self._backoff.bound
        self._batch.queued += 1

    def release(self, items: Iterable[ItemRecord]) -> None:
        """Make items ready, if they are still parked."""
        for item in items:
            if self._parked.pop(item.index, None) is not None:
                self._ready.append(item)
                self._wake_one()
        if self._has_room_again():
            self._wake_all()
        self._account()

    def item_ended(self, _: ItemRecord) -> None:
        """Note the end of an item. The last one ends the queue, and a pause that has no item left to hold back."""
        if self._idle.futures and self._is_over():
            self._idle.wake_all()
        if self._batch.paused_ns and self._batch.completed == self._batch.pulled and self._are_inputs_pulled():
            self._pause.end()

    def pull(self) -> Any:
        if self._ready:
            self._batch.queued -= 1
            self.variables = ()
            requeued = self._requeued
            requeued.item = self._ready.popleft()
            if self._ledger is not None and not self._ready:
                self._account()
            return requeued
        if not self._full and not self._inputs_ended:
            try:
                data = self._pull_input()
            except BaseException as exc:  # raised by `_at_end`, once the items in flight have ended
                self._error = exc
                self._end_inputs()
            else:
                if data is not END:
                    if self.sets_variables:
                        self.variables = self._inputs.variables
                    if self._idle.futures and data is not LATER:
                        self._idle.wake_one()  # it may have found the queue full before
                    return data
                self._end_inputs()
        return self._at_end() if self._is_over() else LATER

    async def wait(self) -> None:
        if self._stopped:
            return
        if self._inputs_ended or self._full:
            self._account(waiting=1)
            await self._idle.wait()
        else:
            await self._inputs.wait()
        self._account()

    def stop(self) -> None:
        self._stopped = True
        self._inputs.stop()
        self._idle.wake_all()

    async def aclose(self) -> None:
        await self._inputs.aclose()

    def take_rest(self, rest: list[Any], most: int) -> None:
        self._inputs.take_rest(rest, most)

    def take_requeued(self) -> Iterable[ItemRecord]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        left = [*self._ready, *self._parked.values(), *self._backoff.drain()]
        self._ready.clear()
        self._parked.clear()
        self._full = False
        self._batch.queued -= len(left)
        return left

    def take_error(self) -> BaseException | None:
        """Remove and return the inputs' exception that `pull` has not raised, since items were in flight."""
        error, self._error = self._error, None
        return error

    def take_unpulled(self) -> Iterable[Any]:
        return self._inputs.take_unpulled()

    # -- within -----------------------------------------------------------------------------------------------------

    def _has_room_again(self) -> bool:
        """Return whether the queue was full before the latest items became ready, and is no longer."""
        was_full = self._full
        self._full = self._backoff.full or len(self._parked) >= self._backoff.bound
        return was_full and not self._full

    def _is_over(self) -> bool:
        batch = self._batch
        return self._stopped or (self._inputs_ended and batch.completed == batch.pulled)

    def _are_inputs_pulled(self) -> bool:
        inputs = self._inputs
        return self._inputs_ended or (self._batch.pulled >= inputs.known and not inputs.left)

    def _at_end(self) -> Any:
        self._wake_all()
        if (error := self.take_error()) is not None:
            try:
                raise error
            finally:
                del error  # in this frame it would be in a reference cycle with its traceback
        return END

    def _end_inputs(self) -> None:
        self._inputs_ended = True
        self._wake_all()

    def _wake_all(self) -> None:
        self._waiters.wake_all()
        self._idle.wake_all()

    def _wake_one(self) -> None:
        if self._idle.futures:
            self._idle.wake_one()
        elif self._waiters.futures:
            self._waiters.wake_one()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_ns = self._backoff.due_ns
        if due_ns is not None:
            self._timer = self._loop.call_later(max(0, due_ns - self._clock()) / 1e9, self._make_ready)

    def _make_ready(self) -> None:
        """Move the items that are due from backoff to the ready items."""
        self._timer = None
        now = self._clock()
        while (item := self._backoff.pop(now)) is not None:
            self._ready.append(item)
            self._wake_one()
        self._set_timer()
        if self._has_room_again():
            self._idle.wake_one()
        self._account()

    def _account(self, waiting: int = 0) -> None:
        """Charge empty slots to items in backoff, or to the end of the inputs, if a ledger is kept.

        Args:
            waiting: Number of workers that are about to wait for a retry.
        """
        batch, ledger = self._batch, self._ledger
        if ledger is None:
            return
        exhausted = self._inputs_ended
        holds_back = bool((self._idle.futures or waiting) and self._backoff and (exhausted or self._backoff.full))
        if holds_back is not self._holds_back:
            self._holds_back = holds_back
            (ledger.wait if holds_back else ledger.resume)(BACKOFF, self._clock())
        if exhausted:
            if self._ready:
                ledger.input_available(self._clock())
            else:
                ended = bool(self._backoff) or batch.completed > 0
                ledger.input_exhausted(self._clock(), batch.latest_ns, batch.pulled - batch.completed, ended=ended)
