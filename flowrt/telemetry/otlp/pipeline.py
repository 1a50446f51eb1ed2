"""From finished spans to a collector: a hand-over without a lock, encoding in short bursts, an account of every span.

loop thread      append; after every few, look: one comparison
encoder thread   woken by count or after a delay; encodes some hundred spans at a time, then lets go of the GIL
sender thread    see `delivery`
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from flowrt.telemetry.metrics.store import METRICS, DropReason
from flowrt.telemetry.otlp.encoder import encoded
from flowrt.telemetry.otlp.sender import Backoff, Delivery, unobserved
from flowrt.telemetry.otlp.transport import Transport

__all__ = ["SpanPipeline"]

_MIB: Final = 1 << 20
_BURST_SPANS: Final = 256
_BREATH_S: Final = 50e-6
_SATURATED_S: Final = 2e-3
_LAST_WORDS_S: Final = 0.1


class SpanPipeline:
    """Takes finished spans from any thread and exports them.

    At rest, and at any time but for what `put` is doing just now,
    `ended == exported + sum(dropped.values()) + waiting`, exactly.

    Whoever puts in one span after the other may `append` them, which is `put` without its look at what waits, and
    `look` after every few, and after the last one.

    Args:
        transport: The way to the collector.
        encode: Makes an ExportTraceServiceRequest of some spans; called from a thread of its own.
        takes_plain: Whether that takes a `PlainSpan`, too.
        most_spans: How many spans may wait, whether encoded or not; further ones are dropped and counted.
        most_bytes: How many bytes of encoded spans may wait; while there are as many, further spans are dropped and
            counted.
        batch_spans: How many spans wake the encoder, and how many it encodes at once at most. A request may be several
            such batches, joined.
        delay_s: How long a span waits for others, in seconds.
        request_bytes: How much is sent in one request at most, in bytes, unless one span alone is larger.
        backoff: When to try again.
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
        request_bytes: int = 7 * _MIB // 2,  # gRPC servers take 4 MiB by default
        backoff: Backoff | None = None,
    ) -> None:
        self.takes_plain = takes_plain
        self._transport = transport
        self._encode = encode
        self._most_spans = most_spans
        self._most_bytes = most_bytes
        self._batch_spans = min(batch_spans, most_spans)
        self._wake_at = max(1, min(batch_spans, most_spans // 2))  # what comes until it is awake has room
        self._delay_s = delay_s
        self._request_bytes = request_bytes
        self._backoff = backoff or Backoff()
        self._closed = False
        self._waiting: deque[Any] = deque()
        self.append: Callable[[Any], None] = self._waiting.append
        self._reset()
        self._start()
        if hasattr(os, "register_at_fork"):
            method = weakref.WeakMethod(self._after_fork)
            os.register_at_fork(after_in_child=lambda: (again := method()) and again())

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # for the encoder
        self._settling = threading.Condition(self._lock)  # for who waits for a flush
        self._entered = 0  # spans that have left the hand-over; those still in it are in `_waiting`
        self._refused = 0  # of them, those that never got further
        self._done = 0  # of them, those that are exported or dropped
        self._exported = 0
        self._dropped: dict[DropReason, int] = {"queue_full": 0, "export_error": 0, "shutdown": 0}
        self._awake = True
        self._starved = False
        self._urgent = False
        self._span_bytes = 1.0  # encoded, of late
        self._level = -1  # `put` calls for help once more than this many spans wait
        self._threads: tuple[threading.Thread, Delivery] | None = None

    def _start(self) -> None:
        delivery = Delivery(self._transport, self._settled, request_bytes=self._request_bytes, backoff=self._backoff)
        encoder = threading.Thread(target=self._run, args=(delivery,), name="flowrt-spans-encode", daemon=True)
        encoder.start()
        self._threads = encoder, delivery

    def _after_fork(self) -> None:
        """In a forked child: what waits is the parent's to export; the child's first span starts its own threads."""
        self._waiting.clear()
        self._reset()
        self._transport.forget()

    # -- for the producers --------------------------------------------------------------------------------------------

    def put(self, span: Any) -> None:
        """Take a finished span.

        Args:
            span: What `encode` can encode.
        """
        self.append(span)
        self.look(1)

    def look(self, added: int) -> None:
        """See whether there is something to do about what waits.

        Args:
            added: How many spans were appended since the last look, at most.
        """
        if len(self._waiting) > self._level:
            self._crowded(added)

    def _crowded(self, added: int) -> None:
        """There is something to do about what waits: wake the encoder, or take the newest back."""
        with self._lock:
            if self._closed:
                self._refuse_all("shutdown")
                return
            if self._threads is None:
                try:
                    self._start()
                except RuntimeError:  # no thread can be started any more: the interpreter is at its end
                    self._refuse_all("shutdown")
                    return
            for _ in range(min(added, len(self._waiting) - self._room())):
                self._refuse("queue_full")
            if not self._awake:
                self._awake = True
                self._set_level()
                self._work.notify()

    def _refuse_all(self, reason: DropReason) -> None:
        for _ in range(len(self._waiting)):
            self._refuse(reason)

    def _refuse(self, reason: DropReason) -> None:
        try:
            self._waiting.pop()
        except IndexError:  # the encoder has it
            return
        self._entered += 1
        self._refused += 1
        self._drop(reason, 1)

    # -- the account --------------------------------------------------------------------------------------------------

    @property
    def ended(self) -> int:
        """Spans that were put in."""
        with self._lock:
            return self._entered + len(self._waiting)

    @property
    def exported(self) -> int:
        """Spans that the collector took."""
        return self._exported

    @property
    def dropped(self) -> dict[DropReason, int]:
        """Spans that are lost, by reason."""
        with self._lock:
            return self._dropped.copy()

    @property
    def waiting(self) -> int:
        """Spans that were put in and have no end yet."""
        with self._lock:
            return len(self._waiting) + self._held()

    @property
    def limit(self) -> int:
        """How many spans may wait, if all are as large as those of late."""
        return min(self._most_spans, int(self._most_bytes / self._span_bytes))

    def _held(self) -> int:
        """Spans that the encoder or the sender has."""
        return self._entered - self._done

    def _room(self) -> int:
        """How many spans may wait for the encoder now."""
        if self._threads is not None and self._threads[1].held_bytes >= self._most_bytes:
            return 0
        return max(0, self._most_spans - self._held())

    def _set_level(self) -> None:
        self._level = -1 if self._closed else self._room() if self._awake else min(self._wake_at - 1, self._room())

    def _drop(self, reason: DropReason, count: int) -> None:
        if count:
            self._done += count
            self._dropped[reason] += count
            METRICS.dropped("spans", reason, count)

    def _settled(self, count: int, rejected: int, taken: bool) -> None:
        """A request has come to its end."""
        with self._lock:
            if self._closed:  # too late: these are counted as dropped
                return
            if taken:
                self._done += count - rejected
                self._exported += count - rejected
            self._drop("export_error", rejected if taken else count)
            self._set_level()
            if self._starved:
                self._work.notify()
            self._settling.notify_all()

    # -- the end ------------------------------------------------------------------------------------------------------

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export what was put in before now.

        Args:
            timeout_millis: How long to wait at most, in milliseconds.

        Returns:
            Whether none of it waits any more.
        """
        return self._flush(time.monotonic() + timeout_millis / 1_000, last=False)

    def _flush(self, deadline: float, *, last: bool) -> bool:
        with self._lock:
            if self._threads is None or self._closed:
                return not self._waiting
            delivery = self._threads[1]
            self._urgent = True
            self._work.notify()
            goal = self._entered - self._refused + len(self._waiting)
        delivery.hurry()
        with self._lock:
            while self._done - self._refused < goal and not self._closed:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or (last and delivery.barred_until > deadline):  # told to come back when it is too late
                    return False
                self._settling.wait(min(left_s, 0.05) if last else left_s)
        return True

    def close(self, timeout_s: float) -> None:
        """Export what waits and stop; what is left when the time is over is dropped and counted.

        Args:
            timeout_s: How long to wait at most, in seconds.
        """
        deadline = time.monotonic() + timeout_s
        last_words_s = min(_LAST_WORDS_S, timeout_s / 10)
        self._flush(deadline - last_words_s, last=True)
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._set_level()
            while self._waiting:
                self._waiting.popleft()
                self._entered += 1
            self._drop("shutdown", self._held())
            self._work.notify()
            self._settling.notify_all()
            threads = self._threads
        if threads is not None:
            encoder, delivery = threads
            delivery.stop()
            for thread in (delivery, encoder):  # daemons: one that hangs holds nobody
                thread.join(max(0.0, min(last_words_s, deadline - time.monotonic())))

    # -- the encoder --------------------------------------------------------------------------------------------------

    def _run(self, delivery: Delivery) -> None:
        with unobserved():
            while self._wait_for_work(delivery):
                self._encode_waiting(delivery)
                delivery.go()

    def _wait_for_work(self, delivery: Delivery) -> bool:
        with self._lock:
            # Without room there is nothing that `put` could wake it for: a request that is settled does.
            self._starved = self._awake = self._room() == 0
            self._set_level()
            if not self._urgent and not self._closed and (self._starved or len(self._waiting) <= self._level):
                self._work.wait(self._delay_s)
            self._urgent = self._starved = False
            self._awake = True
            self._set_level()
        delivery.watch()
        return not self._closed

    def _encode_waiting(self, delivery: Delivery) -> None:
        """Encode until nothing waits, letting the loop run in between unless it would not let us run again."""
        burst = min(_BURST_SPANS, self._batch_spans)
        while spans := self._take(min(burst, max(1, int(self._request_bytes / self._span_bytes / 2)))):
            for payload, count in encoded(self._encode, spans, self._request_bytes, self._lose):
                delivery.offer(payload, count)
                self._span_bytes = max(1.0, len(payload) / count)
            spans.clear()
            if burst < self._batch_spans and self._waiting:
                before = time.perf_counter()
                time.sleep(_BREATH_S)
                if time.perf_counter() - before > _SATURATED_S:
                    burst = self._batch_spans

    def _take(self, most: int) -> list[Any]:
        """Some of what waits; nothing while there is no room for it encoded."""
        with self._lock:
            if self._closed or self._room() == 0:
                return []
            popleft = self._waiting.popleft
            spans = [popleft() for _ in range(min(most, len(self._waiting)))]
            self._entered += len(spans)
            self._set_level()
            return spans

    def _lose(self, count: int) -> None:
        with self._lock:
            if not self._closed:
                self._drop("export_error", count)
                self._set_level()
                self._settling.notify_all()
