"""Retry queue: a source that also yields items again, when their next attempt is due or an equal item has ended."""

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
    """What `pull` returns in place of an input: an item that is ready for an attempt after it had to wait.

    Attributes:
        item: The item, until the next `pull`.
    """

    __slots__ = ("item",)

    item: ItemRecord


class RetryQueue(Source):
    """The inputs of a source, and in between, as they become ready, the items to be tried again.

    While as many items are in backoff or parked as may be, no new input is pulled. END comes when the inputs are
    exhausted and no item can be tried again; an error of the inputs is raised then, too, so that the items on their way
    finish.

    Args:
        inputs: The source of new inputs.
        batch: The batch's record.
        bound: Most items in backoff, and most that are parked.
        loop: The running loop.
        clock: The batch's clock.
        pause: Ended once no item is left that it could hold back.
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
        self.sets_variables = inputs.sets_variables  # what they set is read through this one
        self.expected = inputs.expected
        self._inputs = inputs
        self._pull_input = inputs.pull
        self._batch = batch
        self._loop = loop
        self._clock = clock
        self._ledger = batch.ledger
        self._pause = pause
        self._backoff: DelayQueue[ItemRecord] = DelayQueue(bound)
        self._parked: dict[int, ItemRecord] = {}  # by index: they wait for an equal input that is being run
        self._ready: deque[ItemRecord] = deque()
        self._requeued = Requeued()
        self._waiters = inputs.waiters if isinstance(inputs, AsyncSource) else Waiters()
        self._idle = Waiters()  # workers that wait for a retry alone: no input is to be fetched for them
        self._timer: asyncio.TimerHandle | None = None
        self._error: BaseException | None = None
        self._inputs_ended = False
        self._stopped = False
        self._full = False  # as many items are in backoff or parked as may be
        self._holds_back = False  # the ledger has it that slots stand empty while items are in backoff

    @property
    def exhausted(self) -> bool:  # type: ignore[override]  # an attribute of the inputs
        """True once the inputs have ended by themselves."""
        return self._inputs.exhausted

    def start(self, context: Context, wait: Wait | None) -> None:
        self._inputs.start(context, wait)

    def push(self, item: ItemRecord, due_ns: int) -> None:
        """Let an item wait for its next attempt.

        Args:
            item: It has just had an attempt.
            due_ns: When the next one is due, by the batch's clock.
        """
        self._batch.queued += 1
        if due_ns <= item.finished_ns:  # without a wait it needs no timer
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
        """Let an item that has not started wait until it is released."""
        self._parked[item.index] = item
        self._full = self._full or len(self._parked) >= self._backoff.bound
        self._batch.queued += 1

    def release(self, items: Iterable[ItemRecord]) -> None:
        """Make parked items ready; those that are not parked any more are left out."""
        for item in items:
            if self._parked.pop(item.index, None) is not None:
                self._ready.append(item)
                self._wake_one()
        if self._has_room_again():
            self._wake_all()
        self._account()

    def item_ended(self, _: ItemRecord) -> None:
        """Note that an item will not be tried again: it may have been the last that could be."""
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
            except BaseException as exc:  # raised once the items on their way have ended
                self._error = exc
                self._end_inputs()
            else:
                if data is not END:
                    if self.sets_variables:
                        self.variables = self._inputs.variables
                    if self._idle.futures and data is not LATER:
                        self._idle.wake_one()  # of those that found the backoff full: there is more
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

    def take_unpulled(self) -> Iterable[Any]:
        return self._inputs.take_unpulled()

    # -- within -----------------------------------------------------------------------------------------------------

    def _has_room_again(self) -> bool:
        """Return whether items may wait that could not before those that have just become ready."""
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
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # or it would hold on to itself by its traceback
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
        """Move the items that are due from backoff to the ready ones."""
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
        """Have the ledger know while slots stand empty because items are in backoff, or for want of any item.

        Args:
            waiting: How many workers are about to wait for a retry.
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
