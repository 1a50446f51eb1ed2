"""Watchdog thread: finds the task that blocks the event loop when the loop's heartbeat stops."""

from __future__ import annotations

import asyncio
import linecache
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from types import FrameType
from typing import Any, Final

from flowrt.eventloop.delayed_items import Lateness, Waiting
from flowrt.eventloop.gc_tuning import GcPauses
from flowrt.eventloop.heartbeat import BEAT_S, heartbeat_of
from flowrt.model import BatchRecord, ItemRecord
from flowrt.telemetry.logs.events import log_event
from flowrt.telemetry.metrics.store import METRICS
from flowrt.telemetry.redaction import Redact, redact_of
from flowrt.telemetry.tracing.instrument import span_of

__all__ = ["Watchdog"]

_LONG_S: Final = 5.0  # an ongoing stall is reported after this time, since it may never end
_EVENT_INTERVAL_S: Final = 10.0  # at most one event per node in this time; further ones are counted
_MAX_FRAMES: Final = 20
_MAX_SAMPLES: Final = 1_000
_MAX_SLOTS: Final = 2_000  # per sample, since the loop may need the interpreter meanwhile
_NO_NODE: Final = "none"
_GC: Final[dict[str, Any]] = {"garbage_collection": True, "stack": ""}  # no stack: any code may trigger a collection

_FLOWRT: Final = f"{Path(__file__).parent.parent}{os.sep}"
_ASYNCIO: Final = f"{Path(asyncio.__file__).parent}{os.sep}"


@dataclass(slots=True)
class _Stall:
    """Period in which the loop did not turn."""

    since_ns: int
    culprit: dict[str, Any]
    redact: Redact
    reported: bool = False

    @property
    def node(self) -> str:
        return str(self.culprit.get("node", _NO_NODE))


@dataclass(slots=True)
class _Samples:
    """Samples of a blocked loop since a beat.

    The watchdog's thread adds to it while the loop is blocked; the loop reads it when it turns again.
    """

    beaten_ns: int
    tasks: list[asyncio.Task[Any] | None] = field(default_factory=list)
    ready: dict[int, int] = field(default_factory=dict)
    waiting: Waiting = field(default_factory=dict)


class Watchdog:
    """Logs one `loop.blocked` event per stall, with the item that blocked the loop and its stack.

    The culprit's span gets an event of the same name during the stall.

    Args:
        loop: The loop to watch; it runs in the calling thread.
        batches: Returns the active batches. Called from the watchdog's thread.
        stall_after_s: Longest turn of the loop that is not a stall, in seconds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        batches: Callable[[], Iterable[BatchRecord]],
        stall_after_s: float = 0.1,
    ) -> None:
        self._loop = loop
        self._batches = batches
        self._stall_after_ns = round(stall_after_s * 1e9)
        self._loop_thread = threading.get_ident()
        self._heartbeat = heartbeat_of(loop)
        self._pauses = GcPauses()
        self._stop = threading.Event()
        self._stall: _Stall | None = None
        self._ended: _Stall | None = None  # the loop has turned since then, and will report the stall
        self._samples = _Samples(0)
        self._last_event: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}
        self._thread = threading.Thread(target=self._watch, name="flowrt-watchdog", daemon=True)

    def start(self) -> None:
        """Start watching. Call it on the loop's thread."""
        self._heartbeat.acquire(sampler=self)
        self._pauses.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, and report a stall that was not reported yet. Call it on the loop's thread."""
        self._stop.set()
        self._thread.join(1.0)
        self._pauses.stop()
        self._heartbeat.release(sampler=self)
        for stall in (self._ended, self._stall):
            if stall is not None:
                self._report(stall, time.perf_counter_ns() - stall.since_ns, ended=True)
        self._ended = self._stall = None

    # -- called by the heartbeat, in the loop's thread ---------------------------------------------------------------

    def seen(self, beaten_ns: int) -> list[asyncio.Task[Any] | None]:
        """Return the tasks that held the loop since that beat, one per sample."""
        samples = self._samples
        return samples.tasks if samples.beaten_ns == beaten_ns else []

    def ready(self, beaten_ns: int) -> Mapping[int, int]:
        """Return ids of items that were ready since that beat while another task held the loop, with the last time."""
        samples = self._samples
        return samples.ready if samples.beaten_ns == beaten_ns else {}

    def waiting(self, beaten_ns: int) -> Waiting:
        """Return the futures that items waited for while another task held the loop since that beat."""
        samples = self._samples
        return samples.waiting if samples.beaten_ns == beaten_ns else {}

    def culprit(self, lateness: Lateness) -> dict[str, Any]:
        """Report the stall that has just ended, and return its culprit for the ledger; empty if there was no stall."""
        for stall in (self._stall, self._ended):
            if stall is not None and stall.since_ns == lateness.beaten_ns:
                break
        else:
            return {}
        self._report(stall, lateness.now_ns - stall.since_ns, lateness, ended=True)
        names = ("batch", "batch_id", "node", "item_index", "trace_id", "stack", "garbage_collection")
        return {name: stall.culprit[name] for name in names if name in stall.culprit}

    # -- in the watchdog's thread ----------------------------------------------------------------------------------

    def _watch(self) -> None:
        woke_ns, worked = time.perf_counter_ns(), time.process_time()
        stopped_ns = 0  # end of the last time that the whole process was suspended: no node's fault
        beat_ns = int(BEAT_S * 1e9)
        while not self._stop.wait(BEAT_S):
            now, cpu = time.perf_counter_ns(), time.process_time()
            slept_ns, idle = now - woke_ns, (cpu - worked) < (now - woke_ns) / 1e10
            woke_ns, worked = now, cpu
            beaten_ns = self._heartbeat.beaten_ns
            stall = self._stall
            if stall is not None and beaten_ns != stall.since_ns:  # reported by now, or in one of the next turns
                self._ended, self._stall = stall, None
                stall = None
            if slept_ns > self._stall_after_ns and idle:
                stopped_ns = now
            # The interval between two beats may be longer than usual.
            late_ns = now - max(beaten_ns, stopped_ns, self._heartbeat.loop_time.due_ns - beat_ns)
            collecting = 2 * self._pauses.between(now - late_ns, now) > late_ns
            if late_ns > 2 * beat_ns and not collecting:
                self._sample(beaten_ns, now)
            if stall is None and late_ns > self._stall_after_ns - beat_ns // 2:
                culprit, item = (_GC, None) if collecting else self._find_culprit()
                if beaten_ns == self._heartbeat.beaten_ns:  # otherwise the loop has turned: no culprit
                    self._stall = stall = _Stall(beaten_ns, culprit, redact_of(None if item is None else item.batch))
                    METRICS.stalled(stall.node)
                    _add_span_event(item, late_ns / 1e9, culprit["stack"])
            elif stall is not None and now - beaten_ns > _LONG_S * 1e9:
                self._report(stall, now - beaten_ns, ended=False)

    def _sample(self, beaten_ns: int, now: int) -> None:
        """Sample the task that holds the loop, and the items that are ready and wait for it.

        Time for which a task delays others is not charged to them.
        """
        samples = self._samples
        if samples.beaten_ns != beaten_ns:
            samples = self._samples = _Samples(beaten_ns)
        if len(samples.tasks) >= _MAX_SAMPLES:
            return
        current = asyncio.current_task(self._loop)
        samples.tasks.append(current)
        slots = chain.from_iterable(batch.slots.copy() for batch in self._newest_first())
        for slot in islice(slots, _MAX_SLOTS):
            item, task = slot.item, slot.task
            if item is None or task is None or task is current or not item.started_ns:
                continue
            waiter = getattr(task, "_fut_waiter", None)
            if waiter is None or waiter.done():
                samples.ready[id(item)] = now
            else:
                samples.waiting[id(item)] = waiter

    def _newest_first(self) -> Iterator[BatchRecord]:
        """The active batches: of thousands, the oldest are most likely to have waited for long."""
        return reversed([*self._batches()])

    def _find_culprit(self) -> tuple[dict[str, Any], ItemRecord | None]:
        """Return the running task with its stack and its place in a batch, and its item if it runs one."""
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001  # the documented way to see another thread
        culprit: dict[str, Any] = {"stack": _stack(frame)}
        task = asyncio.current_task(self._loop)
        if task is None:
            return culprit, None
        culprit["task"] = task.get_name()
        for batch in self._newest_first():
            for slot in batch.slots.copy():
                item = slot.item
                if slot.task is task and item is not None:
                    about = {"batch": batch.name, "batch_id": batch.batch_id, "node": batch.node_id}
                    ids = {"trace_id": item.trace_id, "span_id": item.span_id} if item.ids else {}
                    return {**about, "item_index": item.index, **ids, **culprit}, item
        return culprit, None

    # -- in either thread ------------------------------------------------------------------------------------------

    def _report(self, stall: _Stall, duration_ns: int, lateness: Lateness | None = None, *, ended: bool) -> None:
        """Log the stall once."""
        if stall.reported:
            return
        stall.reported = True
        node, now = stall.node, time.monotonic()
        if now - self._last_event.get(node, -_EVENT_INTERVAL_S) < _EVENT_INTERVAL_S:
            self._suppressed[node] = self._suppressed.get(node, 0) + 1
            return
        self._last_event[node] = now
        fields = {
            **stall.culprit,
            "stack": stall.redact(stall.culprit["stack"]),
            "duration_s": round(max(0, duration_ns) / 1e9, 3),
        }
        if not ended:
            fields["still_blocked"] = True
        if lateness is not None and lateness.delayed:
            fields |= {"delayed": lateness.delayed, "held_s": round(lateness.held_s, 3)}
        if suppressed := self._suppressed.pop(node, 0):
            fields["suppressed"] = suppressed
        log_event("warning", "loop.blocked", **fields)


def _add_span_event(item: ItemRecord | None, blocked_s: float, stack: str) -> None:
    """Add an event to the culprit's span during the stall: the item may have ended when the loop turns again."""
    span = None if item is None else span_of(item)
    if span is not None and item is not None:
        shown = redact_of(item.batch)(stack)
        span.add_event("loop.blocked", {"flowrt.blocked.seconds": round(blocked_s, 3), "code.stacktrace": shown})


def _stack(frame: FrameType | None) -> str:
    """The frames below the engine and the loop, one per line, innermost last."""
    lines: list[str] = []
    while frame is not None and len(lines) < _MAX_FRAMES:
        code = frame.f_code
        if lines and code.co_filename.startswith((_FLOWRT, _ASYNCIO)):
            break
        line = frame.f_lineno or code.co_firstlineno  # a frame between two lines has no line number
        text = linecache.getline(code.co_filename, line).strip()
        lines.append(f"{code.co_filename}:{line} in {code.co_qualname}: {text}")
        frame = frame.f_back
    return "\n".join(lines[::-1])
