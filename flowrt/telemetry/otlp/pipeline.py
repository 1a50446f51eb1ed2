"""Pipeline from finished spans to a collector. Every span is counted as waiting, exported or dropped.

loop thread      appends without a lock; after every few spans it checks the backlog: one comparison
encoder thread   woken by the number of spans or after a delay; encodes some hundred at a time, then releases the GIL
sender thread    sends and retries requests; see `sender`
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final

from flowrt.telemetry.metrics.store import METRICS, DropReason
from flowrt.telemetry.otlp.encoder import encoded
from flowrt.telemetry.otlp.sender import Backoff, Sender, suppress_instrumentation
from flowrt.telemetry.otlp.transport import Transport

__all__ = ["SpanPipeline"]

_MIB: Final = 1 << 20
_BURST_SPANS: Final = 256
_YIELD_S: Final = 50e-6
_SATURATED_S: Final = 2e-3
_FINAL_JOIN_S: Final = 0.1


class SpanPipeline:
    """Exports finished spans, which any thread may put in.

    `ended == exported + sum(dropped.values()) + waiting` holds at all times, except for a span that is inside `put`.

    A producer of many spans may call `append`, which is `put` without the check of the backlog, and `check_backlog`
    after every few spans and after the last one.

    Args:
        transport: Connection to the collector.
        encode: Encodes spans as an ExportTraceServiceRequest. Called in the encoder's thread.
        takes_plain: True if `encode` accepts spans that are encoded already too.
        most_spans: Limit of waiting spans, encoded or not. Spans over it are dropped and counted.
        most_bytes: Limit of waiting encoded spans, in bytes. Spans over it are dropped and counted.
        batch_spans: Number of spans that wakes the encoder, and the most that it encodes at once. A request may join
            several such batches.
        delay_s: Longest time that a span waits for others, in seconds.
        request_bytes: Size limit of a request, in bytes. A request of one span may be larger.
        backoff: Retry delays.
    """

    def __init__(
        self,
        transport: Transport,
        encode: Callable[[Sequence[Any]], bytes],
        *,
        takes_plain: bool = False,
        most_spans: int = 500_000,
        most_bytes: int = 64 * _MIB,
        batch_spans: int = 2_048,
        delay_s: float = 0.5,
        request_bytes: int = 7 * _MIB // 2,  # gRPC servers accept 4 MiB by default
        backoff: Backoff | None = None,
    ) -> None:
        self.takes_plain = takes_plain
        self._transport = transport
        self._encode = encode
        self._most_spans = most_spans
        self._most_bytes = most_bytes
        self._batch_spans = min(batch_spans, most_spans)
        self._wake_at = max(1, min(batch_spans, most_spans // 2))  # leaves capacity for spans that end meanwhile
        self._delay_s = delay_s
        self._request_bytes = request_bytes
        self._backoff = backoff or Backoff()
        self._closed = False
        self._waiting: list[Any] = []  # spans are appended without the lock, and removed with it
        self.append: Callable[[Any], None] = self._waiting.append
        self._reset()
        self._start()
        if hasattr(os, "register_at_fork"):
            method = weakref.WeakMethod(self._after_fork)
            os.register_at_fork(after_in_child=lambda: (again := method()) and again())

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # wakes the encoder
        self._progress = threading.Condition(self._lock)  # wakes callers of `force_flush`
        self._taken = 0  # spans taken out of `_waiting` so far
        self._dropped_early = 0  # of those, spans dropped before encoding
        self._done = 0  # of those, spans exported or dropped
        self._exported = 0
        self._dropped: dict[DropReason, int] = {"queue_full": 0, "export_error": 0, "shutdown": 0}
        self._awake = True
        self._out_of_capacity = False
        self._flush_requested = False
        self._span_bytes = 1.0  # mean encoded size in the last request
        self._wake_above = -1  # `put` handles the backlog once more than this many spans wait
        self._threads: tuple[threading.Thread, Sender] | None = None

    def _start(self) -> None:
        sender = Sender(self._transport, self._on_sent, request_bytes=self._request_bytes, backoff=self._backoff)
        encoder = threading.Thread(target=self._run, args=(sender,), name="flowrt-spans-encode", daemon=True)
        encoder.start()
        self._threads = encoder, sender

    def _after_fork(self) -> None:
        """In a forked child, drop the parent's spans. The child's first span starts threads of its own."""
        self._waiting.clear()
        self._reset()
        self._transport.forget()

    # -- for the producers --------------------------------------------------------------------------------------------

    def put(self, span: Any) -> None:
        """Add a finished span to the queue.

        Args:
            span: A span that `encode` accepts.
        """
        self.append(span)
        self.check_backlog(1)

    def check_backlog(self, added: int) -> None:
        """Wake the encoder, or drop spans over the limit, if the backlog requires it.

        Args:
            added: Number of spans appended since the last check, or more.
        """
        if len(self._waiting) > self._wake_above:
            self._handle_backlog(added)

    def _handle_backlog(self, added: int) -> None:
        """Wake the encoder, and drop the newest spans if the limit is exceeded."""
        with self._lock:
            if self._closed:
                self._drop_all("shutdown")
                return
            if self._threads is None:
                try:
                    self._start()
                except RuntimeError:  # the interpreter is shutting down and starts no threads
                    self._drop_all("shutdown")
                    return
            for _ in range(min(added, len(self._waiting) - self._capacity())):
                self._drop_newest("queue_full")
            if not self._awake:
                self._awake = True
                self._update_wake_level()
                self._work.notify()

    def _drop_all(self, reason: DropReason) -> None:
        for _ in range(len(self._waiting)):
            self._drop_newest(reason)

    def _drop_newest(self, reason: DropReason) -> None:
        try:
            self._waiting.pop()
        except IndexError:  # the encoder took it meanwhile
            return
        self._taken += 1
        self._dropped_early += 1
        self._drop(reason, 1)

    # -- counts -------------------------------------------------------------------------------------------------------

    @property
    def ended(self) -> int:
        """Number of spans put in."""
        with self._lock:
            return self._taken + len(self._waiting)

    @property
    def exported(self) -> int:
        """Number of spans that the collector accepted."""
        return self._exported

    @property
    def dropped(self) -> dict[DropReason, int]:
        """Number of dropped spans, by reason."""
        with self._lock:
            return self._dropped.copy()

    @property
    def waiting(self) -> int:
        """Number of spans that are neither exported nor dropped yet."""
        with self._lock:
            return len(self._waiting) + self._in_export()

    @property
    def last_error(self) -> str:
        """Reason of the last failed request, or ""."""
        return "" if self._threads is None else self._threads[1].last_error

    @property
    def limit(self) -> int:
        """Number of spans that may wait, estimated from the size of recent ones."""
        return min(self._most_spans, int(self._most_bytes / self._span_bytes))

    def _in_export(self) -> int:
        """Number of spans that the encoder or the sender holds."""
        return self._taken - self._done

    def _put_in(self) -> int:
        """Number of spans put in and not dropped before encoding."""
        return self._taken - self._dropped_early + len(self._waiting)

    def _capacity(self) -> int:
        """Number of spans that may wait for the encoder."""
        if self._threads is not None and self._threads[1].queued_bytes >= self._most_bytes:
            return 0
        return max(0, self._most_spans - self._in_export())

    def _update_wake_level(self) -> None:
        self._wake_above = (
            -1 if self._closed else self._capacity() if self._awake else min(self._wake_at - 1, self._capacity())
        )

    def _drop(self, reason: DropReason, count: int) -> None:
        if count:
            self._done += count
            self._dropped[reason] += count
            METRICS.dropped("spans", reason, count)

    def _on_sent(self, count: int, rejected: int, taken: bool) -> None:
        """Count the spans of a request that was accepted or given up."""
        with self._lock:
            if self._closed:  # `close` has counted these as dropped
                return
            if taken:
                self._done += count - rejected
                self._exported += count - rejected
            self._drop("export_error", rejected if taken else count)
            self._update_wake_level()
            if self._out_of_capacity:
                self._work.notify()
            self._progress.notify_all()

    # -- the end ------------------------------------------------------------------------------------------------------

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export the spans put in before the call.

        Args:
            timeout_millis: Longest wait, in milliseconds.

        Returns:
            True if each of them is exported or dropped.
        """
        return self._flush(time.monotonic() + timeout_millis / 1_000, last=False)

    def _flush(self, deadline: float, *, last: bool) -> bool:
        with self._lock:
            if self._threads is None or self._closed:
                return not self._waiting
            sender = self._threads[1]
            self._flush_requested = True
            self._work.notify()
            goal = self._put_in()
        sender.retry_now()
        with self._lock:
            # a producer may meanwhile drop the newest of these spans, over the limit
            while self._done - self._dropped_early < min(goal, self._put_in()) and not self._closed:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or (last and sender.retry_after_until > deadline):  # the collector's delay exceeds ours
                    return False
                self._progress.wait(min(left_s, 0.05) if last else left_s)
        return True

    def close(self, timeout_s: float) -> None:
        """Export the waiting spans and stop. Spans left after the timeout are dropped and counted.

        Args:
            timeout_s: Longest wait, in seconds.
        """
        deadline = time.monotonic() + timeout_s
        join_s = min(_FINAL_JOIN_S, timeout_s / 10)
        self._flush(deadline - join_s, last=True)
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._update_wake_level()
            self._remove(len(self._waiting))
            self._drop("shutdown", self._in_export())
            self._work.notify()
            self._progress.notify_all()
            threads = self._threads
        if threads is not None:
            encoder, sender = threads
            sender.stop()
            for thread in (sender, encoder):  # daemon threads: one that hangs does not delay the process's exit
                thread.join(max(0.0, min(join_s, deadline - time.monotonic())))

    # -- the encoder --------------------------------------------------------------------------------------------------

    def _run(self, sender: Sender) -> None:
        with suppress_instrumentation():
            while self._wait_for_work(sender):
                self._encode_waiting(sender)
                sender.mark_due()

    def _wait_for_work(self, sender: Sender) -> bool:
        with self._lock:
            # Without capacity `put` has no reason to wake the encoder; the end of a request does.
            self._out_of_capacity = self._awake = self._capacity() == 0
            self._update_wake_level()
            if (
                not self._flush_requested
                and not self._closed
                and (self._out_of_capacity or len(self._waiting) <= self._wake_above)
            ):
                self._work.wait(self._delay_s)
            self._flush_requested = self._out_of_capacity = False
            self._awake = True
            self._update_wake_level()
        sender.abort_overdue()
        return not self._closed

    def _encode_waiting(self, sender: Sender) -> None:
        """Encode until no spans wait. Sleep briefly after each burst to release the GIL to the loop.

        On a saturated loop the sleep takes long, as the GIL does not come back in time: then encode without sleeping.
        Spans that are encoded already take so little time that they need neither bursts nor sleep.
        """
        burst = min(_BURST_SPANS, self._batch_spans)
        while spans := self._take(burst):
            plain = type(spans[0]) is bytes
            for payload, count in encoded(self._encode, spans, self._request_bytes, self._drop_unencodable):
                sender.offer(payload, count)
                self._span_bytes = max(1.0, len(payload) / count)
            spans.clear()
            if burst < self._batch_spans and self._waiting and not plain:
                before = time.perf_counter()
                time.sleep(_YIELD_S)
                if time.perf_counter() - before > _SATURATED_S:
                    burst = self._batch_spans

    def _take(self, burst: int) -> list[Any]:
        """Take waiting spans out of the queue; none while the limit of encoded bytes is reached.

        Args:
            burst: Most spans to take if they are not encoded yet.
        """
        with self._lock:
            capacity = 0 if self._closed else self._capacity()
            most = self._batch_spans if self._waiting and type(self._waiting[0]) is bytes else burst
            spans = self._remove(min(capacity, most, max(1, int(self._request_bytes / self._span_bytes / 2))))
            self._update_wake_level()
            return spans

    def _remove(self, most: int) -> list[Any]:
        """Remove the oldest waiting spans. Spans that are appended meanwhile stay."""
        spans = self._waiting[:most]
        del self._waiting[: len(spans)]
        self._taken += len(spans)
        return spans

    def _drop_unencodable(self, count: int) -> None:
        with self._lock:
            if not self._closed:
                self._drop("export_error", count)
                self._update_wake_level()
                self._progress.notify_all()
