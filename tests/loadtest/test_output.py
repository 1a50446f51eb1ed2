"""Conclusions and page of a load test."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from flowrt.loadtest import output
from flowrt.loadtest.charts import charts_of, ticks
from flowrt.loadtest.html_page import page_of
from flowrt.loadtest.measurement import Latencies, Measurement
from flowrt.loadtest.output import conclusions
from flowrt.loadtest.plan import LatencyBudget, Plan
from flowrt.loadtest.run import Run


def measured(setting: float, rate: float, failed: int = 0) -> Measurement:
    latencies = Latencies()
    for ms in range(10, 60):
        latencies.add(ms / 1_000)
    slices = [rate * 0.98, rate, rate * 1.02]
    made = Measurement(setting, ok=1_000, failed=failed, slices=slices, pass_rates=[rate], pass_lengths_s=[3.0])
    made.latencies.merge(latencies)
    made.latencies_by_pass.append(latencies)
    return made


def run_of(rates: dict[int, float], failed: int = 0, **plan: Any) -> Run:
    run = Run(Plan(concurrencies=tuple(rates), **plan))
    for setting, rate in rates.items():
        run.add(measured(setting, rate, failed))
    return run


SCALING = {1: 10.0, 2: 19.5, 4: 36.0, 8: 60.0, 16: 80.0}


def test_badly_fitting_law_has_no_knee_and_says_how_far_off_it_is() -> None:
    (line,) = [line for line in conclusions(run_of({1: 10, 2: 40, 4: 10, 8: 60, 16: 5})) if "knee" in line]
    assert re.fullmatch(r"No knee: the model fits badly \(\d+ % off\)\. Try more settings\.", line)


def test_three_settings_have_no_knee() -> None:
    (line,) = [line for line in conclusions(run_of({1: 10, 2: 19, 4: 30})) if "knee" in line]
    assert line == "No knee: 3 settings fit any model. Try more settings."


def test_budget_of_several_settings_is_what_load_adds() -> None:
    first = next(iter(conclusions(run_of(SCALING))))
    assert first.startswith(
        "best: 16 at once gives 80.0 items a second within the budget (load makes at most 1.00% fail)"
    )
    assert "(at most 1.00% failed)" in next(iter(conclusions(run_of({4: 30}))))


def test_node_that_computes_gets_processes_as_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "usable_cores", lambda: 2)
    run = run_of({4: 30})
    run.measurements[4].cpu_s, run.measurements[4].wall_s, run.measurements[4].items = 2.9, 3.0, 90
    advice = "computing: 4 at once kept 1.0 cores busy: do less per item"
    assert f"{advice}, or use --executor processes, up to 1.9 times as fast on 2 cores" in conclusions(run)
    run.in_process = False
    assert not [line for line in conclusions(run) if "computing" in line]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1, 20, [1, 2, 5, 10, 20]), (3, 4, [2, 5]), (1, 900_000, [1, 10, 100, 1_000, 10_000, 100_000])],
)
def test_ticks_are_round_and_few(low: float, high: float, expected: list[float]) -> None:
    within = [tick for tick in ticks(low, high) if low / 2 <= tick <= high * 2]
    assert [tick for tick in within if tick in expected] == expected
    assert len(within) <= len(expected) + 2


def test_page_names_command_date_and_machine() -> None:
    page = page_of(run_of(SCALING), "jobs:node", "in.jsonl", command="flowrt bench jobs:node in.jsonl")
    text = page.split("</main>")[0]
    assert "<pre><code>flowrt bench jobs:node in.jsonl</code></pre>" in text
    assert re.search(r"<span>20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ</span>", text)
    assert "cores</span>" in text
    assert "CPython" in text


def legends(chart: Any) -> set[str]:
    return {item.label.value for legend in chart.legend for item in legend.items}


def test_charts_mark_best_knee_and_budget() -> None:
    run = run_of(SCALING, failed=50, latency_budget=LatencyBudget(0.2, 95))
    charts = charts_of(run)
    law = run.law
    assert law is not None
    assert law.trusted
    for name in ("throughput", "latency", "failures"):
        assert {"best: 16", f"knee: {law.knee:.3g}"} <= legends(charts[name]), name
    assert "budget: p95 ≤ 200 ms" in legends(charts["latency"])
    assert "budget: 5.8 %" in legends(charts["failures"])


def test_failure_chart_is_scaled_to_the_data() -> None:
    few, many = (charts_of(run_of(SCALING, failed=failed))["failures"] for failed in (10, 500))
    assert few.y_range.end < 4
    assert 30 < many.y_range.end < 60
    assert "failures" not in charts_of(run_of(SCALING))


def test_both_axes_of_the_charts_are_logarithmic() -> None:
    charts = charts_of(run_of(SCALING))
    for chart in charts.values():
        assert {type(chart.x_scale).__name__, type(chart.y_scale).__name__} == {"LogScale"}
    assert charts["throughput"].yaxis[0].ticker.ticks == [10.0, 20.0, 50.0, 100.0, 200.0, 500.0]


@pytest.mark.parts
@pytest.mark.xdist_group("browser")
def test_browser_draws_every_chart_without_an_error(tmp_path: Path) -> None:
    from tools.browser import chromium  # installed for the main Python only

    file = tmp_path / "run.html"
    file.write_text(page_of(run_of(SCALING, failed=20, latency_budget=LatencyBudget(0.2, 95)), "jobs:node", "in.jsonl"))
    errors: list[str] = []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1_000, "height": 900})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(file.as_uri())
        page.wait_for_function("document.querySelectorAll('.plot .bk-Figure').length === 4", timeout=30_000)
        heights = page.evaluate("[...document.querySelectorAll('.plot')].map(each => each.offsetHeight)")
    assert errors == []
    assert min(heights) >= 250


def failing() -> Run:
    run = Run(Plan(concurrencies=(1, 2), latency_budget=LatencyBudget(0.2, 95)))
    run.add(Measurement(1, failed=20, outcome="failing"))
    return run


def over_rates() -> Run:
    run = Run(Plan(arrival_rates=(10.0, 20.0), latency_budget=LatencyBudget(0.2, 95)))
    for rate in (10.0, 20.0):
        run.add(measured(rate, rate))
    return run


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(run_of({4: 30.0}, failed=2), id="a single setting"),
        pytest.param(failing(), id="failures alone"),
        pytest.param(Run(Plan(latency_budget=LatencyBudget(0.2, 95))), id="nothing measured"),
        pytest.param(over_rates(), id="an open loop"),
    ],
)
def test_page_of_an_unusual_run_has_its_conclusions(run: Run) -> None:
    page = page_of(run, "jobs:node", "in.jsonl")
    assert next(iter(conclusions(run))).split(" (")[0] in page
