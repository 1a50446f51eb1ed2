"""`flowrt demo` as a separate process."""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flowrt.batch.speedup_sample import places_to_sample
from flowrt.cli.commands import demo as command
from flowrt.cli.main import main
from flowrt.demo.airports import Atlas, choose, load_airports
from flowrt.demo.nearest import Nearest
from flowrt.demo.process import ServiceProcess
from flowrt.demo.service import plan_of
from flowrt.errors import FlowrtError
from tests.demo.conftest import Start, answers, get
from tests.demo.test_picture import shown_in_picture
from tests.waiting import wait_until

ITEMS = 150
OUTPUT = Path("demo-output") / "airports.jsonl"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_airport_has_a_line_and_fails_only_by_plan(start: Start, tmp_path: Path) -> None:
    demo = start("--items", str(ITEMS), "--metrics-port", "0")
    service = demo.until("service ")
    assert demo.end() == 0

    airports = choose(load_airports(), ITEMS)
    lines = {line["index"]: line for line in read(tmp_path / OUTPUT)}
    assert sorted(lines) == list(range(ITEMS))
    expected = {}
    for index, airport in enumerate(airports):
        plan = plan_of(airport.iata)
        late = plan.latency_s > 2  # the item_timeout
        expected[index] = "timed_out" if late else "failed" if plan.status == 503 else "ok"
    assert {index: line["status"] for index, line in lines.items()} == expected
    assert set(expected.values()) == {"ok", "failed", "timed_out"}
    for index, line in lines.items():
        assert list(line) == [
            "index",
            "success",
            "status",
            "output",
            "error",
            "error_type",
            "attempts",
            "execution_time",
        ]
        error_type = {"ok": None, "failed": "ServiceError", "timed_out": "TimeoutError"}[expected[index]]
        assert (line["success"], line["error_type"], line["attempts"]) == (error_type is None, error_type, 1)
        if line["success"]:
            airport = airports[index]
            assert line["output"]["iata"] == airport.iata
            assert line["output"]["elevation_m"] == airport.elevation_m
            assert line["output"]["nearest"]["iata"] != airport.iata
    assert list((tmp_path / OUTPUT).parent.iterdir()) == [tmp_path / OUTPUT]  # no partial file is left
    assert not answers(service)

    statuses = list(expected.values())
    assert demo.row("items") == str(ITEMS)
    assert demo.row("ok") == str(statuses.count("ok"))
    assert demo.row("  ServiceError") == str(statuses.count("failed"))
    assert demo.row("  TimeoutError") == str(statuses.count("timed_out"))
    for label in ("p50", "p95", "p99", "throughput"):
        assert demo.row(label)
    assert demo.row("output") == str(OUTPUT)


def test_speedup_has_an_interval_measured_on_the_same_items(start: Start) -> None:
    demo = start("--items", "60", "--concurrency", "5", "--metrics-port", "0")
    assert demo.end() == 0
    measured, low, high = (
        float(part.strip("(x)")) for part in demo.row("speedup, measured").split() if part.endswith(("x", "x)"))
    )
    claimed = float(demo.row("speedup, claimed").split("x")[0])
    assert 1 < low <= measured <= high
    assert 1 < claimed <= 5
    # items do not delay each other here, so both figures agree; a slow machine slows both
    assert measured == pytest.approx(claimed, rel=0.5)
    assert "60 x " in demo.row("  estimate")
    assert demo.row("  estimate").endswith("less what the batch added to the sample")
    labels = re.findall(r"^ {0,2}(\S(?: ?\S)*)  +\S", demo.text, re.MULTILINE)
    assert {"live", "items", "speedup, measured", "estimate"} <= set(labels)
    shown = f"{shown_in_picture()} overstated"  # a row that a busy machine adds
    missing = [label for label in labels if label not in shown]
    assert not missing, "docs/demo.svg shows an older demo: python -m tools.picture"


def test_processes_add_a_node_that_computes_and_its_speedup(start: Start) -> None:
    demo = start("--items", "60", "--metrics-port", "0", "--executor", "processes", "--workers", "2")
    assert demo.end() == 0
    assert re.match(r"[\d.]+x with 2 processes \([\d.]+ s in one, [\d.]+ s\)$", demo.row("nearest airports"))


def test_nearest_airport_is_the_one_that_the_atlas_finds() -> None:
    airports = choose(load_airports(), 100)
    atlas, node = Atlas({each.iata: each for each in airports}), Nearest(airports)
    for place in range(0, 100, 7):
        _, nearest, kilometres = node(place)
        found = atlas.nearest(airports[place])
        assert found is not None
        assert nearest == found[0].iata
        assert kilometres == pytest.approx(found[1], abs=0.1)


def test_shown_sample_time_is_that_of_the_sampled_items(start: Start) -> None:
    demo = start("--items", "60", "--metrics-port", "0")
    assert demo.end() == 0
    said = re.match(r"40 of the items one by one, mean ([\d.]+) ms \+/- [\d.]+ ms$", demo.row("  sample"))
    assert said, demo.row("  sample")
    airports = choose(load_airports(), 60)
    planned = [min(2.0, plan_of(airports[place].iata).latency_s) for place in places_to_sample(60, 40)]
    # not faster than the service, and far below 1.5 times that even on a slow machine
    assert sum(planned) / 40 - 0.001 <= float(said[1]) / 1e3 <= 3 * sum(planned) / 40


def test_traces_carry_the_demos_service_name(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
            demo = start("--items", "5", "--metrics-port", "0")
            assert demo.end() == 0
        finally:
            server.shutdown()
    assert any(b"flowrt-demo" in body for body in bodies), len(bodies)


def test_serve_keeps_metrics_and_health_up_until_ctrl_c(start: Start, tmp_path: Path) -> None:
    demo = start("--items", "120", "--concurrency", "4", "--metrics-port", "0", "--serve")
    service, metrics, health = demo.until("service "), demo.until("metrics "), demo.until("health ")
    assert answers(service)

    def value(series: str) -> float:
        lines = get(metrics)[1].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))

    wait_until(lambda: value('flowrt_items_inflight{batch="airports"') > 1, "several items are in flight")
    assert demo.until("metrics are served until Ctrl-C:") == metrics
    assert value('flowrt_items_total{batch="airports"') == 120
    assert get(health) == (200, "ok\n")
    assert len(read(tmp_path / OUTPUT)) == 120

    assert demo.stop(signal.SIGINT) == 0
    assert not answers(metrics)
    assert not answers(service)


def test_port_in_use_is_reported_and_replaced_by_a_free_one(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        demo = start("--items", "5", "--metrics-port", str(port))
        assert demo.until(f"port {port} is in use: metrics are on port ").split()[0] in demo.until("metrics ")
        assert demo.end() == 0


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_keeps_finished_items_and_stops_the_service(
    start: Start, tmp_path: Path, signum: int, code: int
) -> None:
    demo = start("--items", "400", "--concurrency", "4", "--metrics-port", "0")
    service = demo.until("service ")
    partial = tmp_path / f"{OUTPUT}.partial"
    metrics = demo.until("metrics ")

    def running() -> bool:
        ended = r'flowrt_items_total\{batch="airports",node="enrich",status="ok"\} [1-9]'
        return re.search(ended, get(metrics)[1]) is not None

    wait_until(running, "items have ended")
    assert demo.stop(signum) == code
    assert not answers(service)
    assert not (tmp_path / OUTPUT).exists()
    assert {"ok", "cancelled"} <= {line["status"] for line in read(partial)}
    assert f"flowrt: not complete: finished items are in {OUTPUT}.partial" in demo.text


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_killed_demo_leaves_no_service_process(start: Start, signum: int) -> None:
    demo = start("--metrics-port", "0")
    service = demo.until("service ")
    assert answers(service)
    assert demo.stop(signum) in (143, -signal.SIGKILL)
    wait_until(lambda: not answers(service), "the service has ended")


def test_exception_leaves_no_service_process() -> None:
    with pytest.raises(ZeroDivisionError), ServiceProcess() as service:  # noqa: PT012
        assert answers(service.url)
        _ = 1 / 0
    assert not answers(service.url)


def test_service_that_does_not_start_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        pytest.raises(FlowrtError, match="the demo's service did not start: exit code 1"),
        ServiceProcess(),
    ):
        pass


def test_demo_on_a_full_disk_exits_5_with_one_line(start: Start, tmp_path: Path) -> None:
    demo = start(
        "--items",
        "60",
        "--metrics-port",
        "0",
        preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
    )
    assert demo.end() == 5
    assert f"flowrt: {OUTPUT}.partial cannot be written: File too large\n" in demo.text
    assert "Traceback" not in demo.text
    assert not (tmp_path / OUTPUT).exists()


def test_quiet_demo_prints_nothing_and_writes_the_output(start: Start, tmp_path: Path) -> None:
    demo = start("--items", "7", "--metrics-port", "0", "--quiet", "-o", "deep/down.jsonl")
    assert demo.end() == 0
    assert demo.text == ""
    assert len(read(tmp_path / "deep" / "down.jsonl")) == 7


def test_default_output_is_replaced_but_no_other_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "demo-output").mkdir()
    (tmp_path / OUTPUT).write_text("an earlier run's")
    (tmp_path / "mine.jsonl").write_text("mine")
    assert start("--items", "3", "--metrics-port", "0").end() == 0
    assert len(read(tmp_path / OUTPUT)) == 3

    refused = start("--items", "3", "--metrics-port", "0", "-o", "mine.jsonl")
    assert refused.end() == 2
    assert refused.text == "flowrt: output mine.jsonl exists: name another file, or remove it\n"
    assert (tmp_path / "mine.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--items", "0"], "Invalid value for '--items': 0 is not in the range x>=1"),
        (["--items", "10000"], "flowrt: there are 7,"),
        (["--concurrency", "-1"], "Invalid value for '--concurrency'"),
        (["--metrics-port", "65536"], "Invalid value for '--metrics-port'"),
        (["-o", "."], "flowrt: output . is a folder: name a file"),
    ],
)
def test_demo_usage_error_exits_2_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["demo", *args])
    assert result.exit_code == 2
    assert expected in result.output
    assert list(tmp_path.iterdir()) == []


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 2
    assert result.output == "flowrt: flowrt demo needs the package 'aiohttp': pip install 'flowrt[demo]'\n"


def test_demo_help_explains_the_intended_failures() -> None:
    result = CliRunner().invoke(main, ["demo", "--help"])
    assert result.exit_code == 0
    assert "0 complete, although items fail by design" in result.output
