"""Replay: recorded attempts as a node, run by a BatchProcessor in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any, Final

from flowrt.batch.processor import BatchProcessor
from flowrt.batch.results import BatchResults
from flowrt.model.node import BaseNode, NodeContext, NodeResult, WorkflowContext
from flowrt.whatif.recorded_attempts import Call, RecordedAttempts
from flowrt.whatif.scenario import Plan
from flowrt.whatif.virtual_clock_loop import run_virtual

__all__ = ["Replay", "replay"]

_FOREVER_S: Final = 30 * 86400.0
_SEED: Final = 20_240_229


class _ReplayedError(Exception):
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


class _ReplayedTimeoutError(_ReplayedError, TimeoutError):
    """A recorded timeout that the node raised itself."""


class _ReplayNode(BaseNode):
    """Node whose attempts take as long and fail as the recorded ones."""

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
            return NodeResult(success=False, error=_ReplayedError(number, cause.get("text", "failed"), None))
        kind = _ReplayedTimeoutError if cause["kind"] == "timeout" else _ReplayedError
        status: Any = 429 if cause["kind"] == "rate_limited" else cause.get("http_status")
        raise kind(number, cause.get("text", "failed"), status)


class Replay:
    """Result of a replay.

    Attributes:
        results: Results of the items.
        calls: Calls of the node.
        busy_s: Total time in calls, in seconds.
        never_ended: Calls whose end the recording does not show.
    """

    __slots__ = ("busy_s", "calls", "never_ended", "results")

    def __init__(self, results: BatchResults, node: Any) -> None:
        self.results = results
        self.calls: int = node.calls
        self.busy_s: float = node.busy_s
        self.never_ended: int = node.never_ended


def replay(recorded: RecordedAttempts, plan: Plan) -> Replay:
    """Replay recorded attempts.

    Args:
        recorded: The attempts.
        plan: Settings of the replay.
    """
    return run_virtual(_run(recorded, plan))


async def _run(recorded: RecordedAttempts, plan: Plan) -> Replay:
    rng = Random(_SEED)  # noqa: S311  # the same draws each time are the point
    node = _ReplayNode(recorded, rng)
    limits = recorded.meta.get("limits", []) if plan.limit_as_recorded else []
    processor = BatchProcessor(
        node,
        limits[0][1] if limits else plan.max_concurrency,
        item_timeout=plan.item_timeout,
        batch_timeout=plan.batch_timeout,
        retry=plan.retry_policy(rng, wanted=_retried(recorded)),
        rate_limit=plan.rate_limits(),
        hedge=plan.hedge,
        telemetry=False,
    )
    loop = asyncio.get_running_loop()
    timers = [loop.call_later(at_ns / 1e9, processor.set_max_concurrency, limit) for at_ns, limit in limits[1:]]
    source: Any = _delayed(recorded) if recorded.delays else range(recorded.items)
    results = await processor.batch(source)
    for timer in timers:
        timer.cancel()
    return Replay(results, node)


async def _delayed(recorded: RecordedAttempts) -> AsyncIterator[int]:
    for place, delay_s in enumerate(recorded.delays):
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        yield place


def _retried(recorded: RecordedAttempts) -> Any:
    """Predicate of the failures that the recorded policy retried; None if it had no policy."""
    if recorded.meta.get("settings", {}).get("retry") is None:
        return None
    retried = recorded.retried
    return lambda exc: not isinstance(exc, _ReplayedError) or retried.get(exc.cause, False)
