"""Sender thread: joins encoded spans into requests, sends one at a time, retries with backoff, and gives up."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from opentelemetry import context as otel_context

from flowrt.telemetry.otlp.transport import Outcome, Transport

__all__ = ["Backoff", "Sender", "suppress_instrumentation", "warn_rate_limited"]

_NEVER_EXPORT_ITSELF: Final = otel_context._SUPPRESS_INSTRUMENTATION_KEY  # noqa: SLF001  # the API has no public name
_WARN_INTERVAL_S: Final = 60.0
_OVERDUE_S: Final = 1.0

_log = logging.getLogger("flowrt.export")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential backoff between the attempts of a request.

    Args:
        first_s: Delay before the second attempt, in seconds. It doubles each time; jitter takes off up to half.
        most_s: Longest delay, in seconds.
        most_after_s: Longest delay that a collector may ask for, in seconds; longer ones are shortened to it.
        give_up_s: Time after its first attempt at which a request is given up, in seconds.
    """

    first_s: float = 0.25
    most_s: float = 10.0
    most_after_s: float = 60.0
    give_up_s: float = 64.0

    def wait_s(self, failures: int) -> float:
        """Delay after this many failures in a row, in seconds."""
        longest = min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, not a secret


OnSent = Callable[[int, int, bool], None]


class Sender:
    """Sends encoded requests in order, from a daemon thread.

    Args:
        transport: Connection to the collector.
        on_sent: Called in the thread once per request, but not after `stop`, with the request's number of spans, the
            number of rejected ones, and True if the collector accepted the request.
        request_bytes: Size limit of a joined request, in bytes.
        backoff: Retry delays.

    Attributes:
        queued_bytes: Size of the waiting and active requests, in bytes.
        retry_after_until: End of the delay that the collector asked for, on the monotonic clock.
        last_error: Reason of the last failed request, or "".
    """

    def __init__(self, transport: Transport, on_sent: OnSent, *, request_bytes: int, backoff: Backoff) -> None:
        self.queued_bytes = 0
        self.retry_after_until = 0.0
        self.last_error = ""
        self._transport = transport
        self._on_sent = on_sent
        self._request_bytes = request_bytes
        self._backoff = backoff
        self._change = threading.Condition(threading.Lock())
        self._payloads: deque[tuple[bytes, int]] = deque()
        self._due = False
        self._stopped = False
        self._failures = 0
        self._not_before = 0.0
        self._abort_at = 0.0
        self._thread = threading.Thread(target=self._run, name="flowrt-spans-send", daemon=True)
        self._thread.start()

    def offer(self, payload: bytes, count: int) -> None:
        """Queue an encoded request. It is sent once the queue fills a request or `mark_due` is called.

        Args:
            payload: An encoded ExportTraceServiceRequest; concatenated ones are a valid request.
            count: Number of spans in it.
        """
        with self._change:
            if self._stopped:
                return
            self._payloads.append((payload, count))
            self.queued_bytes += len(payload)
            if self.queued_bytes >= self._request_bytes:
                self._change.notify()

    def mark_due(self) -> None:
        """Send the queued requests now, even if they do not fill a request."""
        with self._change:
            if self._payloads and not self._due:
                self._due = True
                self._change.notify()

    def retry_now(self) -> None:
        """Skip the backoff of a waiting retry. A delay that the collector asked for still holds."""
        with self._change:
            self._failures = 0
            self._not_before = 0.0
            self._change.notify()

    def stop(self) -> None:
        """Abort the active request and discard the queue. It does not block."""
        with self._change:
            self._stopped = True
            self._payloads.clear()
            self._change.notify()
        self._transport.abort()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end. A collector that hangs may keep it longer.

        Args:
            timeout_s: Longest wait, in seconds.
        """
        self._thread.join(timeout_s)

    def abort_overdue(self) -> None:
        """Abort a request that exceeds its timeout although bytes trickle in. Call it periodically."""
        if 0.0 < self._abort_at < time.monotonic():
            self._transport.abort()

    # -- on the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with suppress_instrumentation():
            while (request := self._next()) is not None:
                payloads, count = request
                taken, rejected = self._send_with_retries(payloads, count)
                with self._change:
                    if self._stopped:
                        break
                    self.queued_bytes -= sum(map(len, payloads))
                self._on_sent(count, rejected, taken)
            self._transport.close()

    def _next(self) -> tuple[list[bytes], int] | None:
        """Wait for a full or due request, and return its payloads and number of spans; None after `stop`."""
        with self._change:
            while not self._stopped and (
                not self._payloads or not (self._due or self.queued_bytes >= self._request_bytes)
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

    def _send_with_retries(self, payloads: list[bytes], count: int) -> tuple[bool, int]:
        """Send a request until it is accepted or given up.

        Returns:
            True if it was accepted, and the number of rejected spans.
        """
        give_up_at = 0.0
        body: Sequence[bytes] | None = None
        while self._wait_until_allowed():
            give_up_at = give_up_at or time.monotonic() + self._backoff.give_up_s
            try:
                body = body or self._transport.pack(payloads)
                outcome = self._attempt(body)
            except Exception as exc:  # an unexpected error in the transport must not end the thread
                outcome = Outcome(False, kind=type(exc).__name__, detail=repr(exc))
            if self._stopped:
                break
            self.last_error = outcome.detail or self.last_error
            if outcome.taken:
                self._failures, self._not_before = 0, 0.0
                if outcome.kind:
                    self._warn(outcome, f"the collector rejected {outcome.rejected} of {count} spans")
                return True, min(outcome.rejected, count)
            if not outcome.retry:
                self._warn(outcome, f"dropped {count} spans")
                break
            self._schedule_retry(outcome)
            if max(self._not_before, self.retry_after_until) > give_up_at:
                self._warn(outcome, f"dropped {count} spans after {self._backoff.give_up_s:g} s of retries")
                break
            self._warn(outcome, "retrying", again=True)
        return False, 0

    def _attempt(self, body: Sequence[bytes]) -> Outcome:
        self._abort_at = time.monotonic() + self._transport.timeout_s + _OVERDUE_S
        try:
            return self._transport.send(body)
        finally:
            self._abort_at = 0.0

    def _schedule_retry(self, outcome: Outcome) -> None:
        with self._change:
            self._failures += 1
            now = time.monotonic()
            self._not_before = now + self._backoff.wait_s(self._failures)
            if outcome.after_s:
                self.retry_after_until = now + min(outcome.after_s, self._backoff.most_after_s)

    def _wait_until_allowed(self) -> bool:
        """Wait for the backoff and the collector's delay. Return False if the sender was stopped."""
        with self._change:
            while not self._stopped:
                wait_s = max(self._not_before, self.retry_after_until) - time.monotonic()
                if wait_s <= 0:
                    return True
                self._change.wait(wait_s)
        return False

    def _warn(self, outcome: Outcome, consequence: str, *, again: bool = False) -> None:
        warn_rate_limited(
            (self._transport.where, outcome.kind, again),
            "export of spans to %s: %s; %s",
            self._transport.where,
            outcome.detail,
            consequence,
        )


_warned_at: Final[dict[object, float]] = {}


def warn_rate_limited(about: object, message: str, *args: object) -> None:
    """Log a warning, at most once per minute and subject.

    Args:
        about: The subject, of low cardinality.
        message: Format string, as for `logging`.
        args: Arguments of the format string.
    """
    now = time.monotonic()
    if now - _warned_at.get(about, -_WARN_INTERVAL_S) >= _WARN_INTERVAL_S:
        _warned_at[about] = now
        _log.warning(message, *args)


@contextmanager
def suppress_instrumentation() -> Iterator[None]:
    """Context in which instrumented clients make no spans: the export of spans must not be traced itself."""
    token = otel_context.attach(otel_context.set_value(_NEVER_EXPORT_ITSELF, True))
    try:
        yield
    finally:
        otel_context.detach(token)
