"""Suites beside those of workloads, memory and batches: they run, and their figures are right."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from bench.arms import ARMS, arm
from bench.collector import collector
from bench.delivery import CASES, measure_delivery
from bench.measure import ROOT
from bench.parts import DIFFERENCES, PARTS, measure_parts, uninstrumented
from bench.prices import PRICES, measure_prices
from bench.report import differences, lines
from bench.scrape import measure_scrape
from bench.speedup import CONCURRENCIES, measure_speedup
from bench.startup import STARTS, beyond_ms, measure_startup
from flowrt.engine import outcome, worker


def quiet(_: str) -> None:
    """Report nothing."""


def text(measured: dict[str, Any]) -> str:
    return "\n".join(lines(measured))


def test_parts_are_differences_within_a_round() -> None:
    costs = {part.name: float(place) for place, part in enumerate(PARTS)}
    paces = iter([1.0] * len(PARTS) + [2.0] * len(PARTS) + [1.0] * len(PARTS))  # slow in the second round
    rounds = iter([1] * len(PARTS) + [2] * len(PARTS) + [1] * len(PARTS))
    run = lambda name, items, url: (costs[name] * next(rounds), next(paces))  # noqa: E731
    measured = measure_parts(PARTS, 3, 10, quiet, run)
    assert measured["items"] == 10_000
    assert dict(differences(measured))["hand-over"] == [costs["handed-over"] - costs["spans"]] * 3
    assert [name for name, _ in differences(measured)] == [name for name, _, _ in DIFFERENCES]
    assert "spans through the service's own provider" in text(measured)


@pytest.mark.parametrize(("module", "kind"), [(worker, worker.Worker), (outcome, outcome.Finisher)])
def test_uninstrumented_engine_lacks_only_the_instruments(module: ModuleType, kind: type) -> None:
    source = inspect.getsource(module)
    bare = uninstrumented(source)
    assert re.search(r"notify_(started|finished)", source)
    assert not re.search(r"notify_(started|finished)|\.notify\(", bare)
    assert {name for name in vars(kind) if f"def {name}(" not in bare and f"def {name}(" in source} == set()
    assert ("deliver(item)" in bare) == ("deliver(item)" in source)


@pytest.mark.parts
def test_every_part_runs() -> None:
    few = [part for part in PARTS if part.name in ("no-seam", "encoded", "own-provider", "sdk-floor", "sdk-spans")]
    measured = measure_parts(few, 1, 1_000, quiet)
    assert all(us > 0 for (us,) in measured["parts_us"].values())


@pytest.mark.parts
def test_part_with_a_line_for_each_item_logs_it() -> None:
    with collector() as url:
        done = subprocess.run(
            [sys.executable, "-m", "bench.parts", "all-lines", "100"],
            cwd=ROOT,
            env={**os.environ, "BENCH_COLLECTOR": url},
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stderr.count('"event": "item.completed"') == 2_000 + 100  # the warm-up's, too


@pytest.mark.parts
def test_every_price_is_measured() -> None:
    measured = measure_prices(PRICES, 1, 100, quiet)
    assert [us > 0 for (us,) in measured["prices_us"].values()] == [True] * len(PRICES)
    assert PRICES[0].title in text(measured)


def test_prices_are_shown_at_one_pace() -> None:
    paces = iter([1.0, 2.0, 3.0])
    measured = measure_prices(PRICES[:1], 3, 1, quiet, lambda name, calls: (10.0 * (pace := next(paces)), pace))
    assert "20.00" in text(measured)
    assert "30.00" not in text(measured)


@pytest.mark.parts
def test_speedup_is_over_real_sequential_execution(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = measure_speedup([arm("floor")], 1, quiet)
    curve = measured["speedup"]["floor"]
    assert list(curve) == [str(concurrency) for concurrency in CONCURRENCIES]
    assert curve["1"][0] < 2
    assert curve["100"][0] > 10
    assert "at 1,000" in text(measured)


def test_delivery_is_counted_at_the_collector() -> None:
    measured = measure_delivery([each for each in ARMS if each.name == "flowrt-delivered"], 1, 2_000, quiet)
    idle, slow = measured["cases"]
    assert idle["samples"]["flowrt-delivered"][0]["delivered"] == 500
    assert slow["samples"]["flowrt-delivered"][0]["delivered"] == 50
    assert slow["samples"]["flowrt-delivered"][0]["wall_s"] >= CASES[1].delay_s
    shown = text(measured)
    assert "met     spans of flowrt lost to a collector that answers at once: 0 (target <= 0)" in shown


def test_lost_span_is_reported() -> None:
    def run(*_: Any) -> dict[str, float]:
        return {"items": 1_000, "delivered": 999, "wall_s": 1.0}

    shown = text(measure_delivery([arm("flowrt-delivered")], 2, 1_000, quiet, run))
    assert "MISSED  spans of flowrt lost to a collector that answers at once: 1 (target <= 0)" in shown


def test_import_counts_at_one_pace_without_the_compiling_round() -> None:
    rounds = iter([(9.0, 9.0, 1e-6), (0.3, 0.05, 1e-6), (0.6, 0.1, 2e-6), (0.3, 0.06, 1e-6)])  # slow in the second
    run = lambda start, url: list(next(rounds))  # noqa: E731
    measured = measure_startup([start for start in STARTS if start.name == "beyond"], 3, quiet, run)
    assert beyond_ms(measured["startup_s"]) == pytest.approx([50, 50, 60])
    shown = text(measured)
    assert "met     `import flowrt` beyond its dependencies' own, in ms: 50 (target <= 150; rounds 50 to 60)" in shown
    assert "then flowrt itself" in shown
    assert "pace" not in shown


def test_import_is_not_measured_without_its_start() -> None:
    measured = measure_startup([start for start in STARTS if start.name == "python"], 1, quiet, lambda *_: [0.02])
    assert "-       `import flowrt` beyond its dependencies' own, in ms: not measured" in text(measured)


@pytest.mark.parts
def test_starts_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # or flowrt would be compiled at every start
    few = [start for start in STARTS if start.name in ("python", "beyond", "runtime")]
    measured = measure_startup(few, 1, quiet)
    (ours_ms,) = beyond_ms(measured["startup_s"])
    (theirs_s,) = measured["startup_s"]["beyond"]["what it loads of others"]
    assert 0 < ours_ms / 1e3 < theirs_s
    assert set(measured["startup_s"]["runtime"]) == {
        "enter the runtime",
        "the first batch, of one item",
        "leave it, its span sent",
    }
    assert "Python itself" in text(measured)


def test_cost_of_a_scrape_is_the_time_that_the_batch_lost() -> None:
    def run(scraped: bool, seconds: float) -> dict[str, Any]:
        assert seconds == 1.5
        return {"items_per_s": 99.0 if scraped else 100.0, "scrapes_s": [0.01] if scraped else []}

    shown = text(measure_scrape(2, 2, quiet, run))
    assert "met     a scrape with 64 nodes, in ms: 10 (target <= 50; rounds 10 to 10)" in shown
    assert "cost of a scrape every 15 s, in per cent of the batch: 0.0167" in shown


@pytest.mark.parts
def test_saturated_loop_is_scraped_from_outside() -> None:
    measured = measure_scrape(1, 4, quiet)
    assert measured["scrape"]["scrapes_s"]
    assert measured["scrape"]["with"][0] > 0
