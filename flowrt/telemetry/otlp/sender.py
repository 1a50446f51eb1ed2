"""Sends what is encoded, one request at a time, from a daemon thread: joined, retried, and given up in the end."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from opentelemetry import context as otel_context

from flowrt.telemetry.otlp.transport import Outcome, Transport

__all__ = ["Backoff", "Delivery", "complain", "unobserved"]

_NEVER_EXPORT_ITSELF: Final = otel_context._SUPPRESS_INSTRUMENTATION_KEY  # noqa: SLF001  # the API has no public name
_COMPLAIN_EVERY_S: Final = 60.0
_OVERDUE_S: Final = 1.0

_log = logging.getLogger("flowrt.export")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait before a request is sent again.

    Args:
        first_s: Before the second attempt, in seconds; doubled each time, and up to half of it taken off at random.
        most_s: At most, in seconds.
        most_after_s: At most where the collector asks for more, in seconds.
        give_up_s: How long after its first attempt a request is given up, in seconds.
    """

    first_s: float = 0.25
    most_s: float = 10.0
    most_after_s: float = 60.0
    give_up_s: float = 64.0

    def wait_s(self, failures: int) -> float:
        """How long to wait after so many failures in a row, in seconds."""
        longest = min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311  # not for secrets


Settled = Callable[[int, int, bool], None]


class Delivery:
    """Sends encoded requests in the order in which they came.

    Args:
        transport: The way to the collector.
        settled: Told, for each request, how many spans it had, how many of them were rejected, and whether it was
            taken at all. Called from the thread, once per request, and not after `stop`.
        request_bytes: How much is joined to one request at most, in bytes.
        backoff: When to try again.

    Attributes:
        held_bytes: How much waits or is under way, in bytes.
        barred_until: Until when the collector asked to be left alone, on the monotonic clock.
    """

    def __init__(self, transport: Transport, settled: Settled, *, request_bytes: int, backoff: Backoff) -> None:
        self.held_bytes = 0
        self.barred_until = 0.0
        self._transport = transport
        self._settled = settled
        self._request_bytes = request_bytes
        self._backoff = backoff
        self._change = threading.Condition(threading.Lock())
        self._payloads: deque[tuple[bytes, int]] = deque()
        self._due = False
        self._stopped = False
        self._failures = 0
        self._not_before = 0.0
        self._overdue_at = 0.0
        self._thread = threading.Thread(target=self._run, name="flowrt-spans-send", daemon=True)
        self._thread.start()

    def offer(self, payload: bytes, count: int) -> None:
        """Take an encoded request, to be sent once there is enough of it or it is due.

        Args:
            payload: An ExportTraceServiceRequest; several, joined, are one.
            count: How many spans it has.
        """
        with self._change:
            if self._stopped:
                return
            self._payloads.append((payload, count))
            self.held_bytes += len(payload)
            if self.held_bytes >= self._request_bytes:
                self._change.notify()

    def go(self) -> None:
        """What waits is due."""
        with self._change:
            if self._payloads and not self._due:
                self._due = True
                self._change.notify()

    def hurry(self) -> None:
        """Try at once what waits to be tried again, unless the collector asked to be left alone."""
        with self._change:
            self._failures = 0
            self._not_before = 0.0
            self._change.notify()

    def stop(self) -> None:
        """End what is under way and forget what waits; does not wait."""
        with self._change:
            self._stopped = True
            self._payloads.clear()
            self._change.notify()
        self._transport.abort()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end, which it may do late where the collector hangs.

        Args:
            timeout_s: At most, in seconds.
        """
        self._thread.join(timeout_s)

    def watch(self) -> None:
        """End a request that takes too long although bytes trickle in; to be called now and then."""
        if 0.0 < self._overdue_at < time.monotonic():
            self._transport.abort()

    # -- on the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with unobserved():
            while (request := self._next()) is not None:
                payloads, count = request
                taken, rejected = self._deliver(b"".join(payloads) if len(payloads) > 1 else payloads[0], count)
                with self._change:
                    if self._stopped:
                        break
                    self.held_bytes -= sum(map(len, payloads))
                self._settled(count, rejected, taken)
            self._transport.close()

    def _next(self) -> tuple[list[bytes], int] | None:
        """As much as fits into one request, when there is enough or it is due; None at the end."""
        with self._change:
            while not self._stopped and (
                not self._payloads or not (self._due or self.held_bytes >= self._request_bytes)
            ):
                self._due = False
                self._change.wait()
            if self._stopped:
                return None
            payload, count = self._payloads.popleft()
            payloads, size = [payload], len(payload)
            while self._payloads and size + len(self._payloads[0][0]) <= self._request_bytes:
                payload, more = self._payloads.popleft()
                payloads.append(payload)
                size, count = size + len(payload), count + more
            return payloads, count

    def _deliver(self, payload: bytes, count: int) -> tuple[bool, int]:
        """Whether a request was taken, in the end, and how many of its spans were rejected."""
        give_up_at = 0.0
        body: bytes | None = None
        while self._rest():
            give_up_at = give_up_at or time.monotonic() + self._backoff.give_up_s
            try:
                body = body or self._transport.pack(payload)
                outcome = self._attempt(body)
            except Exception as exc:  # whatever the transport did not foresee is lost, and the thread goes on
                outcome = Outcome(False, kind=type(exc).__name__, detail=repr(exc))
            if self._stopped:
                break
            if outcome.taken:
                self._failures, self._not_before = 0, 0.0
                if outcome.kind:
                    self._complain(outcome, f"{outcome.rejected} of {count} spans were rejected")
                return True, min(outcome.rejected, count)
            if not outcome.retry:
                self._complain(outcome, f"{count} spans are lost")
                break
            self._put_off(outcome)
            if max(self._not_before, self.barred_until) > give_up_at:
                self._complain(outcome, f"{count} spans are lost after {self._backoff.give_up_s:g} s of trying")
                break
            self._complain(outcome, "spans wait to be sent again", again=True)
        return False, 0

    def _attempt(self, body: bytes) -> Outcome:
        self._overdue_at = time.monotonic() + self._transport.timeout_s + _OVERDUE_S
        try:
            return self._transport.send(body)
        finally:
            self._overdue_at = 0.0

    def _put_off(self, outcome: Outcome) -> None:
        with self._change:
            self._failures += 1
            now = time.monotonic()
            self._not_before = now + self._backoff.wait_s(self._failures)
            if outcome.after_s:
                self.barred_until = now + min(outcome.after_s, self._backoff.most_after_s)

    def _rest(self) -> bool:
        """Wait until there may be an attempt; whether there is to be one."""
        with self._change:
            while not self._stopped:
                wait_s = max(self._not_before, self.barred_until) - time.monotonic()
                if wait_s <= 0:
                    return True
                self._change.wait(wait_s)
        return False

    def _complain(self, outcome: Outcome, consequence: str, *, again: bool = False) -> None:
        complain(
            (self._transport.where, outcome.kind, again),
            "export of spans to %s: %s; %s",
            self._transport.where,
            outcome.detail,
            consequence,
        )


_complained_at: Final[dict[object, float]] = {}


def complain(about: object, message: str, *args: object) -> None:
    """Log a warning, unless one about the same was logged within the last minute.

    Args:
        about: What it is about, of low cardinality.
        message: As for logging.
        args: As for logging.
    """
    now = time.monotonic()
    if now - _complained_at.get(about, -_COMPLAIN_EVERY_S) >= _COMPLAIN_EVERY_S:
        _complained_at[about] = now
        _log.warning(message, *args)


@contextmanager
def unobserved() -> Iterator[None]:
    """Keep an instrumented client from tracing the export of traces."""
    token = otel_context.attach(otel_context.set_value(_NEVER_EXPORT_ITSELF, True))
    try:
        yield
    finally:
        otel_context.detach(token)
