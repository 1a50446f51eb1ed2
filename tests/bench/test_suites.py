"""The suites beside those of workloads and memory: that they run, and what is made of their figures."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from bench.arms import ARMS, arm
from bench.delivery import CASES, measure_delivery
from bench.parts import DIFFERENCES, PARTS, measure_parts, uninstrumented
from bench.prices import PRICES, measure_prices
from bench.report import differences, lines
from bench.scrape import measure_scrape
from bench.speedup import CONCURRENCIES, measure_speedup
from bench.startup import STARTS, beyond_ms, measure_startup
from flowrt.engine import worker


def quiet(_: str) -> None:
    """Say nothing."""


def told(measured: dict[str, Any]) -> str:
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
    assert "spans through the service's own provider" in told(measured)


def test_the_engine_without_instruments_has_none_of_them_and_all_else() -> None:
    source = inspect.getsource(worker)
    bare = uninstrumented(source)
    assert "notify_started" not in bare
    assert "notify_finished" not in bare
    assert ".notify(" not in bare
    assert "deliver(item)" in bare
    assert {name for name in vars(worker.Scheduler) if f"def {name}(" not in bare and f"def {name}(" in source} == set()


@pytest.mark.parts
def test_every_part_runs() -> None:
    few = [part for part in PARTS if part.name in ("no-seam", "encoded", "own-provider", "sdk-floor", "sdk-spans")]
    measured = measure_parts(few, 1, 1_000, quiet)
    assert all(us > 0 for (us,) in measured["parts_us"].values())


@pytest.mark.parts
def test_every_price_is_asked() -> None:
    measured = measure_prices(PRICES, 1, 100, quiet)
    assert [us > 0 for (us,) in measured["prices_us"].values()] == [True] * len(PRICES)
    assert PRICES[0].title in told(measured)


def test_prices_are_told_at_one_pace() -> None:
    paces = iter([1.0, 2.0, 3.0])
    measured = measure_prices(PRICES[:1], 3, 1, quiet, lambda name, calls: (10.0 * (pace := next(paces)), pace))
    assert "20.00" in told(measured)
    assert "30.00" not in told(measured)


@pytest.mark.parts
def test_speedup_is_over_real_sequential_execution(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = measure_speedup([arm("floor")], 1, quiet)
    curve = measured["speedup"]["floor"]
    assert list(curve) == [str(concurrency) for concurrency in CONCURRENCIES]
    assert curve["1"][0] < 2
    assert curve["100"][0] > 10
    assert "at 1,000" in told(measured)


def test_delivery_is_counted_at_the_collector() -> None:
    measured = measure_delivery([each for each in ARMS if each.name == "flowrt-delivered"], 1, 2_000, quiet)
    idle, slow = measured["cases"]
    assert idle["samples"]["flowrt-delivered"][0]["delivered"] == 500
    assert slow["samples"]["flowrt-delivered"][0]["delivered"] == 50
    assert slow["samples"]["flowrt-delivered"][0]["wall_s"] >= CASES[1].delay_s
    text = told(measured)
    assert "met     spans of flowrt lost to a collector that answers at once: 0 (target <= 0)" in text


def test_a_lost_span_is_told() -> None:
    def run(*_: Any) -> dict[str, float]:
        return {"items": 1_000, "delivered": 999, "wall_s": 1.0}

    text = told(measure_delivery([arm("flowrt-delivered")], 2, 1_000, quiet, run))
    assert "MISSED  spans of flowrt lost to a collector that answers at once: 1 (target <= 0)" in text


def test_an_import_is_told_at_one_pace_and_the_round_that_compiles_is_left_out() -> None:
    rounds = iter([(9.0, 9.0, 1e-6), (0.3, 0.05, 1e-6), (0.6, 0.1, 2e-6), (0.3, 0.06, 1e-6)])  # slow in the second
    run = lambda start, url: list(next(rounds))  # noqa: E731
    measured = measure_startup([start for start in STARTS if start.name == "beyond"], 3, quiet, run)
    assert beyond_ms(measured["startup_s"]) == pytest.approx([50, 50, 60])
    text = told(measured)
    assert "met     `import flowrt` beyond its dependencies' own, in ms: 50 (target <= 150; rounds 50 to 60)" in text
    assert "then flowrt itself" in text
    assert "pace" not in text


def test_without_that_start_the_import_is_not_measured() -> None:
    measured = measure_startup([start for start in STARTS if start.name == "python"], 1, quiet, lambda *_: [0.02])
    assert "-       `import flowrt` beyond its dependencies' own, in ms: not measured" in told(measured)


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
    assert "Python itself" in told(measured)


def test_a_scrape_s_price_is_the_time_that_the_batch_lost() -> None:
    def run(scraped: bool, seconds: float) -> dict[str, Any]:
        assert seconds == 1.5
        return {"items_per_s": 99.0 if scraped else 100.0, "scrapes_s": [0.01] if scraped else []}

    text = told(measure_scrape(2, 2, quiet, run))
    assert "met     a scrape with 64 nodes, in ms: 10 (target <= 50; rounds 10 to 10)" in text
    assert "cost of a scrape every 15 s, in per cent of the batch: 0.0167" in text


@pytest.mark.parts
def test_a_saturated_loop_is_scraped_from_outside() -> None:
    measured = measure_scrape(1, 4, quiet)
    assert measured["scrape"]["scrapes_s"]
    assert measured["scrape"]["with"][0] > 0
