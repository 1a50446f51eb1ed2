"""Workers of executors for the live page: what each does, and how its last crash went."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Final

from flowrt.executors.workers import WorkerState, worker_states
from flowrt.telemetry.live.history import WINDOW_S
from flowrt.telemetry.redaction import redact, shorten

__all__ = ["WorkersView"]

_MAX_WORKERS: Final = 64


class WorkersView:
    """Samples the workers' busy time between calls of `sample`."""

    def __init__(self) -> None:
        self._states: list[WorkerState] = []
        self._before: deque[tuple[float, dict[str, float]]] = deque()

    def sample(self) -> None:
        """Read the state of every worker."""
        self._states, now = worker_states(), time.monotonic()
        before = self._before
        before.append((now, {state.slot: state.busy_seconds for state in self._states}))
        while len(before) > 2 and before[1][0] <= now - WINDOW_S:
            before.popleft()

    def rows(self) -> tuple[list[dict[str, Any]], int]:
        """Return a row for each worker, the last to crash first, and the number of workers left out."""
        states = sorted(self._states, key=lambda state: 0.0 if state.last_crash is None else -state.last_crash.at_s)
        return [self._row(state) for state in states[:_MAX_WORKERS]], max(0, len(states) - _MAX_WORKERS)

    def _row(self, state: WorkerState) -> dict[str, Any]:
        (since_s, busy_before), (now_s, busy_now) = self._before[0], self._before[-1]
        busy = None
        if now_s > since_s and state.slot in busy_before and state.slot in busy_now:
            busy = round(max(0.0, busy_now[state.slot] - busy_before[state.slot]) / (now_s - since_s), 3)
        crash = state.last_crash
        return {
            "executor": state.executor,
            "slot": state.slot,
            "pid": state.pid,
            "host": state.host,
            "ready": state.ready,
            "in_use": state.in_use,
            "busy": busy,
            "inflight": state.inflight,
            "rss_bytes": state.resident_bytes,
            "restarts": {reason: count for reason, count in state.restarts.items() if count},
            "last_crash": None
            if crash is None
            else {
                "how": crash.how,
                "at_s": round(crash.at_s, 3),
                "last_lines": shorten(redact("\n".join(crash.last_lines))),
            },
        }
