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

from flowrt.records import BatchRecord
from flowrt.telemetry.logs import log_event
from flowrt.telemetry.metrics import METRICS

__all__ = ["Watchdog"]

_BEAT_S: Final = 0.05
_LONG_S: Final = 5.0  # a stall that goes on is reported by then: it may never end
_QUIET_S: Final = 10.0  # one event per node in this time; the others are counted
_MOST_FRAMES: Final = 20
_NO_NODE: Final = "none"

_FLOWRT: Final = f"{Path(__file__).parent.parent}{os.sep}"
_ASYNCIO: Final = f"{Path(asyncio.__file__).parent}{os.sep}"


@dataclass(slots=True)
class _Stall:
    """One time that the loop did not turn."""

    since: float
    who: dict[str, Any]
    reported: bool = False

    @property
    def node(self) -> str:
        return str(self.who.get("node", _NO_NODE))


class Watchdog:
    """Tells which item blocks the loop, and where in the code: one `loop.blocked` event per stall.

    Args:
        loop: The loop to watch; it is the calling thread's.
        batches: The batches under way. Called from the watchdog's thread.
        stall_after_s: How long the loop may take for one turn, in seconds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        batches: Callable[[], Iterable[BatchRecord]],
        stall_after_s: float = 0.25,
    ) -> None:
        self._loop = loop
        self._batches = batches
        self._stall_after_s = stall_after_s
        self._loop_thread = threading.get_ident()
        self._beaten = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._stop = threading.Event()
        self._last_event: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}
        self._thread = threading.Thread(target=self._watch, name="flowrt-watchdog", daemon=True)

    def start(self) -> None:
        """Watch from now on. To be called on the loop's thread."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer. To be called on the loop's thread."""
        if self._timer is not None:
            self._timer.cancel()
        self._stop.set()
        self._thread.join(1.0)

    def _beat(self) -> None:
        self._beaten = time.monotonic()
        self._timer = self._loop.call_later(_BEAT_S, self._beat)

    # -- in the watchdog's thread ----------------------------------------------------------------------------------

    def _watch(self) -> None:
        stall: _Stall | None = None
        woke, worked = time.monotonic(), time.process_time()
        stood_still = 0.0  # when the whole process was last found to have been stopped, and no node is to blame
        while not self._stop.wait(_BEAT_S):
            now, cpu = time.monotonic(), time.process_time()
            slept, idle = now - woke, (cpu - worked) < (now - woke) / 10
            woke, worked = now, cpu
            beaten = self._beaten
            if stall is not None and beaten != stall.since:
                self._report(stall, beaten - stall.since, ended=True)
                stall = None
            if slept > self._stall_after_s and idle:
                stood_still = now
            if stall is None and now - max(beaten, stood_still) > self._stall_after_s + _BEAT_S:
                who = self._look()
                if beaten == self._beaten:  # else it went on while we looked: whoever we saw may be innocent
                    stall = _Stall(beaten, who)
                    METRICS.stalled(stall.node)
            elif stall is not None and now - beaten > _LONG_S:
                self._report(stall, now - beaten, ended=False)
        if stall is not None:
            self._report(stall, time.monotonic() - stall.since, ended=True)

    def _look(self) -> dict[str, Any]:
        """What the loop is doing: the task, its place in a batch, its stack."""
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001  # the documented way to see another thread
        who: dict[str, Any] = {"stack": _stack(frame)}
        task = asyncio.current_task(self._loop)
        if task is None:
            return who
        who["task"] = task.get_name()
        try:
            batches = list(self._batches())
        except RuntimeError:  # a batch started or ended meanwhile
            return who
        for batch in batches:
            for slot in batch.slots.copy():
                item = slot.item
                if slot.task is task and item is not None:
                    index = {"item_index": item.index}
                    return {"batch": batch.name, "batch_id": batch.batch_id, "node": batch.node_id, **index, **who}
        return who

    def _report(self, stall: _Stall, duration_s: float, *, ended: bool) -> None:
        if stall.reported:
            return
        stall.reported = True
        node, now = stall.node, time.monotonic()
        if now - self._last_event.get(node, -_QUIET_S) < _QUIET_S:
            self._suppressed[node] = self._suppressed.get(node, 0) + 1
            return
        self._last_event[node] = now
        fields = {**stall.who, "duration_s": round(max(0.0, duration_s), 3)}
        if not ended:
            fields["still_blocked"] = True
        if suppressed := self._suppressed.pop(node, 0):
            fields["suppressed"] = suppressed
        log_event("warning", "loop.blocked", **fields)


def _stack(frame: FrameType | None) -> str:
    """The frames below the engine and the loop, one a line, innermost last."""
    lines: list[str] = []
    while frame is not None and len(lines) < _MOST_FRAMES:
        code = frame.f_code
        if lines and code.co_filename.startswith((_FLOWRT, _ASYNCIO)):
            break
        text = linecache.getline(code.co_filename, frame.f_lineno).strip()
        lines.append(f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}: {text}")
        frame = frame.f_back
    return "\n".join(lines[::-1])
