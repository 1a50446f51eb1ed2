"""Outbox of a worker: outcomes that are not sent yet, with a copy that survives a crash."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from flowrt.executors.frames import Kind, Status, make_frame
from flowrt.executors.outcome_memory import OutcomeMemory
from flowrt.executors.pickling import dumps_alone
from flowrt.executors.remote_errors import pack_exception
from flowrt.remote.usage import resident_bytes

__all__ = ["Outbox"]

_USAGE_NS: Final = 200_000_000  # memory is read this often
_WORK_NS: Final = 5_000_000  # of service time in the outbox at most while more items follow: a message costs 0.2 ms


class Outbox:
    """Queue of outcomes for the driver. Any thread may use it.

    Many outcomes are sent in one message. Unsent outcomes of plain functions are also in shared memory, so that the
    driver need not run their items again after a crash of a later item.

    Args:
        send: Sends a message; any thread may call it.
        memory: Shared memory for outcomes, or None.

    Attributes:
        busy_ns: Time for which attempts ran, in nanoseconds.
    """

    def __init__(self, send: Callable[[Sequence[Any]], None], memory: OutcomeMemory | None = None) -> None:
        self.busy_ns = 0
        self._send = send
        self._memory = memory
        self._outcomes: list[tuple[int, int, int, int, Any]] = []
        self._work_ns = 0
        self._lock = threading.Lock()
        self._resident_bytes = 0
        self._resident_due_ns = 0

    def __len__(self) -> int:
        return len(self._outcomes)

    def add(self, number: int, status: int, service_ns: int, inbox_ns: int, value: Any) -> None:
        """Add an outcome of a coroutine; `flush` sends it."""
        with self._lock:
            self.busy_ns += service_ns
            self._outcomes.append((number, status, service_ns, inbox_ns, value))

    def add_plain(self, number: int, status: int, service_ns: int, inbox_ns: int, value: Any) -> None:
        """Add an outcome of a plain function; send all once their service times sum up to 5 ms."""
        outcome = (number, status, service_ns, inbox_ns, value)
        with self._lock:
            self.busy_ns += service_ns
            self._outcomes.append(outcome)
            self._work_ns += service_ns
            if self._work_ns >= _WORK_NS or (self._memory is not None and not self._memory.add(outcome)):
                self._flush()

    def flush(self) -> None:
        """Send the outcomes."""
        with self._lock:
            if self._outcomes:
                self._flush()

    def _flush(self) -> None:
        outcomes, self._outcomes = self._outcomes, []
        self._work_ns = 0
        numbers, statuses, services_ns, inboxes_ns, values = map(list, zip(*outcomes, strict=True))
        now = time.perf_counter_ns()
        if now >= self._resident_due_ns:
            self._resident_due_ns = now + _USAGE_NS
            self._resident_bytes = resident_bytes()
        envelope = (Kind.OUTCOMES, numbers, statuses, services_ns, inboxes_ns, (self.busy_ns, self._resident_bytes))
        try:
            parts = make_frame(envelope, values)
        except Exception:  # send each separately, so that the others arrive
            for place, (status, value) in enumerate(zip(statuses, values, strict=True)):
                if status == Status.OK:
                    statuses[place], values[place] = _seal(value)
            parts = make_frame(envelope, values)
        self._send(parts)
        if self._memory is not None:
            self._memory.clear()


def _seal(value: Any) -> tuple[int, Any]:
    try:
        return Status.SEALED, dumps_alone(value, "the output")
    except Exception as exc:
        return Status.RAISED, pack_exception(exc, 0)
