"""Context of an item: a context like any other, whose span is made on demand."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.trace import TraceFlags, TraceState

from flowrt import BatchProcessor
from flowrt.telemetry.tracing.context import SPAN_KEY
from flowrt.telemetry.tracing.ids import make_ids
from flowrt.telemetry.tracing.item_context import ItemContext
from flowrt.telemetry.tracing.setup import make_provider
from flowrt.telemetry.tracing.span import ItemSpan
from flowrt.telemetry.tracing.span_frame import SCOPE, SpanFrame

BASE = {"first": 1, "second": [2]}


def item_context(base: dict[str, object] = BASE) -> ItemContext:
    made = ItemContext()
    made.frame = SpanFrame(
        name="process node",
        resource=Resource({}),
        scope=SCOPE,
        limits=SpanLimits(),
        attributes={},
        links=(),
        parent=None,
        flags=TraceFlags(1),
        trace_state=TraceState(),
        recording=True,
        offset_ns=1_000,
        hand_over=lambda span: None,
    )
    made.base = base
    made.ids, made.index, made.start_ns, made.end_ns = make_ids(1, 2), 3, 400, 0
    made.made = made.token = None
    return made


READINGS: dict[str, Callable[[Context], Any]] = {
    "get": lambda c: [c.get(key) for key in ("first", "none", SPAN_KEY)] + [c.get("none", 7)],
    "item": lambda c: [c["first"], c[SPAN_KEY]],
    "contains": lambda c: ["first" in c, "none" in c, SPAN_KEY in c],
    "length": len,
    "truth": bool,
    "iteration": list,
    "reversed": lambda c: list(reversed(c)),
    "keys": lambda c: list(c.keys()),
    "values": lambda c: list(c.values()),
    "items": lambda c: list(c.items()),
    "copy": lambda c: c.copy(),
    "copy.copy": lambda c: copy.copy(c) if isinstance(c, ItemContext) else Context(c),
    "dict": dict,
    "unpacked": lambda c: {**c},
    "merged": lambda c: c | {"third": 3},
    "merged into": lambda c: {"third": 3} | c,
    "repr": repr,
    "set_value": lambda c: context.set_value("first", 9, c),
    "current span": trace.get_current_span,
    "baggage": lambda c: baggage.set_baggage("who", "me", c),
}


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("base", [BASE, {**BASE, SPAN_KEY: trace.INVALID_SPAN}], ids=["nested", "linked"])
def test_item_context_reads_as_a_context_of_its_values(reading: str, base: dict[str, object]) -> None:
    read, ours = READINGS[reading], item_context(base)
    assert read(ours) == read(Context({**base, SPAN_KEY: ours.span}))


def test_item_context_equals_a_context_of_its_values() -> None:
    ours = item_context()
    theirs = Context({**BASE, SPAN_KEY: ours.span})
    assert ours == ours == theirs == ours  # noqa: PLR0124  # both sides' methods
    assert not ours != theirs  # noqa: SIM202  # the method itself
    assert ours != item_context()
    assert ours != Context(BASE)
    with pytest.raises(TypeError):
        hash(ours)


def test_missing_key_of_an_item_context_raises() -> None:
    with pytest.raises(KeyError, match="none"):
        item_context()["none"]


def test_item_context_cannot_be_changed() -> None:
    ours = item_context()
    with pytest.raises(ValueError, match=r"^$"):
        ours["first"] = 2
    assert ours["first"] == 1


def test_threads_that_ask_at_once_get_one_span() -> None:
    ours, together = item_context(), Barrier(4)

    def ask(_: int) -> ItemSpan:
        together.wait(30)
        return ours.span

    with ThreadPoolExecutor(4) as pool:
        assert len({id(span) for span in pool.map(ask, range(4))}) == 1


def test_span_that_is_asked_for_after_the_end_has_ended() -> None:
    ours = item_context()
    ours.end_ns = 900
    assert not ours.span.is_recording()
    assert (ours.span.start_time, ours.span.end_time) == (1_400, 1_900)


class _Target:
    takes_plain = True

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.append = self.put = self.spans.append

    def check_backlog(self, added: int) -> None:
        """Do nothing: there is no limit."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


@pytest.mark.parametrize("task_per_item", [True, False])
def test_context_outlives_its_item_with_the_items_ids(monkeypatch: pytest.MonkeyPatch, task_per_item: bool) -> None:
    provider = make_provider(Resource({}))
    provider.target = _Target()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    kept: list[Context] = []

    async def node(item: int) -> int:
        kept.append(context.get_current())
        if item % 2:
            trace.get_current_span()
        return item

    results = asyncio.run(BatchProcessor(node, 2, task_per_item=task_per_item).batch(range(4)))
    spans = [trace.get_current_span(each) for each in kept]
    assert [f"{span.get_span_context().span_id:016x}" for span in spans] == [result.span_id for result in results]
    assert not any(span.is_recording() for span in spans)


def test_no_span_is_made_for_a_node_that_does_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    target = _Target()
    provider = make_provider(Resource({}))
    provider.target = target
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)

    async def node(item: int) -> ItemSpan | None:
        here = context.get_current()
        if item == 1:
            trace.get_current_span()
        assert isinstance(here, ItemContext)
        return here.made

    results = asyncio.run(BatchProcessor(node, 2).batch(range(3)))
    assert [result.output is None for result in results] == [True, False, True]
    assert [type(span) for span in target.spans[:-1]] == [bytes] * 3
