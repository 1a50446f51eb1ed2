"""Line of callers at a rate limit: one order of asking, also for event loops that run in several threads at once."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from bisect import insort
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from time import perf_counter_ns
from typing import Final

from flowrt._util.clock import Clock, clock_of
from flowrt._util.weak_registry import WeakRegistry
from flowrt.policies.sliding_window import Charge, Window

__all__ = ["WaitingLine"]

_RECHECK_NS: Final = 50_000_000
_by_number: Final = attrgetter("number")


class WaitingLine:
    """Admits callers to a window in the order of asking, whichever loops they wait on.

    A caller is admitted first, which reserves its cost, and starts when its task runs. Callers of a loop that does not
    run keep their places, and the others pass them. The reservations of such a loop are taken back: its callers ask
    again, before the others, once the loop runs.

    Any thread may admit the first caller, also one on another loop: a loop whose thread is blocked holds back at most
    one cost, not the line. What its own timer admitted just before, in the same turn, is held back as well.

    Args:
        window: The log of admitted costs.

    Attributes:
        lock: Guards the line and the window. Reentrant, since the garbage collector may close a waiting coroutine.
        waiting: Number of callers in line.
    """

    __slots__ = ("__weakref__", "_last", "_numbers", "_queues", "lock", "waiting", "window")

    def __init__(self, window: Window) -> None:
        self.window = window
        self._numbers = itertools.count()
        self._begin()
        _lines.add(self)

    def _begin(self) -> None:
        """Begin without callers: in a new line, and in a copy or a forked child, whose callers wait elsewhere."""
        self.lock = threading.RLock()
        self.waiting = self.window.reserved = 0
        self._queues: dict[asyncio.AbstractEventLoop, _Queue] = {}
        self._last: _Queue | None = None  # of the loop that used the limit last

    def bind(self, loop: asyncio.AbstractEventLoop, clock: Clock | None = None) -> None:
        """Make a loop known, with its clock.

        Args:
            loop: The running loop.
            clock: Returns monotonic nanoseconds; by default the loop's own clock if its class has one.
        """
        with self.lock:
            queue = self._queues.get(loop)
            if queue is None:
                self._take_back()
                for closed in [known for known in self._queues if known.is_closed()]:
                    line = self._queues.pop(closed).line
                    self.waiting -= len(line)
                    line.clear()  # its callers would otherwise leave it again when their coroutines are collected
                queue = self._queues[loop] = _Queue(loop, clock_of(loop) if clock is None else clock)
            if queue is not self._last:
                self._last = queue
                self.window.restart(queue.clock())

    def now_ns(self) -> int:
        """Return the time by the running loop's clock. Ask with the lock held, so that the log stays in order."""
        queue = self._own()
        return perf_counter_ns() if queue is None else queue.clock()

    def free(self, price: int, now_ns: int) -> bool:
        """Return True if a cost may start now: it fits, and no earlier caller is waiting."""
        return not self.waiting and self.window.fits(price, now_ns)

    async def enter(self, price: int) -> int:
        """Wait until a cost is admitted. It stays reserved until `start` or `leave`.

        Returns:
            The queue's turn, an argument of `leave` and `holds`: it changes when the reservation is taken back.
        """
        loop = asyncio.get_running_loop()
        with self.lock:
            self.bind(loop)
            queue = self._queues[loop]
            now = queue.clock()
            if self.free(price, now):
                self.window.reserve(price, now)
                queue.reserved += price
                return queue.turn
            place = _Place(loop.create_future(), price, next(self._numbers))
            self._stand_in_line(queue, place)
        while place.turn != queue.turn:  # the turn changes only while this loop does not run
            try:
                await place.admitted
            except BaseException:
                self._withdraw(queue, place)
                raise
            if place.turn != queue.turn:
                with self.lock:
                    place.admitted, place.turn = loop.create_future(), None
                    self.bind(loop)
                    self._stand_in_line(queue, place)
        return queue.turn

    def holds(self, turn: int) -> bool:
        """True if the running loop's reservation was not taken back, which happens only while the loop does not run."""
        queue = self._own()
        return queue is not None and queue.turn == turn

    def start(self, price: int) -> Charge:
        """Charge a cost that the running loop holds reserved, from now on."""
        with self.lock:
            queue = self._own()
            if queue is not None:
                queue.reserved -= price
            charge = self.window.start(price, self.now_ns())
            self._admit(queue)
        return charge

    def leave(self, price: int, turn: int) -> None:
        """Release a reserved cost that will not start."""
        with self.lock:
            queue = self._own()
            if queue is not None and queue.turn == turn:
                queue.reserved -= price
                self.window.release(price)
            self._admit(queue)

    def settle(self, charge: Charge, price: int, actual: int) -> None:
        """Replace a charged cost by the actual one, both in millionths."""
        with self.lock:
            self.window.settle(charge, price, actual, self.now_ns())
            self._admit(self._own())

    def __reduce__(self) -> tuple[type[WaitingLine], tuple[Window]]:
        """Describe a copy by its window alone: a limit is shared by reference, so a copy begins without callers."""
        return WaitingLine, (self.window,)

    # -- within, with the lock held -----------------------------------------------------------------------------------

    def _own(self) -> _Queue | None:
        """The running loop's queue, or None where a coroutine of a loop that has ended is being closed."""
        try:
            return self._queues.get(asyncio.get_running_loop())
        except RuntimeError:
            return None

    def _stand_in_line(self, queue: _Queue, place: _Place) -> None:
        insort(queue.line, place, key=_by_number)  # a caller whose admission was taken back keeps its number
        self.waiting += 1
        self._admit(queue)

    def _withdraw(self, queue: _Queue, place: _Place) -> None:
        """Remove a cancelled caller from the line, or release the cost for which it was admitted in the same tick."""
        with self.lock:
            if place.turn is None:
                with suppress(ValueError):  # it was dropped already
                    queue.line.remove(place)
                    self.waiting -= 1
            elif place.turn == queue.turn:
                queue.reserved -= place.price
                self.window.release(place.price)
            self._admit(self._own())

    def _admit(self, own: _Queue | None) -> None:
        """Admit the callers that may start now, in the order of asking, and have the others' loops wake up in time.

        Args:
            own: The running loop's queue.
        """
        if not self.waiting:
            return
        self._take_back()
        window = self.window
        at_ns: int | None
        while True:
            heads = [(queue.line[0].number, queue) for queue in self._queues.values() if self._has_next(queue, own)]
            if not heads:
                at_ns = 0
                break
            queue = min(heads, key=lambda head: head[0])[1]
            place = queue.line[0]
            now = (own or queue).clock()
            at_ns = window.ready_ns(place.price, now)
            if at_ns is None and window.reserved > (own.reserved if own is not None else 0):
                at_ns = now + _RECHECK_NS  # a loop may stop before it uses its reservation, without a notice
            if at_ns is None or at_ns > now:
                break
            queue.line.popleft()
            self.waiting -= 1
            window.reserve(place.price, now)
            queue.reserved += place.price
            place.turn = queue.turn
            queue.wake(place, here=queue is own)
        for queue in self._queues.values():
            if queue is own:
                queue.set_timer(at_ns if queue.line else None, self._on_timer)
            elif queue.line and at_ns is not None and (queue.timer is None or queue.timer_ns > at_ns):
                queue.poke(self._on_timer)

    def _has_next(self, queue: _Queue, own: _Queue | None) -> bool:
        """True if a queue's first caller may be admitted from here."""
        line = queue.line
        while line and line[0].admitted.done():  # cancelled, and its task has not run yet
            line.popleft()
            self.waiting -= 1
        return bool(line) and (queue is own or (not queue.reserved and queue.loop.is_running()))

    def _take_back(self) -> None:
        """Take back the reservations of loops that do not run, which may never start."""
        for queue in self._queues.values():
            if queue.reserved and not queue.loop.is_running():
                self.window.release(queue.reserved)
                queue.reserved = 0
                queue.turn += 1

    def _on_timer(self, queue: _Queue) -> None:
        with self.lock:
            queue.set_timer(None, self._on_timer)
            queue.poked = False
            self.bind(queue.loop)
            self._admit(queue)


_lines: Final = WeakRegistry[WaitingLine]()


def _begin_in_child() -> None:
    """Reset the lines in a forked child.

    The parent's loops do not run there, although `is_running` says so, and another thread may have held the lock.
    """
    for line in _lines:
        line._begin()  # noqa: SLF001  # of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)


class _Place:
    """A waiting caller.

    Args:
        admitted: Ends when the caller is admitted.
        price: Its cost, in millionths.
        number: Its place in the order of asking.

    Attributes:
        turn: The queue's turn in which it was admitted; None while it is in line.
    """

    __slots__ = ("admitted", "number", "price", "turn")

    def __init__(self, admitted: asyncio.Future[None], price: int, number: int) -> None:
        self.admitted = admitted
        self.price = price
        self.number = number
        self.turn: int | None = None


class _Queue:
    """Waiting callers of one event loop.

    Args:
        loop: The loop.
        clock: The loop's clock.

    Attributes:
        line: The callers, in the order of asking.
        reserved: Costs that were admitted and have not started, in millionths.
        turn: How often its reservations were taken back.
        timer: Admits the next caller.
        timer_ns: When the timer is due.
        poked: True while a call from another thread waits to run on the loop.
    """

    __slots__ = ("clock", "line", "loop", "poked", "reserved", "timer", "timer_ns", "turn")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self.loop = loop
        self.clock = clock
        self.line: deque[_Place] = deque()
        self.reserved = 0
        self.turn = 0
        self.timer: asyncio.TimerHandle | None = None
        self.timer_ns = 0
        self.poked = False

    def wake(self, place: _Place, *, here: bool) -> None:
        """End a caller's wait.

        Args:
            place: The admitted caller.
            here: True if the queue's loop runs in this thread.
        """
        if here:
            place.admitted.set_result(None)
        else:
            with suppress(RuntimeError):  # the loop has been closed
                self.loop.call_soon_threadsafe(_end, place.admitted)

    def set_timer(self, at_ns: int | None, on_timer: Callable[[_Queue], None]) -> None:
        """Set the timer anew, from the queue's own loop.

        Args:
            at_ns: When it is due; None for no timer.
            on_timer: Called with the queue.
        """
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if at_ns is not None and not self.loop.is_closed():
            self.timer_ns = at_ns
            self.timer = self.loop.call_later(max(0, at_ns - self.clock()) / 1e9, on_timer, self)

    def poke(self, on_timer: Callable[[_Queue], None]) -> None:
        """Make the loop admit callers itself, now or once it runs again.

        Args:
            on_timer: Called with the queue, on its loop.
        """
        if not self.poked:
            with suppress(RuntimeError):  # the loop has been closed
                self.loop.call_soon_threadsafe(on_timer, self)
                self.poked = True


def _end(admitted: asyncio.Future[None]) -> None:
    if not admitted.done():  # it was cancelled
        admitted.set_result(None)
