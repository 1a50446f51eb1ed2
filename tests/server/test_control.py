"""Control of batches over HTTP: pause, resume, drain and cancel, and every refusal."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import flowrt
from flowrt.server import TelemetryServer, asgi_app
from flowrt.telemetry.live import LIVE
from tests.server.test_app import ask
from tests.waiting import wait_until

HANG_S = 30.0
TOKEN = "horse-battery"  # of the test

Results = flowrt.BatchResults


@pytest.fixture
def server() -> Iterator[TelemetryServer]:
    server = TelemetryServer(0, token=TOKEN, live_control=True)
    server.start()
    yield server
    server.stop()


class Active:
    """Batch of ten items on a loop in another thread. Its node blocks until `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.results: Results | None = None
        self._began = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._began.wait(HANG_S)

    def _run(self) -> None:
        async def node(x: int) -> int:
            if x == 1:  # so both slots are taken
                self._began.set()
            while not self.release.is_set():
                await asyncio.sleep(0.005)
            return x

        self.results = asyncio.run(flowrt.BatchProcessor(node, 2, name="active").batch(range(10)))

    def join(self) -> Results:
        self._thread.join(HANG_S)
        assert self.results is not None
        return self.results


@pytest.fixture
def active(server: TelemetryServer) -> Iterator[Active]:
    active = Active()
    yield active
    active.release.set()
    active.join()


def state() -> dict[str, Any]:
    batches = json.loads(LIVE.snapshot())["batches"]
    return next(batch for batch in batches if batch["name"] == "active")


def wait_until_both_have_ended() -> None:
    """Wait until the two active items are counted; between its slot and its count, an item is in neither."""
    wait_until(lambda: (state()["inflight"], state()["completed"]) == (0, 2), "both active items have ended")


def batch_id() -> str:
    return str(state()["id"])


def post(server: TelemetryServer, path: str, method: str = "POST", **headers: str) -> tuple[int, str]:
    sent = {"authorization": f"Bearer {TOKEN}", "origin": server.url, **headers}
    sent = {name: value for name, value in sent.items() if value}
    request = urllib.request.Request(server.url + path, method=method, headers=sent)  # noqa: S310  # loopback
    try:
        with urllib.request.urlopen(request, timeout=HANG_S) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_drain_lets_active_items_end(server: TelemetryServer, active: Active) -> None:
    assert post(server, f"/live/batches/{batch_id()}/drain")[0] == 202
    active.release.set()
    results = active.join()
    assert [result.status for result in results] == ["ok"] * 2 + ["cancelled"] * 8
    assert "drained from the live page" in (results[-1].error or "")


def test_cancel_ends_active_items(server: TelemetryServer, active: Active) -> None:
    assert post(server, f"/live/batches/{batch_id()}/cancel")[0] == 202
    results = active.join()
    assert [result.status for result in results] == ["cancelled"] * 10, "one result per input"
    assert "cancelled from the live page" in (results[0].error or "")


def test_paused_batch_waits_until_it_is_resumed(server: TelemetryServer, active: Active) -> None:
    assert post(server, f"/live/batches/{batch_id()}/pause")[0] == 202
    wait_until(lambda: state()["paused_s"] is not None, "it is paused")
    active.release.set()
    wait_until_both_have_ended()
    assert (state()["pulled"], state()["eta_s"]) == (2, None)
    assert post(server, f"/live/batches/{batch_id()}/resume")[0] == 202
    results = active.join()
    assert results.success_rate == 1
    assert results.report.bound_by["paused"] > 0


def test_other_batches_of_the_loop_go_on() -> None:
    app = asgi_app(live_control=True)
    statuses: dict[str, str] = {}

    async def main() -> None:
        release = asyncio.Event()

        async def node(x: int) -> int:
            await release.wait()
            return x

        async def batch(name: str) -> None:
            (result,) = await flowrt.BatchProcessor(node, name=name).batch([1])
            statuses[name] = result.status

        batches = [asyncio.create_task(batch(name)) for name in ("cancelled", "other")]
        await asyncio.sleep(0.01)
        found = {batch["name"]: batch["id"] for batch in json.loads(await asyncio.to_thread(LIVE.snapshot))["batches"]}
        path = f"/live/batches/{found['cancelled']}/cancel"
        answer = await asyncio.to_thread(ask, app, path, "POST", origin="http://localhost")
        assert answer.status_code == 202
        await batches[0]
        release.set()
        await batches[1]

    asyncio.run(main())
    assert statuses == {"cancelled": "cancelled", "other": "ok"}


@pytest.mark.parametrize("action", ["drain", "cancel"])
def test_paused_batch_can_be_drained_and_cancelled(server: TelemetryServer, active: Active, action: str) -> None:
    assert post(server, f"/live/batches/{batch_id()}/pause")[0] == 202
    wait_until(lambda: state()["paused_s"] is not None, "it is paused")
    active.release.set()
    wait_until_both_have_ended()
    assert post(server, f"/live/batches/{batch_id()}/{action}")[0] == 202
    assert [result.status for result in active.join()] == ["ok"] * 2 + ["cancelled"] * 8


@pytest.mark.parametrize("action", ["pause", "resume", "drain", "cancel"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": ""}, 401),
        ({"authorization": "Bearer mule"}, 401),
        ({"origin": ""}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_request_without_token_or_own_origin_changes_nothing(
    server: TelemetryServer, active: Active, action: str, headers: dict[str, str], status: int
) -> None:
    assert post(server, f"/live/batches/{batch_id()}/{action}", **headers)[0] == status
    active.release.set()
    assert active.join().success_rate == 1


def test_unknown_batch_is_404(server: TelemetryServer) -> None:
    for path in ("/live/batches/nope/cancel", "/live/batches/nope/explode", "/live/batches//cancel"):
        assert post(server, path)[0] == 404


def test_get_of_a_control_path_is_405(server: TelemetryServer) -> None:
    assert post(server, "/live/batches/nope/cancel", "GET")[0] == 405
    assert post(server, "/", "POST")[0] == 405


@pytest.mark.parametrize("action", ["pause", "resume", "drain", "cancel"])
def test_post_is_405_without_live_control(action: str) -> None:
    answer = ask(asgi_app(), f"/live/batches/nope/{action}", "POST", origin="http://localhost")
    assert answer.status_code == 405
    assert "live_control is off" in answer.text


def test_mounted_control_needs_the_own_origin() -> None:
    app = asgi_app(live_control=True)
    path = "/live/batches/nope/cancel"
    assert ask(app, path, "POST").status_code == 403
    assert ask(app, path, "POST", origin="http://evil.example").status_code == 403
    assert ask(app, path, "POST", origin="http://localhost").status_code == 404


def test_live_control_needs_a_token() -> None:
    with pytest.raises(ValueError, match=r"live_control lets every reader .* give a token"):
        TelemetryServer(0, live_control=True)


def test_config_names_controls_and_trace_url() -> None:
    url = "https://jaeger.example.com/trace/{trace_id}"

    def config(**settings: Any) -> Any:
        return ask(asgi_app(**settings), "/live/config").json()

    assert config() == {"trace_url": None, "controls": []}
    assert config(trace_url=url, live_control=True) == {
        "trace_url": url,
        "controls": ["pause", "resume", "drain", "cancel"],
    }


@pytest.mark.parametrize(
    "url", ["", "jaeger/trace/{trace_id}", "javascript:alert('{trace_id}')", "https://jaeger.example.com/trace"]
)
@pytest.mark.parametrize("make", [lambda url: TelemetryServer(0, trace_url=url), lambda url: asgi_app(trace_url=url)])
def test_invalid_trace_url_raises_value_error(url: str, make: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match=r"trace_url must be an http or https URL with \{trace_id\}"):
        make(url)
