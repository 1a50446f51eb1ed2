"""CircuitBreaker: stops attempts for a while when a service fails too often."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from flowrt._util.validation import check_count, check_number, seconds_to_ns
from flowrt.errors import FlowrtError
from flowrt.policies.error_classification import leaves_of, status_of

__all__ = ["CircuitBreaker", "CircuitOpenError", "State", "Transition", "is_service_failure"]

State = Literal["closed", "open", "half_open"]

_SLICES: Final = 10


class CircuitOpenError(FlowrtError):
    """The circuit breaker is open: the service failed too often recently, so the item was not tried."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of a breaker's state.

    Attributes:
        at_ns: Time of the change, in nanoseconds on the batch's clock.
        old: The state before the change.
        new: The state after the change.
        reason: Explanation as text.
    """

    at_ns: int
    old: State
    new: State
    reason: str


def is_service_failure(error: Any) -> bool:
    """Return True if a failed attempt counts against the service.

    All failures count, except those that a 4xx status blames on the item.

    Args:
        error: The exception, or the `error` of the node's result; an ExceptionGroup counts if one of its exceptions
            does.
    """
    statuses = [status_of(leaf) for leaf in leaves_of(error)]
    return any(status is None or status >= 500 or status in (408, 425, 429) for status in statuses)


class _Listener(NamedTuple):
    """A subscriber, and the loop that its batch runs on."""

    loop: asyncio.AbstractEventLoop | None
    call: Callable[[Transition], None]


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _call_on(loop: asyncio.AbstractEventLoop | None, function: Callable[..., None], *arguments: Any) -> None:
    """Call a function now if the loop runs here, else schedule the call on the loop; a closed loop gets none."""
    if loop is None or loop is _running_loop():
        function(*arguments)
    else:
        with suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(function, *arguments)


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class CircuitBreaker:
    """Stops attempts while a service fails: closed admits all attempts, open none, half-open a few probes.

    The breaker opens when, over the last `window`, at least `minimum` attempts ended and `failure_ratio` of them
    failed. After `cooldown` it admits `probes` attempts. When all of these succeed it closes; when one fails it opens
    again. Attempts that began before the last transition do not count as probes. Pass the same object to all processors
    that call the same service, on the loops of any threads.

    Args:
        failure_ratio: The share of failed attempts that opens the breaker, above 0 and at most 1.
        window: Period over which the share is measured, in seconds.
        cooldown: How long the breaker stays open, in seconds.
        minimum: Fewest attempts within the window that can open the breaker.
        probes: Attempts admitted while half-open, to test the service.
        open: What an open circuit does with items: `"fail"` fails them at once, `"pause"` starts none until it closes.
        counts: A function of a failed attempt's error; True if it counts against the service.

    Raises:
        ValueError: A setting is out of its range.

    Example:
        >>> breaker = CircuitBreaker(failure_ratio=0.5, window=10, cooldown=30, minimum=2)
        >>> for at in (1, 2):
        ...     breaker.record(at, started_ns=at, ok=False)
        >>> breaker.state, breaker.wait_ns(now_ns=2) / 1e9
        ('open', 30.0)
    """

    __slots__ = (
        "_changed_ns", "_cooldown_ns", "_failed", "_listeners", "_lock", "_probes_started", "_probes_succeeded",
        "_slice_ns", "_slices", "_succeeded", "_waiters", "closed", "cooldown", "counts", "failure_ratio", "minimum",
        "on_open", "probes", "state", "transitions", "window",
    )  # fmt: skip

    def __init__(
        self,
        failure_ratio: float = 0.5,
        window: float = 30.0,
        cooldown: float = 30.0,
        *,
        minimum: int = 20,
        probes: int = 1,
        open: Literal["fail", "pause"] = "fail",  # noqa: A002  # the word for it
        counts: Callable[[Any], bool] = is_service_failure,
    ) -> None:
        self.failure_ratio = check_number("failure_ratio", failure_ratio, above=True, most=1)
        self.window = check_number("window", window, above=True, unit="of seconds")
        self.cooldown = check_number("cooldown", cooldown, above=True, unit="of seconds")
        self.minimum = check_count("minimum", minimum)
        self.probes = check_count("probes", probes)
        if open not in ("fail", "pause"):
            raise ValueError(f"open must be 'fail' or 'pause', not {open!r}")
        if not callable(counts):
            raise ValueError(f"counts must be a function of the error, not {counts!r}")  # noqa: TRY004  # as the others
        self.on_open = open
        self.counts = counts
        self.state: State = "closed"
        self.closed = True  # one attribute to read on the hot path
        self.transitions: deque[Transition] = deque(maxlen=1000)
        self._lock = threading.Lock()  # held for state alone, never while listeners or waiters are notified
        self._listeners: tuple[_Listener, ...] = ()
        self._cooldown_ns = seconds_to_ns(self.cooldown)
        self._slice_ns = max(1, seconds_to_ns(self.window) // _SLICES)
        self._slices: deque[list[int]] = deque()  # of the window: start in ns, successes, failures
        self._succeeded = 0  # sums over the slices
        self._failed = 0
        self._changed_ns = 0
        self._probes_started: deque[int] = deque()  # start of each running probe, in ns
        self._probes_succeeded = 0
        self._waiters: list[asyncio.Future[None]] = []

    def wait_ns(self, now_ns: int) -> int:
        """Ask for a probe while the breaker is not `closed`.

        Args:
            now_ns: The current time, in nanoseconds.

        Returns:
            0 if the attempt may start, at `now_ns`; else the time until the next ask, in nanoseconds.
        """
        transition: Transition | None = None
        with self._lock:
            if self.closed:
                return 0
            if self.state == "open":
                left = self._changed_ns + self._cooldown_ns - now_ns
                if left > 0:
                    return left
                transition = self._change(now_ns, "half_open", f"{self.cooldown:g} s have passed")
            started = self._probes_started
            while started and now_ns - started[0] >= self._cooldown_ns:
                started.popleft()  # its end was never recorded: free its permit, or the breaker would stay half-open
            if len(started) + self._probes_succeeded < self.probes:
                started.append(now_ns)
                wait_ns = 0
            else:
                wait_ns = started[0] + self._cooldown_ns - now_ns
        if transition is not None:
            self._notify(transition)
        return wait_ns

    async def wait(self, wait_ns: int) -> None:
        """Wait until it is time to ask again; return early if the breaker closes or a cancelled probe frees a permit.

        Args:
            wait_ns: The longest wait, as `wait_ns` returned it, in nanoseconds.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await asyncio.wait([waiter], timeout=wait_ns / 1e9)
        finally:
            self._waiters.remove(waiter)

    def refusal(self, now_ns: int) -> CircuitOpenError:
        """Make the error of an item that an open circuit fails."""
        left_s = max(0, self._changed_ns + self._cooldown_ns - now_ns) / 1e9
        then = f"next try in {left_s:.3g} s" if self.state == "open" else "it is being probed"
        reason = self.transitions[-1].reason if self.transitions else "closed"
        return CircuitOpenError(f"the circuit is {self.state.replace('_', '-')} ({reason}): not tried; {then}")

    def record(self, now_ns: int, started_ns: int, ok: bool | None) -> None:
        """Record how an attempt ended.

        Args:
            now_ns: End of the attempt, in nanoseconds.
            started_ns: Start of the attempt, in nanoseconds; for a probe, the time at which `wait_ns` admitted it.
            ok: True for a success, False for a failure, None for a cancelled attempt, which says nothing.
        """
        slices = self._slices
        if ok and self.closed and slices and now_ns - slices[-1][0] < self._slice_ns:
            # The fast path needs no lock: it makes no call, and the interpreter switches threads at calls only.
            slices[-1][1] += 1
            self._succeeded += 1
            return
        transition: Transition | None = None
        with self._lock:
            if self.closed:
                if ok is not None:
                    transition = self._count(now_ns, ok)
            elif self.state == "half_open" and started_ns >= self._changed_ns and started_ns in self._probes_started:
                self._probes_started.remove(started_ns)
                transition = self._count_probe(now_ns, ok)
            else:
                return
        if transition is not None:
            self._notify(transition)
        elif ok is None:
            self._wake()

    def subscribe(self, listener: Callable[[Transition], None]) -> Callable[[], None]:
        """Call a function at every transition, on the loop that runs now.

        A transition that happens on the same loop calls it at once; one on another loop schedules the call.

        Returns:
            A function that ends the subscription.
        """
        entry = _Listener(_running_loop(), listener)
        with self._lock:
            self._listeners = (*self._listeners, entry)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = tuple(known for known in self._listeners if known is not entry)

        return unsubscribe

    def _notify(self, transition: Transition) -> None:
        if transition.new == "closed":
            self._wake()
        for entry in self._listeners:
            _call_on(entry.loop, self._deliver, entry, transition)

    def _deliver(self, entry: _Listener, transition: Transition) -> None:
        if entry in self._listeners:  # it may have unsubscribed since the call was scheduled
            entry.call(transition)

    def _count_probe(self, now_ns: int, ok: bool | None) -> Transition | None:
        if ok is None:
            return None
        if not ok:
            return self._change(now_ns, "open", "a probe failed")
        self._probes_succeeded += 1
        if self._probes_succeeded < self.probes:
            return None
        probes = "the probe" if self.probes == 1 else f"{self.probes} probes"
        return self._change(now_ns, "closed", f"{probes} went well")

    def _count(self, now_ns: int, ok: bool) -> Transition | None:
        slices = self._slices
        if not slices or now_ns - slices[-1][0] >= self._slice_ns:
            slices.append([now_ns, 0, 0])
            horizon = now_ns - _SLICES * self._slice_ns
            while slices[0][0] <= horizon:
                _, succeeded, failed = slices.popleft()
                self._succeeded -= succeeded
                self._failed -= failed
        if ok:
            slices[-1][1] += 1
            self._succeeded += 1
            return None
        slices[-1][2] += 1
        self._failed = failed = self._failed + 1
        total = self._succeeded + failed
        if total < self.minimum or failed < self.failure_ratio * total:
            return None
        return self._change(now_ns, "open", f"{failed} of {total} attempts failed within {self.window:g} s")

    def _change(self, now_ns: int, state: State, reason: str) -> Transition:
        transition = Transition(now_ns, self.state, state, reason)
        self.state = state
        self.closed = state == "closed"
        self._changed_ns = now_ns
        self._slices.clear()
        self._succeeded = self._failed = self._probes_succeeded = 0
        self._probes_started.clear()
        self.transitions.append(transition)
        return transition

    def _wake(self) -> None:
        for waiter in tuple(self._waiters):
            _call_on(waiter.get_loop(), _end, waiter)

    def __repr__(self) -> str:
        return f"<CircuitBreaker: {self.state}, {self._failed} of {self._succeeded + self._failed} failed>"
