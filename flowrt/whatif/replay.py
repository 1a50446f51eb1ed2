"""Node of a replay: its attempts take as long and fail as the recorded ones."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, Final

from flowrt.model.node import BaseNode, NodeContext, NodeResult, WorkflowContext
from flowrt.whatif.recorded_attempts import Call, RecordedAttempts

__all__ = ["ReplayNode", "ReplayedError"]

_FOREVER_S: Final = 30 * 86400.0


class ReplayedError(Exception):
    """A recorded failure.

    Attributes:
        cause: Number of its cause.
        status_code: Its HTTP status, if it had one.
    """

    def __init__(self, cause: int, text: str, status: int | None) -> None:
        super().__init__(text)
        self.cause = cause
        if status is not None:
            self.status_code = status


class _ReplayedTimeoutError(ReplayedError, TimeoutError):
    """A recorded timeout that the node raised itself."""


class ReplayNode(BaseNode):
    """Node whose attempts take as long and fail as the recorded ones.

    Args:
        recorded: Recorded attempts.
        rng: Random generator of the draws.

    Attributes:
        calls: Calls so far.
        busy_s: Total time in calls, in seconds.
        never_ended: Calls whose end the recording does not show.
    """

    def __init__(self, recorded: RecordedAttempts, rng: Random) -> None:
        super().__init__(node_id="replay", node_type="replay", name="replay", config={})
        self.calls = 0
        self.busy_s = 0.0
        self.never_ended = 0
        self._recorded = recorded
        self._rng = rng
        self._running: dict[int, int] = {}
        self._inflight = 0
        self._failed: dict[int, tuple[int, int]] = {}  # of unfinished items: failed attempts, and the last cause
        self._ok = NodeResult(success=True)
        self._loop = asyncio.get_running_loop()

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:  # noqa: ARG002
        place: Any = node_context.input_data
        hedge = place in self._running
        call = self._call(place, node_context.attempt, hedge=hedge)
        self.calls += 1
        self._inflight += 1
        self._running[place] = self._running.get(place, 0) + 1
        began_s = self._loop.time()
        try:
            service_s = call.service_s * self._recorded.contention.factor(call.inflight, self._inflight)
            if service_s > _FOREVER_S:
                self.never_ended += 1
                service_s = _FOREVER_S
            await asyncio.sleep(service_s)
        finally:
            self._inflight -= 1
            self.busy_s += self._loop.time() - began_s
            if self._running[place] == 1:
                del self._running[place]
            else:
                self._running[place] -= 1
            if not hedge and call.cause < 0:  # a timeout may cut it short, and a retry may follow
                self._failed[place] = (self._failed.get(place, (0, -1))[0] + 1, -1)
        if call.cause >= 0:
            if not hedge:
                self._failed[place] = (self._failed.get(place, (0, -1))[0] + 1, call.cause)
            return self._fail(call.cause)
        self._failed.pop(place, None)
        return self._ok

    def _call(self, place: int, attempt: int, *, hedge: bool) -> Call:
        if hedge:
            return self._recorded.hedge(self._rng)
        if attempt == 1:
            return self._recorded.first(place)
        number, cause = self._failed.get(place, (1, -1))
        return self._recorded.retry(place, number, cause, self._rng)

    def _fail(self, number: int) -> NodeResult:
        causes = self._recorded.meta.get("causes", [])
        cause = causes[number] if number < len(causes) else {"kind": "error", "text": "failed"}
        if not cause.get("raised", True):
            # the error carries the cause, which decides whether a retry follows
            return NodeResult(success=False, error=ReplayedError(number, cause.get("text", "failed"), None))
        kind = _ReplayedTimeoutError if cause["kind"] == "timeout" else ReplayedError
        status: Any = 429 if cause["kind"] == "rate_limited" else cause.get("http_status")
        raise kind(number, cause.get("text", "failed"), status)
