"""CircuitBreaker: when a service fails too often, leave it alone for a while."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from flowrt._util.validation import check_count, check_number, seconds_to_ns
from flowrt.errors import FlowrtError
from flowrt.policies.error_classification import status_of

__all__ = ["CircuitBreaker", "CircuitOpenError", "State", "Transition", "is_service_failure"]

State = Literal["closed", "open", "half_open"]

_SLICES: Final = 10


class CircuitOpenError(FlowrtError):
    """The circuit breaker is open: the service failed too often lately, so the item was not tried."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of a breaker's state.

    Attributes:
        at_ns: When, by the batch's clock.
        old: The state before.
        new: The state from then on.
        reason: For people.
    """

    at_ns: int
    old: State
    new: State
    reason: str


def is_service_failure(error: Any) -> bool:
    """Whether a failed attempt speaks against the service: all do but those that a 4xx status blames on the item.

    Args:
        error: The exception, or what the node gave as its error.
    """
    status = status_of(error)
    return status is None or status >= 500 or status in (408, 425, 429)


class CircuitBreaker:
    """Stops attempts while a service fails: closed lets all pass, open none, half-open a few to see.

    It opens when, over the last `window`, at least `minimum` attempts ended and `failure_ratio` of them failed; after
    `cooldown` it lets `probes` attempts through. When all of these succeed it closes; when one fails it opens again.
    Attempts that began before it last changed do not count as probes. Pass the same object to several processors of
    one event loop that call the same service.

    Args:
        failure_ratio: The share of failed attempts that opens it, above 0 and at most 1.
        window: Over how much time, in seconds.
        cooldown: How long it stays open, in seconds.
        minimum: Attempts within the window below which it stays closed.
        probes: Attempts that are let through to see whether the service is well again.
        open: What an open circuit does with items: `"fail"` fails them at once, `"pause"` begins none until it closes.
        counts: A function of a failed attempt's error that says whether it speaks against the service.

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
        "_bad", "_changed_ns", "_cooldown_ns", "_failed_last", "_good", "_listeners", "_passed", "_probing", "_sick",
        "_slice_ns", "_slices", "_waiting", "closed", "cooldown", "counts", "failure_ratio", "minimum", "on_open",
        "probes", "state", "transitions", "window",
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
        self.closed = True  # what a caller on the hot path looks at
        self.transitions: deque[Transition] = deque(maxlen=1000)
        self._listeners: tuple[Callable[[Transition], None], ...] = ()
        self._cooldown_ns = seconds_to_ns(self.cooldown)
        self._slice_ns = max(1, seconds_to_ns(self.window) // _SLICES)
        self._slices: deque[list[int]] = deque()  # when it began, attempts that went well, attempts that did not
        self._good = 0
        self._bad = 0
        self._changed_ns = 0
        self._probing: deque[int] = deque()  # when the probes under way began
        self._passed = 0
        self._waiting: list[asyncio.Future[None]] = []

    def wait_ns(self, now_ns: int) -> int:
        """Ask to begin an attempt while the breaker is not `closed`; 0 means go on, and begin it at `now_ns`.

        Args:
            now_ns: The time.

        Returns:
            0, or after how many nanoseconds to ask again.
        """
        if self.closed:
            return 0
        if self.state == "open":
            left = self._changed_ns + self._cooldown_ns - now_ns
            if left > 0:
                return left
            self._change(now_ns, "half_open", f"{self.cooldown:g} s have passed")
        probing = self._probing
        while probing and now_ns - probing[0] >= self._cooldown_ns:
            probing.popleft()  # nobody said how it ended: its place must not be lost
        if len(probing) + self._passed < self.probes:
            probing.append(now_ns)
            return 0
        return probing[0] + self._cooldown_ns - now_ns

    async def wait(self, wait_ns: int) -> None:
        """Wait until it is time to ask again: sooner where it closes or a probe that was cancelled makes way.

        Args:
            wait_ns: What `wait_ns` gave.
        """
        sooner: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(sooner)
        try:
            await asyncio.wait([sooner], timeout=wait_ns / 1e9)
        finally:
            self._waiting.remove(sooner)

    def refusal(self, now_ns: int) -> CircuitOpenError:
        """The error of an item that an open circuit fails."""
        left_s = max(0, self._changed_ns + self._cooldown_ns - now_ns) / 1e9
        then = f"next try in {left_s:.3g} s" if self.state == "open" else "it is being probed"
        reason = self.transitions[-1].reason if self.transitions else "closed"
        return CircuitOpenError(f"the circuit is {self.state.replace('_', '-')} ({reason}): not tried; {then}")

    def record(self, now_ns: int, started_ns: int, ok: bool | None) -> None:
        """Say how an attempt ended.

        Args:
            now_ns: When it ended.
            started_ns: When it began; of a probe, the time at which `wait_ns` let it go.
            ok: Whether it went well; None for an attempt that was cancelled and says nothing.
        """
        if self.closed:
            if ok is not None:
                self._count(now_ns, ok)
        elif self.state == "half_open" and started_ns >= self._changed_ns and started_ns in self._probing:
            self._probing.remove(started_ns)
            if ok is None:
                self._wake()
                return
            if not ok:
                self._change(now_ns, "open", "a probe failed")
                return
            self._passed += 1
            if self._passed >= self.probes:
                probes = "the probe" if self.probes == 1 else f"{self.probes} probes"
                self._change(now_ns, "closed", f"{probes} went well")

    def subscribe(self, listener: Callable[[Transition], None]) -> Callable[[], None]:
        """Call a function at every transition, while it happens.

        Returns:
            A function that ends the subscription.
        """
        self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            self._listeners = tuple(known for known in self._listeners if known is not listener)

        return unsubscribe

    def _count(self, now_ns: int, ok: bool) -> None:
        slices = self._slices
        if not slices or now_ns - slices[-1][0] >= self._slice_ns:
            slices.append([now_ns, 0, 0])
            horizon = now_ns - _SLICES * self._slice_ns
            while slices[0][0] <= horizon:
                _, good, bad = slices.popleft()
                self._good -= good
                self._bad -= bad
        if ok:
            slices[-1][1] += 1
            self._good += 1
            return
        slices[-1][2] += 1
        self._bad = bad = self._bad + 1
        total = self._good + bad
        if total >= self.minimum and bad >= self.failure_ratio * total:
            self._change(now_ns, "open", f"{bad} of {total} attempts failed within {self.window:g} s")

    def _change(self, now_ns: int, state: State, reason: str) -> None:
        transition = Transition(now_ns, self.state, state, reason)
        self.state = state
        self.closed = state == "closed"
        self._changed_ns = now_ns
        self._slices.clear()
        self._good = self._bad = self._passed = 0
        self._probing.clear()
        self.transitions.append(transition)
        if self.closed:
            self._wake()
        for listener in self._listeners:
            listener(transition)

    def _wake(self) -> None:
        for sooner in self._waiting:
            if not sooner.done():
                sooner.set_result(None)

    def __repr__(self) -> str:
        return f"<CircuitBreaker: {self.state}, {self._bad} of {self._good + self._bad} failed>"
