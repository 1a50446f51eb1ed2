"""Who blocks the loop: a thread that listens for its heartbeat, and looks when that fails to come."""

from __future__ import annotations

import asyncio
import linecache
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from flowrt.eventloop.delayed_items import Lateness
from flowrt.eventloop.gc_tuning import GcPauses
from flowrt.eventloop.heartbeat import BEAT_S, heartbeat_of
from flowrt.model import BatchRecord, ItemRecord
from flowrt.telemetry.logs.events import log_event
from flowrt.telemetry.metrics.store import METRICS
from flowrt.telemetry.tracing.instrument import span_of

__all__ = ["Watchdog"]

_LONG_S: Final = 5.0  # a stall that goes on is reported by then: it may never end
_QUIET_S: Final = 10.0  # one event per node in this time; the others are counted
_MOST_FRAMES: Final = 20
_MOST_LOOKS: Final = 1_000
_NO_NODE: Final = "none"
_COLLECTOR: Final[dict[str, Any]] = {"garbage_collection": True, "stack": ""}  # where it came upon the code is chance

_FLOWRT: Final = f"{Path(__file__).parent.parent}{os.sep}"
_ASYNCIO: Final = f"{Path(asyncio.__file__).parent}{os.sep}"


@dataclass(slots=True)
class _Stall:
    """One time that the loop did not turn."""

    since_ns: int
    who: dict[str, Any]
    reported: bool = False

    @property
    def node(self) -> str:
        return str(self.who.get("node", _NO_NODE))


class Watchdog:
    """Tells which item blocks the loop, and where in the code: one `loop.blocked` event per stall.

    The culprit's span gets an event of the same name while it lasts.

    Args:
        loop: The loop to watch; it is the calling thread's.
        batches: The batches under way. Called from the watchdog's thread.
        stall_after_s: How long the loop may take for one turn before somebody looks, in seconds.
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
        self._over: _Stall | None = None  # the loop has turned since, and is about to tell
        self._looks: tuple[int, list[asyncio.Task[Any] | None]] = (0, [])  # since a beat, who had the loop
        self._last_event: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}
        self._thread = threading.Thread(target=self._watch, name="flowrt-watchdog", daemon=True)

    def start(self) -> None:
        """Watch from now on. To be called on the loop's thread."""
        self._heartbeat.acquire()
        self._heartbeat.blame = self
        self._pauses.start()
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer. To be called on the loop's thread."""
        self._stop.set()
        self._thread.join(1.0)
        self._pauses.stop()
        self._heartbeat.release()
        self._heartbeat.blame = None
        for stall in (self._over, self._stall):
            if stall is not None:
                self._report(stall, time.perf_counter_ns() - stall.since_ns, ended=True)
        self._over = self._stall = None

    # -- told by the loop's heartbeat, in the loop's thread ---------------------------------------------------------

    def seen(self, beaten_ns: int) -> list[asyncio.Task[Any] | None]:
        """Who had the loop since that beat, at each look that was taken."""
        since_ns, tasks = self._looks
        return tasks if since_ns == beaten_ns else []

    def culprit(self, lateness: Lateness) -> dict[str, Any]:
        """The loop turns again: tell of the stall, and say who it was for the record of it."""
        for stall in (self._stall, self._over):
            if stall is not None and stall.since_ns == lateness.beaten_ns:
                break
        else:
            return {}
        self._report(stall, lateness.now_ns - stall.since_ns, lateness, ended=True)
        names = ("batch", "batch_id", "node", "item_index", "trace_id", "stack", "garbage_collection")
        return {name: stall.who[name] for name in names if name in stall.who}

    # -- in the watchdog's thread ----------------------------------------------------------------------------------

    def _watch(self) -> None:
        woke_ns, worked = time.perf_counter_ns(), time.process_time()
        stood_still_ns = 0  # when the whole process was last found to have been stopped, and no node is to blame
        beat_ns = int(BEAT_S * 1e9)
        while not self._stop.wait(BEAT_S):
            now, cpu = time.perf_counter_ns(), time.process_time()
            slept_ns, idle = now - woke_ns, (cpu - worked) < (now - woke_ns) / 1e10
            woke_ns, worked = now, cpu
            beaten_ns = self._heartbeat.beaten_ns
            stall = self._stall
            if stall is not None and beaten_ns != stall.since_ns:  # it is told by now, or in one of the next turns
                self._over, self._stall = stall, None
                stall = None
            if slept_ns > self._stall_after_ns and idle:
                stood_still_ns = now
            late_ns = now - max(beaten_ns, stood_still_ns)
            collecting = 2 * self._pauses.between(now - late_ns, now) > late_ns
            if late_ns > 2 * beat_ns and not collecting:
                self._note(beaten_ns)
            if stall is None and late_ns > self._stall_after_ns - beat_ns // 2:
                who, item = (_COLLECTOR, None) if collecting else self._look()
                if beaten_ns == self._heartbeat.beaten_ns:  # else whoever we saw may be innocent
                    self._stall = stall = _Stall(beaten_ns, who)
                    METRICS.stalled(stall.node)
                    _tell_span(item, late_ns / 1e9, who["stack"])
            elif stall is not None and now - beaten_ns > _LONG_S * 1e9:
                self._report(stall, now - beaten_ns, ended=False)

    def _note(self, beaten_ns: int) -> None:
        """Remember who has the loop: what the others are held for is not their own time."""
        since_ns, tasks = self._looks
        if since_ns != beaten_ns:
            tasks = []
            self._looks = (beaten_ns, tasks)
        if len(tasks) < _MOST_LOOKS:
            tasks.append(asyncio.current_task(self._loop))

    def _look(self) -> tuple[dict[str, Any], ItemRecord | None]:
        """What the loop is doing: the task, its place in a batch, its stack."""
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001  # the documented way to see another thread
        who: dict[str, Any] = {"stack": _stack(frame)}
        task = asyncio.current_task(self._loop)
        if task is None:
            return who, None
        who["task"] = task.get_name()
        for batch in self._batches():
            for slot in batch.slots.copy():
                item = slot.item
                if slot.task is task and item is not None:
                    about = {"batch": batch.name, "batch_id": batch.batch_id, "node": batch.node_id}
                    ids = {"trace_id": item.trace_id, "span_id": item.span_id} if item.ids else {}
                    return {**about, "item_index": item.index, **ids, **who}, item
        return who, None

    # -- in either thread ------------------------------------------------------------------------------------------

    def _report(self, stall: _Stall, duration_ns: int, lateness: Lateness | None = None, *, ended: bool) -> None:
        """Log the stall, once."""
        if stall.reported:
            return
        stall.reported = True
        node, now = stall.node, time.monotonic()
        if now - self._last_event.get(node, -_QUIET_S) < _QUIET_S:
            self._suppressed[node] = self._suppressed.get(node, 0) + 1
            return
        self._last_event[node] = now
        fields = {**stall.who, "duration_s": round(max(0, duration_ns) / 1e9, 3)}
        if not ended:
            fields["still_blocked"] = True
        if lateness is not None and lateness.delayed:
            fields |= {"delayed": lateness.delayed, "held_s": round(lateness.held_s, 3)}
        if suppressed := self._suppressed.pop(node, 0):
            fields["suppressed"] = suppressed
        log_event("warning", "loop.blocked", **fields)


def _tell_span(item: ItemRecord | None, blocked_s: float, stack: str) -> None:
    """The culprit's span gets an event now: its item may have ended before the loop turns again."""
    span = None if item is None else span_of(item)
    if span is not None:
        span.add_event("loop.blocked", {"flowrt.blocked.seconds": round(blocked_s, 3), "code.stacktrace": stack})


def _stack(frame: FrameType | None) -> str:
    """The frames below the engine and the loop, one a line, innermost last."""
    lines: list[str] = []
    while frame is not None and len(lines) < _MOST_FRAMES:
        code = frame.f_code
        if lines and code.co_filename.startswith((_FLOWRT, _ASYNCIO)):
            break
        line = frame.f_lineno or code.co_firstlineno  # seen between two lines, it has none
        text = linecache.getline(code.co_filename, line).strip()
        lines.append(f"{code.co_filename}:{line} in {code.co_qualname}: {text}")
        frame = frame.f_back
    return "\n".join(lines[::-1])
