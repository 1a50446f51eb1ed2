"""Every alert fires and resolves at a real Alertmanager, with rules that run 150 times as fast as in production."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dashboards.generator.links import ALERTS
from dashboards.generator.objectives import objectives_file
from dashboards.generator.servers import Servers, free_port
from dashboards.generator.windows import Time

pytestmark = [pytest.mark.parts, pytest.mark.xdist_group("alerting"), pytest.mark.timeout(1_000)]

TIME = Time(150)
SCRAPE_S = 0.25
PATIENCE_S = 300.0
MISSING_AFTER_S = 8

WELL = {
    'flowrt_items_total{batch="nightly",node="fetch",status="ok"}': 100.0,
    'flowrt_items_total{batch="stuck",node="wait",status="ok"}': 100.0,
    'flowrt_item_duration_seconds_bucket{batch="nightly",node="fetch",status="ok",le="10.0"}': 100.0,
    'flowrt_item_duration_seconds_bucket{batch="nightly",node="fetch",status="ok",le="+Inf"}': 100.0,
    'flowrt_item_duration_seconds_count{batch="nightly",node="fetch",status="ok"}': 100.0,
    'flowrt_slot_busy_seconds_total{batch="nightly",node="fetch"}': 1.0,
    'flowrt_event_loop_lag_seconds_bucket{le="0.5"}': 10.0,
    'flowrt_event_loop_lag_seconds_bucket{le="1.0"}': 10.0,
    'flowrt_event_loop_lag_seconds_bucket{le="+Inf"}': 10.0,
    'flowrt_items_total{batch="nightly",node="fetch",status="failed"}': 0.0,
    'flowrt_loop_stalls_total{node="parse"}': 0.0,
    'flowrt_telemetry_dropped_total{signal="spans",reason="queue_full"}': 0.0,
    'flowrt_worker_restarts_total{worker="w0",reason="crash"}': 0.0,
}
"""Growth of the counters per second while all is well."""

WRONG = WELL | {
    'flowrt_items_total{batch="nightly",node="fetch",status="failed"}': 100.0,
    'flowrt_items_total{batch="stuck",node="wait",status="ok"}': 0.0,
    'flowrt_item_duration_seconds_bucket{batch="nightly",node="fetch",status="ok",le="10.0"}': 0.0,
    # More than the 10 slots can be busy: on a loaded machine, the rate over 2 s is off by some per cent.
    'flowrt_slot_busy_seconds_total{batch="nightly",node="fetch"}': 15.0,
    'flowrt_event_loop_lag_seconds_bucket{le="0.5"}': 0.0,
    'flowrt_loop_stalls_total{node="parse"}': 3.0,
    'flowrt_telemetry_dropped_total{signal="spans",reason="queue_full"}': 10.0,
    'flowrt_worker_restarts_total{worker="w0",reason="crash"}': 3.0,
}

# So many items are well again that the failures are no longer 1 % even of the longest windows.
RECOVERED = WELL | {series: 1e6 for series, growth in WELL.items() if growth == 100.0}


class Process:
    """Scrape target with counters that grow as a table says.

    Args:
        growth: Growth of each counter per second.
    """

    def __init__(self, growth: dict[str, float]) -> None:
        self._lock = threading.Lock()
        self._values = dict.fromkeys(growth, 0.0)
        self._growth = growth
        self._at_s = self._started_s = self._success_s = time.time()
        self._wrong = False

    def change(self, growth: dict[str, float], *, wrong: bool) -> None:
        """Let the counters grow by another table from now on."""
        self.page()
        with self._lock:
            self._growth, self._wrong = growth, wrong

    def page(self) -> str:
        """Return the metrics page."""
        with self._lock:
            now_s = time.time()
            for series, growth in self._growth.items():
                self._values[series] += growth * (now_s - self._at_s)
            self._at_s = now_s
            if not self._wrong:
                self._success_s = now_s
            gauges = {
                'flowrt_build_info{version="1"}': 1.0,
                "process_start_time_seconds": self._started_s - 3 * TIME.length_s("1h"),
                'flowrt_batches_active{batch="stuck"}': 1.0,
                'flowrt_concurrency_limit{batch="nightly",node="fetch"}': 10.0,
                'flowrt_batch_last_success_timestamp_seconds{batch="nightly"}': self._success_s,
                'flowrt_unaccounted_items{batch="nightly"}': 2.0 if self._wrong else 0.0,
            }
            return "".join(f"{series} {value:.3f}\n" for series, value in (self._values | gauges).items())


class Inbox:
    """Webhook that keeps the last notification of each alert."""

    def __init__(self) -> None:
        self.fired: dict[str, dict[str, Any]] = {}
        self.resolved: set[str] = set()

    def take(self, notification: dict[str, Any]) -> None:
        """Take a notification of Alertmanager."""
        for alert in notification["alerts"]:
            if alert["status"] == "firing":
                self.fired[alert["fingerprint"]] = alert
                self.resolved.discard(alert["fingerprint"])
            else:
                self.resolved.add(alert["fingerprint"])

    @property
    def names(self) -> set[str]:
        """Names of the alerts that have fired."""
        return {alert["labels"]["alertname"] for alert in self.fired.values()}


@contextmanager
def serving(port: int, page: Callable[[], str], take: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Serve a page, and take what is posted, on a port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(page())

        def do_POST(self) -> None:
            take(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer("")

        def _answer(self, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def wait_until(condition: Callable[[], bool], missing: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, missing()
        time.sleep(0.1)


def is_quiet(inbox: Inbox, seconds: float) -> bool:
    """True if no alert is notified for so long; a late scrape of a loaded machine may cause one before."""
    inbox.fired.clear()
    inbox.resolved.clear()
    time.sleep(seconds)
    return inbox.names == set()


def test_every_alert_fires_and_resolves(tmp_path: Path) -> None:
    process, inbox = Process(WELL), Inbox()
    stable, flaky, webhook = free_port(), free_port(), free_port()
    objectives = objectives_file(TIME)
    interval = f"vector({round(TIME.length_s('26h'))})"
    assert interval in objectives
    servers = Servers(
        tmp_path,
        [f"127.0.0.1:{stable}", f"127.0.0.1:{flaky}"],
        scrape_s=SCRAPE_S,
        time=TIME,
        objectives=objectives.replace(interval, f"vector({MISSING_AFTER_S})"),
        webhook=f"http://127.0.0.1:{webhook}/",
    )
    with serving(webhook, str, inbox.take), serving(stable, process.page, print), servers:
        with serving(flaky, Process({}).page, print):
            scraped = "count_over_time(flowrt_build_info[2s]) > 4"
            wait_until(lambda: len(servers.prometheus.series(scraped)) == 2, lambda: "a target is not scraped")
            wait_until(lambda: is_quiet(inbox, TIME.length_s("10m")), lambda: f"fire: {inbox.names}")
            process.change(WRONG, wrong=True)
        wait_until(
            lambda: inbox.names == set(ALERTS) and inbox.resolved == set(),
            lambda: f"do not fire: {set(ALERTS) - inbox.names}, {inbox.resolved}",
        )
        process.change(RECOVERED, wrong=False)
        with serving(flaky, Process({}).page, print):
            wait_until(
                # Without a notification of its firing, an inhibited alert may have one that it is resolved.
                lambda: set(inbox.fired) <= inbox.resolved and servers.alerts() == [],
                lambda: [alert for key, alert in inbox.fired.items() if key not in inbox.resolved],
            )
    for alert in inbox.fired.values():
        for text in (alert["annotations"]["summary"], alert["annotations"]["description"]):
            assert "<no value>" not in text
            assert "{{" not in text
            assert "error" not in text.replace("error budget", "").replace("frequent error", "")
