"""Node that calls a real HTTP service through an instrumented client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvloop
from aiohttp import web
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import AsyncOpenTelemetryTransport
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.telemetry.tracing.test_differential import comparable, payload_of


@asynccontextmanager
async def service() -> AsyncIterator[str]:
    """Service that returns the trace headers it received; every third call gets a 503."""

    async def answer(request: web.Request) -> web.Response:
        x = int(request.match_info["x"])
        return web.json_response({"traceparent": request.headers["traceparent"]}, status=503 if x % 3 == 2 else 200)

    app = web.Application()
    app.router.add_get("/items/{x}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def call(item: dict[str, Any]) -> dict[str, Any]:
    """Make one call; its client span has the call's number instead of the random port."""
    async with (
        service() as url,
        httpx.AsyncClient(transport=AsyncOpenTelemetryTransport(httpx.AsyncHTTPTransport())) as client,
    ):
        response = await client.get(f"{url}/items/{item['x']}")
        response.raise_for_status()
    got = json.loads(response.text)["traceparent"].split("-")[1]
    here = trace.get_current_span().get_span_context()
    assert got == f"{here.trace_id:032x}", "the service receives the item's trace id"
    return item


def spans_of(request: ExportTraceServiceRequest) -> list[Any]:
    return [s for rs in request.resource_spans for ss in rs.scope_spans for s in ss.spans]


def without_ports(request: ExportTraceServiceRequest) -> ExportTraceServiceRequest:
    for span in spans_of(request):
        for pair in span.attributes:
            if pair.key in ("http.url", "url.full", "server.port", "net.peer.port"):
                pair.value.Clear()
        span.status.message = span.status.message.partition("http://")[0]
        for event in span.events:
            for pair in event.attributes:
                pair.value.string_value = pair.value.string_value.partition("http://")[0]
    return request


def test_client_spans_nest_under_the_item_as_with_the_sdk() -> None:
    script = [{"x": x} for x in range(6)]
    sent = {
        ours: payload_of(script, ours=ours, work=call, loop=uvloop.new_event_loop, shape="linked")
        for ours in (True, False)
    }
    spans = spans_of(sent[True])
    items = {span.span_id: span for span in spans if span.name == "process call"}
    clients = [span for span in spans if span.name == "GET"]
    assert len(items) == len(clients) == 6
    assert {span.parent_span_id for span in clients} == items.keys()
    assert all(items[span.parent_span_id].trace_id == span.trace_id for span in clients)
    failed = [span for span in items.values() if span.status.code == span.status.STATUS_CODE_ERROR]
    assert len(failed) == 2
    assert {pair.value.string_value for span in failed for pair in span.attributes if pair.key == "error.type"} == {
        "HTTPStatusError"
    }
    assert comparable(without_ports(sent[True])) == comparable(without_ports(sent[False]))


def test_concurrent_calls_do_not_mix_their_traces() -> None:
    request = payload_of([{"x": 0}] * 20, ours=True, work=call, loop=asyncio.SelectorEventLoop, shape="linked")
    spans = spans_of(request)
    items = {span.span_id: span.trace_id for span in spans if span.name == "process call"}
    clients = [(span.parent_span_id, span.trace_id) for span in spans if span.name == "GET"]
    assert sorted(items.items()) == sorted(clients)
    assert len(set(items.values())) == 20
