"""One replay: the recorded attempts as a node, run by a BatchProcessor in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any, Final

from flowrt.batch.processor import BatchProcessor
from flowrt.batch.results import BatchResults
from flowrt.model.node import BaseNode, NodeContext, NodeResult, WorkflowContext
from flowrt.whatif.recorded_attempts import Call, Tape
from flowrt.whatif.scenario import Plan
from flowrt.whatif.virtual_clock_loop import run_virtual

__all__ = ["Replay", "replay"]

_FOREVER_S: Final = 30 * 86400.0
_SEED: Final = 20_240_229


class _ReplayedError(Exception):
    """A recorded failure.

    Attributes:
        cause: Its number.
        status_code: The HTTP status that it had.
    """

    def __init__(self, cause: int, text: str, status: int | None) -> None:
        super().__init__(text)
        self.cause = cause
        if status is not None:
            self.status_code = status


class _LateError(_ReplayedError, TimeoutError):
    """A recorded failure that was a timeout of the node's own."""


class _Recorded(BaseNode):
    """Takes as long for an item as its recorded attempt did, and fails as it failed."""

    def __init__(self, tape: Tape, rng: Random) -> None:
        super().__init__(node_id="replay", node_type="replay", name="replay", config={})
        self.calls = 0
        self.busy_s = 0.0
        self.never_ended = 0
        self._tape = tape
        self._rng = rng
        self._running: dict[int, int] = {}
        self._inflight = 0
        self._failed: dict[int, tuple[int, int]] = {}  # items between attempts: how many failed, and the last cause
        self._ok = NodeResult(success=True)
        self._loop = asyncio.get_running_loop()

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:  # noqa: ARG002
        place: Any = node_context.input_data
        beside = place in self._running
        call = self._call(place, node_context.attempt, beside=beside)
        self.calls += 1
        self._inflight += 1
        self._running[place] = self._running.get(place, 0) + 1
        began_s = self._loop.time()
        try:
            takes_s = call.service_s * self._tape.contention.factor(call.inflight, self._inflight)
            if takes_s > _FOREVER_S:
                self.never_ended += 1
                takes_s = _FOREVER_S
            await asyncio.sleep(takes_s)
        finally:
            self._inflight -= 1
            self.busy_s += self._loop.time() - began_s
            if self._running[place] == 1:
                del self._running[place]
            else:
                self._running[place] -= 1
            if not beside and call.cause < 0:  # it may be cut short and come back
                self._failed[place] = (self._failed.get(place, (0, -1))[0] + 1, -1)
        if call.cause >= 0:
            if not beside:
                self._failed[place] = (self._failed.get(place, (0, -1))[0] + 1, call.cause)
            return self._fail(call.cause)
        self._failed.pop(place, None)
        return self._ok

    def _call(self, place: int, attempt: int, *, beside: bool) -> Call:
        if beside:
            return self._tape.hedge(self._rng)
        if attempt == 1:
            return self._tape.first(place)
        number, cause = self._failed.get(place, (1, -1))
        return self._tape.retry(place, number, cause, self._rng)

    def _fail(self, number: int) -> NodeResult:
        causes = self._tape.meta.get("causes", [])
        cause = causes[number] if number < len(causes) else {"kind": "error", "text": "failed"}
        if not cause.get("raised", True):
            # with the cause, which a text would not have: whether it is tried again depends on it
            return NodeResult(success=False, error=_ReplayedError(number, cause.get("text", "failed"), None))
        kind = _LateError if cause["kind"] == "timeout" else _ReplayedError
        status: Any = 429 if cause["kind"] == "rate_limited" else cause.get("http_status")
        raise kind(number, cause.get("text", "failed"), status)


class Replay:
    """What came of one replay.

    Attributes:
        results: Of each item.
        calls: How often the node was called.
        busy_s: For how long, in all.
        never_ended: Calls of which the recording does not tell that they ever end.
    """

    __slots__ = ("busy_s", "calls", "never_ended", "results")

    def __init__(self, results: BatchResults, node: Any) -> None:
        self.results = results
        self.calls: int = node.calls
        self.busy_s: float = node.busy_s
        self.never_ended: int = node.never_ended


def replay(tape: Tape, plan: Plan) -> Replay:
    """Run a recording again.

    Args:
        tape: The recording.
        plan: The settings to run it under.
    """
    return run_virtual(_run(tape, plan))


async def _run(tape: Tape, plan: Plan) -> Replay:
    rng = Random(_SEED)  # noqa: S311  # the same draws each time are the point
    node = _Recorded(tape, rng)
    limits = tape.meta.get("limits", []) if plan.limit_as_recorded else []
    processor = BatchProcessor(
        node,
        limits[0][1] if limits else plan.max_concurrency,
        item_timeout=plan.item_timeout,
        batch_timeout=plan.batch_timeout,
        retry=plan.retry_policy(rng, wanted=_wanted(tape)),
        rate_limit=plan.rate_limits(),
        hedge=plan.hedge,
        telemetry=False,
    )
    loop = asyncio.get_running_loop()
    timers = [loop.call_later(at_ns / 1e9, processor.set_max_concurrency, limit) for at_ns, limit in limits[1:]]
    source: Any = _delayed(tape) if tape.delays else range(tape.items)
    results = await processor.batch(source)
    for timer in timers:
        timer.cancel()
    return Replay(results, node)


async def _delayed(tape: Tape) -> AsyncIterator[int]:
    for place, delay_s in enumerate(tape.delays):
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        yield place


def _wanted(tape: Tape) -> Any:
    """Which failures are tried again, as the recorded policy did; None where there was none to tell."""
    if tape.meta.get("settings", {}).get("retry") is None:
        return None
    retried = tape.retried
    return lambda exc: not isinstance(exc, _ReplayedError) or retried.get(exc.cause, False)
