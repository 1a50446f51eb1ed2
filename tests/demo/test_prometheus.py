"""A real Prometheus scrapes a run of `flowrt demo`."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dashboards.generator.servers import free_port
from tests.demo.conftest import HANG_GUARD_S, RunningDemo, answers, end, get
from tests.waiting import wait_until

pytestmark = [pytest.mark.parts, pytest.mark.xdist_group("prometheus")]

ITEMS = 400
CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: flowrt
    static_configs: [{{targets: ["{target}"]}}]
"""


class Scraped:
    """A demo that has ended its batch, and the Prometheus that watched it.

    Args:
        demo: Still serving.
        output: The batch's results.
        metrics_url: The demo's `/metrics`.
        api: The Prometheus's URL.
    """

    def __init__(self, demo: RunningDemo, output: Path, metrics_url: str, api: str) -> None:
        self.demo = demo
        self.output = output
        self.metrics_url = metrics_url
        self.api = api

    def query(self, promql: str) -> dict[str, float]:
        """Return the current vector of a query: values by the series' `status`, or "" without one."""
        url = f"{self.api}/api/v1/query?{urllib.parse.urlencode({'query': promql})}"
        data = json.loads(get(url)[1])["data"]
        assert data["resultType"] == "vector"
        return {series["metric"].get("status", ""): float(series["value"][1]) for series in data["result"]}


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory, prometheus_tools: tuple[str, str]) -> Iterator[Scraped]:
    folder = tmp_path_factory.mktemp("scraped")
    demo = RunningDemo(folder, "--items", str(ITEMS), "--concurrency", "4", "--metrics-port", "0", "--serve")
    server = None
    try:
        metrics_url = demo.until("metrics ")
        port = free_port()
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(target=urllib.parse.urlsplit(metrics_url).netloc))
        with (folder / "prometheus.log").open("wb") as log:
            server = subprocess.Popen(
                [
                    prometheus_tools[0],
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )
        found = Scraped(demo, folder / "demo-output" / "airports.jsonl", metrics_url, f"http://127.0.0.1:{port}")
        wait_until(lambda: answers(f"{found.api}/-/ready"), "Prometheus is up")
        demo.until("metrics are served until Ctrl-C:")
        done = 'sum(flowrt_items_total{batch="airports"})'
        wait_until(lambda: found.query(done).get("") == ITEMS, "Prometheus has scraped every item")
        yield found
    finally:
        end(demo)
        if server is not None:
            server.terminate()
            server.wait(HANG_GUARD_S)


def test_prometheus_target_is_up(scraped: Scraped) -> None:
    assert scraped.query('up{job="flowrt"}') == {"": 1}


def test_item_counts_by_status_match_the_output(scraped: Scraped) -> None:
    lines = [json.loads(line) for line in scraped.output.read_text().splitlines()]
    counted = scraped.query('sum by (status) (flowrt_items_total{batch="airports"})')
    assert {status: count for status, count in counted.items() if count} == Counter(line["status"] for line in lines)
    assert set(counted) == {"ok", "failed", "timed_out", "cancelled", "resumed"}
    assert min(counted["ok"], counted["failed"], counted["timed_out"]) > 0


def test_inflight_gauge_rises_and_ends_at_zero(scraped: Scraped) -> None:
    (most,) = scraped.query('max_over_time(flowrt_items_inflight{batch="airports"}[5m])').values()
    assert 1 < most <= 4
    assert scraped.query('flowrt_items_inflight{batch="airports"}') == {"": 0}


def test_completed_items_grow_between_scrapes(scraped: Scraped) -> None:
    (changes,) = scraped.query('changes(sum(flowrt_items_total{batch="airports"})[5m:1s])').values()
    assert changes >= 3


def test_histogram_yields_quantiles(scraped: Scraped) -> None:
    buckets = 'sum by (le) (flowrt_item_duration_seconds_bucket{batch="airports"})'
    (median,) = scraped.query(f"histogram_quantile(0.5, {buckets})").values()
    (p99,) = scraped.query(f"histogram_quantile(0.99, {buckets})").values()
    assert 0.02 < median < 0.5 < p99  # the service takes 20 to 80 ms, and 1 to 3 s for stragglers


def test_promtool_accepts_the_metrics(scraped: Scraped, prometheus_tools: tuple[str, str]) -> None:
    page = get(scraped.metrics_url)[1]
    assert "flowrt_items_total" in page
    check = subprocess.run(
        [prometheus_tools[1], "check", "metrics"], input=page, capture_output=True, check=False, text=True
    )
    printed = check.stdout + check.stderr
    assert "flowrt_" not in printed
    assert (check.returncode, printed) == (0, "")
