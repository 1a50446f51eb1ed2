"""ASGI application: alone, and mounted in FastAPI and Starlette."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import fastapi
import httpx
import pytest
import starlette.applications
import starlette.routing
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import flowrt
from flowrt.server import READINESS
from flowrt.server.app import asgi_app
from flowrt.server.auth import guarded
from flowrt.server.sse import Events


def ask(app: Any, path: str, method: str = "GET", *, root_path: str = "", **headers: str) -> httpx.Response:
    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            request = client.build_request(method, path, headers={"accept-encoding": "identity", **headers})
            return await client.send(request)

    return asyncio.run(main())


def samples(families: Any) -> set[str]:
    return {sample.name for family in families for sample in family.samples}


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("one", "First.", registry=registry).set(1)
    Gauge("two", "Second.", ["by"], registry=registry).labels("x").set(2)
    return registry


@pytest.fixture
def _draining() -> Iterator[None]:
    READINESS.draining = "shutting down"
    yield
    READINESS.draining = None


def test_metrics_include_flowrt_and_the_default_registry() -> None:
    answer = ask(flowrt.asgi_app(), "/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(parse_text(answer.text))
    assert {"flowrt_build_info", "python_info"} <= found


def test_metrics_are_openmetrics_on_request(registry: CollectorRegistry) -> None:
    answer = ask(asgi_app(registry), "/metrics", accept="application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert samples(parse_openmetrics(answer.text)) == {"one", "two"}


def metrics(
    registry: CollectorRegistry, *headers: tuple[bytes, bytes], method: str = "GET"
) -> tuple[dict[bytes, bytes], bytes]:
    """Headers and body as the application sends them: httpx would drop the body of a HEAD."""

    async def main() -> tuple[dict[bytes, bytes], bytes]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": "/metrics", "headers": [*headers], "query_string": b""}
        await asgi_app(registry)(scope, send, send)  # type: ignore[arg-type]
        return dict(sent[0]["headers"]), sent[1]["body"]

    return asyncio.run(main())


@pytest.mark.parametrize("encoding", [b"gzip", b"GZIP", b"br, gzip;q=0.5", b"gzip; q=0.001", b"identity;q=0, gzip"])
def test_metrics_are_compressed_on_request(registry: CollectorRegistry, encoding: bytes) -> None:
    headers, body = metrics(registry, (b"accept-encoding", encoding))
    assert headers[b"content-encoding"] == b"gzip"
    assert headers[b"vary"] == b"accept, accept-encoding"
    assert int(headers[b"content-length"]) == len(body)
    assert samples(parse_text(gzip.decompress(body).decode())) == {"one", "two"}


def test_split_accept_encoding_header_is_one_list(registry: CollectorRegistry) -> None:
    headers, _ = metrics(registry, (b"accept-encoding", b"gzip"), (b"accept-encoding", b"br"))
    assert headers[b"content-encoding"] == b"gzip"


@pytest.mark.parametrize("encoding", [b"", b"br", b"gzip;q=0", b"gzip; q=0.0", b"br, gzip;Q=0.000", b"gzip;q=none"])
def test_metrics_are_not_compressed_unless_accepted(registry: CollectorRegistry, encoding: bytes) -> None:
    headers, body = metrics(registry, (b"accept-encoding", encoding))
    assert b"content-encoding" not in headers
    assert samples(parse_text(body.decode())) == {"one", "two"}


def test_refused_openmetrics_is_not_sent(registry: CollectorRegistry) -> None:
    accept = b"application/openmetrics-text;version=1.0.0;q=0, text/plain;version=0.0.4;q=0.5"
    assert metrics(registry, (b"accept", accept))[0][b"content-type"].startswith(b"text/plain")


def test_metrics_can_be_restricted_to_names(registry: CollectorRegistry) -> None:
    answer = ask(asgi_app(registry), "/metrics?name[]=two")
    assert samples(parse_text(answer.text)) == {"two"}


def test_head_returns_the_headers_of_get(registry: CollectorRegistry) -> None:
    headers, body = metrics(registry, method="HEAD")
    assert body == b""
    assert headers == metrics(registry)[0]
    assert ask(asgi_app(registry), "/metrics", "HEAD").status_code == 200


def test_healthz_and_readyz_are_ok() -> None:
    for path in ("/healthz", "/readyz"):
        answer = ask(asgi_app(), path)
        assert (answer.status_code, answer.text) == (200, "ok\n")


@pytest.mark.usefixtures("_draining")
def test_readyz_is_503_while_draining_and_healthz_is_200() -> None:
    answer = ask(asgi_app(), "/readyz")
    assert (answer.status_code, answer.text) == (503, "shutting down\n")
    assert ask(asgi_app(), "/healthz").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/live/",
        "/live/..%2fpage.html",
        "/live/page.py",
        "/metrics/",
        "/metrics/x",
        "/..%2fmetrics",
        "/x/%2e%2e/metrics",
        "/METRICS",
    ],
)
def test_unknown_path_is_404(path: str) -> None:
    assert ask(asgi_app(), path).status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
def test_unknown_method_is_405_with_allow_header(path: str, method: str) -> None:
    answer = ask(asgi_app(), path, method)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


def test_raising_collector_is_500_and_names_the_type_only() -> None:
    class Broken:
        def collect(self) -> Iterator[Any]:
            raise KeyError("a secret")

    registry = CollectorRegistry()
    registry.register(Broken())  # type: ignore[arg-type]
    answer = ask(asgi_app(registry), "/metrics")
    assert answer.status_code == 500
    assert "KeyError" in answer.text
    assert "secret" not in answer.text


def test_slow_collector_does_not_block_the_mounting_loop() -> None:
    asked, release = threading.Event(), threading.Event()

    class Slow:
        def collect(self) -> Iterator[Any]:
            asked.set()
            release.wait(30)
            yield GaugeMetricFamily("slow", "Slow.", value=1)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Slow())  # type: ignore[arg-type]

    async def main() -> tuple[bool, int]:
        transport = httpx.ASGITransport(app=asgi_app(registry))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            scrape = asyncio.create_task(client.get("/metrics"))
            while not asked.is_set():
                await asyncio.sleep(0.005)
            health = await client.get("/healthz")
            pending = not scrape.done()
            release.set()
            return pending and health.status_code == 200, (await scrape).status_code

    began = time.monotonic()
    assert asyncio.run(main()) == (True, 200)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("root_path", "before"),
    [("", ""), ("/proxy", ""), ("/proxy", "/proxy")],
    ids=["no proxy", "a proxy that strips its prefix", "a proxy's prefix in the path"],
)
def test_app_works_mounted_in_fastapi(root_path: str, before: str) -> None:
    app = fastapi.FastAPI()
    app.mount("/telemetry", flowrt.asgi_app())

    @app.get("/own")
    async def own() -> str:
        return "own"

    def get(path: str) -> httpx.Response:
        return ask(app, before + path, root_path=root_path)

    assert "flowrt_build_info" in get("/telemetry/metrics").text
    assert get("/telemetry/healthz").text == "ok\n"
    assert get("/telemetry/nope").status_code == 404
    assert get("/own").json() == "own"


def test_app_works_mounted_twice_in_starlette() -> None:
    inner = starlette.routing.Mount("/inner", app=flowrt.asgi_app())
    app = starlette.applications.Starlette(routes=[starlette.routing.Mount("/outer", routes=[inner])])
    assert "flowrt_build_info" in ask(app, "/outer/inner/metrics").text
    assert ask(app, "/outer/inner/metricsx").status_code == 404


def test_prefix_that_is_the_beginning_of_a_name_is_not_stripped() -> None:
    assert ask(asgi_app(), "/healthz", root_path="/health").text == "ok\n"


def test_page_that_was_left_gets_no_further_event() -> None:
    class Store:
        frame = b"{}"

        def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
            return lambda: None

        def snapshot(self) -> bytes:
            return b"{}"

    async def main() -> list[bytes]:
        sent: list[bytes] = []
        shown = asyncio.Event()

        async def receive() -> Any:
            await shown.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))
            if len(sent) == 2:
                shown.set()

        assert await Events(Store()).serve(receive, send) is None  # type: ignore[arg-type]
        return sent

    assert asyncio.run(main()) == [b"", b"retry: 2000\nevent: snapshot\ndata: {}\n\n", b""]


def test_mounted_app_accepts_any_host() -> None:
    assert ask(asgi_app(), "/healthz", host="example.org").status_code == 200


def test_lifespan_messages_are_answered() -> None:
    async def main() -> list[str]:
        messages = iter(["lifespan.startup", "lifespan.shutdown"])
        sent: list[str] = []

        async def receive() -> Any:
            return {"type": next(messages)}

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await asgi_app()({"type": "lifespan"}, receive, send)
        return sent

    assert asyncio.run(main()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_websocket_is_closed() -> None:
    async def main() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await asgi_app()({"type": "websocket", "path": "/metrics"}, send, send)  # type: ignore[arg-type]
        return sent

    assert asyncio.run(main()) == [{"type": "websocket.close", "code": 1000}]


ROUTES = [(path, method) for path in ("/metrics", "/healthz", "/readyz", "/nope") for method in ("GET", "POST", "HEAD")]


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_foreign_host_is_421_on_every_route_and_method(path: str, method: str) -> None:
    app = guarded(asgi_app())
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil", "[::2]:80", "", "localhost@evil"):
        assert ask(app, path, method, host=host).status_code == 421, host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9464", "localhost", "LocalHost:1", "[::1]", "[::1]:9464"])
def test_loopback_names_are_accepted(host: str) -> None:
    assert ask(guarded(asgi_app()), "/healthz", host=host).status_code == 200


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_foreign_origin_is_403_on_every_route_and_method(path: str, method: str) -> None:
    app = guarded(asgi_app())
    for origin in ("http://evil.example", "http://localhost:3000", "null", "http://localhost.evil"):
        assert ask(app, path, method, host="localhost:9464", origin=origin).status_code == 403, origin


def test_own_origin_is_accepted() -> None:
    answer = ask(guarded(asgi_app()), "/healthz", host="localhost:9464", origin="http://localhost:9464")
    assert answer.status_code == 200


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_wrong_token_is_401_on_every_route_and_method(path: str, method: str) -> None:
    app = guarded(asgi_app(), "correct horse")
    for wrong in ({}, {"authorization": "Bearer wrong"}, {"authorization": "correct horse"}):
        answer = ask(app, path, method, host="any.example", **wrong)
        assert answer.status_code == 401
        assert answer.headers.get_list("www-authenticate") == ['Basic realm="flowrt", charset="UTF-8"', "Bearer"]


def test_right_token_passes_with_any_host() -> None:
    answer = ask(guarded(asgi_app(), "horse"), "/healthz", host="any.example", authorization="Bearer horse")
    assert answer.status_code == 200
