"""Retries, hedges, limits and circuits in metrics, spans and log events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from flowrt import (
    AdaptiveLimit,
    BaseNode,
    BatchProcessor,
    CircuitBreaker,
    Hedge,
    NodeContext,
    NodeResult,
    RateLimit,
    RetryPolicy,
    WorkflowContext,
)
from flowrt.testing import ScriptedNode, hangs, returns

Run = Callable[[Any], Any]
Spans = Callable[[], list[ReadableSpan]]
Sample = Callable[..., float]
Act = Callable[[int, int], Any]


class Scripted(BaseNode):
    """Node with a script per item and attempt: sleeps for a float, raises an exception."""

    def __init__(self, act: Act) -> None:
        super().__init__("scripted")
        self.act = act

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        act = self.act(node_context.input_data, node_context.attempt)
        with trace.get_tracer("client").start_as_current_span("call"):
            if isinstance(act, float):
                await asyncio.sleep(act)
        if isinstance(act, Exception):
            raise act
        return NodeResult(True, node_context.attempt)


def tree(spans: list[ReadableSpan], index: int) -> list[tuple[Any, ...]]:
    """Child spans of one item's span, ordered by attempt number."""
    (item,) = [
        span
        for span in spans
        if span.name.startswith("process ") and (span.attributes or {})["flowrt.item.index"] == index
    ]
    assert item.context is not None
    under = [span for span in spans if span.parent is not None and span.parent.span_id == item.context.span_id]
    attempts = [
        (
            span.attributes["flowrt.attempt.number"],
            span.attributes.get("flowrt.attempt.hedge"),
            span.status.status_code,
        )
        for span in under
        if span.name == "attempt scripted" and span.attributes is not None
    ]
    calls = [span for span in under if span.name == "call"]
    assert len(calls) == max(1, len(attempts)), "a client's spans are children of the item span in every attempt"
    return sorted(attempts, key=str)


def test_each_attempt_of_a_retried_item_has_a_span_and_is_counted(
    run_virtual: Run, spans: Spans, sample: Sample
) -> None:
    node = Scripted(lambda x, attempt: ConnectionError("no") if x == 0 and attempt < 3 else 1.0)
    results = run_virtual(BatchProcessor(node, 2, retry=RetryPolicy(wait=lambda _: 2.0)).batch(range(3)))
    assert results[0].attempts == 3
    assert tree(spans(), 0) == [
        (1, None, StatusCode.ERROR),
        (2, None, StatusCode.ERROR),
        (3, None, StatusCode.UNSET),
    ]
    assert tree(spans(), 1) == []
    pair = {"batch": "scripted", "node": "scripted"}
    assert sample("flowrt_item_retries_total", reason="error", **pair) == 2
    assert sample("flowrt_item_attempts_total", status="failed", **pair) == 2
    assert sample("flowrt_item_attempts_total", status="ok", **pair) == 3
    assert sample("flowrt_retry_backoff_seconds_total", **pair) == 4
    assert sample("flowrt_item_duration_seconds_sum", status="ok", **pair) >= 5 + 1 + 1


def test_hedge_has_a_span_and_a_counter_of_its_own(run_virtual: Run, spans: Spans, sample: Sample) -> None:
    takes = {(0, 1): 60.0, (0, 2): 1.0, (1, 1): 3.0, (1, 2): 60.0, (2, 1): 4.0, (2, 2): ConnectionError("no")}
    processor = BatchProcessor(
        Scripted(lambda x, attempt: takes.get((x, attempt), 1.0)), 10, hedge=Hedge(after=2.0, share=1.0)
    )
    results = run_virtual(processor.batch(range(5)))
    assert [(r.output, r.attempts) for r in results] == [(2, 2), (1, 2), (1, 2), (1, 1), (1, 1)]
    assert tree(spans(), 0) == [(1, None, StatusCode.UNSET), (2, "won", StatusCode.UNSET)]
    assert tree(spans(), 1) == [(1, None, StatusCode.UNSET), (2, "lost", StatusCode.UNSET)]
    assert tree(spans(), 2) == [(1, None, StatusCode.UNSET), (2, "failed", StatusCode.ERROR)]
    assert tree(spans(), 3) == []
    pair = {"batch": "scripted", "node": "scripted"}
    outcomes = {o: sample("flowrt_item_hedges_total", outcome=o, **pair) for o in ("won", "lost", "failed")}
    assert outcomes == {"won": 1, "lost": 1, "failed": 1}
    assert sample("flowrt_item_attempts_total", status="ok", **pair) == 5
    assert sample("flowrt_item_attempts_total", status="failed", **pair) == 0
    assert sample("flowrt_unaccounted_items", batch="scripted") == 0


def test_uncancellable_hedge_is_logged(run_virtual: Run, events: list[dict[str, Any]]) -> None:
    async def main() -> None:
        node = ScriptedNode(hangs(stubborn_for=60), returns("second"))
        (result,) = await BatchProcessor(node, 1, hedge=Hedge(after=2.0)).batch([1])
        assert result.success
        (event,) = [event for event in events if event["event"] == "item.uncancellable"]
        assert (event["level"], event["status"], event["attempt"]) == ("warning", "ok", 2)
        await asyncio.sleep(100)

    run_virtual(main())


def test_limit_change_is_logged_with_its_reason_and_sets_the_gauge(
    run_virtual: Run, events: list[dict[str, Any]], sample: Sample
) -> None:
    class ThrottledError(Exception):
        status = 429

    def act(x: int, attempt: int) -> Any:
        return ThrottledError() if x == 500 else 0.1

    seen: list[float] = []

    async def main() -> None:
        processor = BatchProcessor(Scripted(act), AdaptiveLimit(1, 32))
        asyncio.get_running_loop().call_later(
            2, lambda: seen.append(sample("flowrt_concurrency_limit", batch="scripted", node="scripted"))
        )
        await processor.batch(range(1000))

    run_virtual(main())
    changes = [event for event in events if event["event"] == "limit.changed"]
    assert {"slow_start", "throttled"} <= {change["reason"] for change in changes}
    assert all(change["limit"] != change["before"] for change in changes)
    assert 1 < seen[0] <= 32


def test_circuit_change_is_logged_and_sets_the_gauge(
    run_virtual: Run, events: list[dict[str, Any]], sample: Sample
) -> None:
    async def main() -> None:
        node = Scripted(lambda x, attempt: ConnectionError("down") if x < 5 else 1.0)
        processor = BatchProcessor(node, 1, breaker=CircuitBreaker(0.5, 10, 60, minimum=5, open="pause"))
        pair = {"batch": "scripted", "node": "scripted"}
        states: list[float] = []
        for at in (30, 60.5):
            asyncio.get_running_loop().call_later(at, lambda: states.append(sample("flowrt_circuit_state", **pair)))
        await processor.batch(range(8))
        assert states == [2, 1]
        assert sample("flowrt_circuit_state", **pair) == 0

    run_virtual(main())
    changes = [(e["before"], e["state"], e["level"]) for e in events if e["event"] == "circuit.changed"]
    assert changes == [
        ("closed", "open", "warning"),
        ("open", "half_open", "info"),
        ("half_open", "closed", "info"),
    ]


def test_rate_limit_wait_is_counted(run_virtual: Run, sample: Sample) -> None:
    processor = BatchProcessor(Scripted(lambda x, attempt: 0.5), 5, rate_limit=RateLimit(1, per=10))
    run_virtual(processor.batch(range(3)))
    pair = {"batch": "scripted", "node": "scripted"}
    assert 29 < sample("flowrt_rate_limit_wait_seconds_total", **pair) < 31
    assert sample("flowrt_items_queued", **pair) == 0
