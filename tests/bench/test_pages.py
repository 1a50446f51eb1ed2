"""Pages and charts made of the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import pages
from bench.charts import CHARTS, _noop_us, draw
from bench.pages import overhead_markdown, read_results, results_markdown
from bench.report import RESULTS

Measured = dict[str, Any]


@pytest.fixture
def results(measured: Measured, machine: dict[str, Any]) -> dict[str, Measured]:
    noop = {**measured["workloads"][0], "name": "noop", "ideal_s": 0.0, "out": {"gather": "it sleeps"}, "rounds": 3}
    about = {"machine": machine, "rounds": 3, "missing": {}}
    grown = {"items": 1_000_000, "growth_mib": 2.0, "samples_mib": [2.0], "fewer": {"10000": 0.5}}
    parts = {name: [float(place)] for place, name in enumerate(("floor", "bare", "metrics", "spans", "context"))}
    return {
        "overhead": {**measured, "missing": {}, "workloads": [{**noop, "commit": "abc", "measured_at": "noon"}]},
        "memory": {**about, "memory": {"flowrt-stream": grown}},
        "speedup": {**about, "sleep_s": 0.01, "speedup": {"floor": {"1": [1.0], "10": [9.0]}}},
        "parts": {**about, "items": 1_000, "parts_us": parts},
    }


def test_page_has_targets_and_every_table_with_its_chart(results: dict[str, Measured]) -> None:
    page = results_markdown(results)
    assert "| flowrt-stream, MB of growth over 1,000,000 items (memory) | 2.1 | ≤ 20 | 2.1 to 2.1 | met |" in page
    assert "| `gather` + `Semaphore` | – (it sleeps) | – |" in page
    assert "3 rounds; commit abc, noon." in page
    for chart in CHARTS:
        assert f"(results/{chart}.svg)" in page


@pytest.mark.parts  # matplotlib is installed for the main Python only
def test_charts_are_equal_for_equal_results(results: dict[str, Measured], tmp_path: Path) -> None:
    drawn = draw(results, tmp_path)
    assert [path.stem for path in drawn] == list(CHARTS)
    before = [path.read_text() for path in drawn]
    assert all(text.startswith("<?xml") and "</svg>" in text for text in before)
    assert [path.read_text() for path in draw(results, tmp_path)] == before


def test_readme_table_comes_from_the_results(
    results: dict[str, Measured], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"gather": "gather is not installed"}
    (tmp_path / "overhead.json").write_text(json.dumps({**results["overhead"], "missing": missing}))
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    table = overhead_markdown()
    assert "| flowrt, telemetry off | 20.00 | 20.00 to 50.00 | 0.556× | 0.40 to 0.67 | 15.00 | 0.300× | – |" in table
    delivered = "| 30.00 | 20.00 to 50.00 | 0.600× | 0.56 to 0.67 | – | – | 99.9% |"
    assert f"| flowrt, everything on, spans sent over OTLP {delivered}" in table
    assert "| `gather` + `Semaphore` | – | gather is not installed | – | – | – | – | – |" in table
    assert "no-op items at concurrency 100, medians; CPython 3.11, 2 cores of a processor, 3 rounds" in table


def test_readme_table_has_the_ratio_on_each_python(
    results: dict[str, Measured], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = results["overhead"]
    (tmp_path / "overhead.json").write_text(json.dumps(here))
    later = {**here, "machine": {**here["machine"], "python": "CPython 3.13"}}
    (noop,) = here["workloads"]
    noop = {**noop, "samples": {name: samples for name, samples in noop["samples"].items() if name != "floor"}}
    (tmp_path / "overhead-3.13.json").write_text(json.dumps({**later, "workloads": [noop]}))
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    table = overhead_markdown()
    assert "| CPU, µs | its ratio | on 3.13 | spans sent |" in table
    assert (
        "| flowrt, telemetry off | 20.00 | 20.00 to 50.00 | 0.556× | 0.40 to 0.67 | 15.00 | 0.300× | 0.300× | – |"
        in table
    )
    (floor,) = [line for line in table.splitlines() if line.startswith("| floor")]
    assert floor.endswith("| – | – |")


def test_checked_in_results_have_the_suites_order_and_charts() -> None:
    results = read_results()
    assert list(results)[:1] == ["overhead"]
    for chart, (needs, _) in CHARTS.items():
        assert (RESULTS / f"{chart}.svg").exists() == (needs in results)


def test_peer_is_drawn_by_its_ratio_to_the_baseline(results: dict[str, Measured]) -> None:
    (noop,) = results["overhead"]["workloads"]
    slower = {"nadoo": [{"wall_s": 0.5}], "aiostream": [{"wall_s": 2.0}]}  # on a machine that was ten times as busy
    results["peers"] = {**results["overhead"], "workloads": [{**noop, "samples": slower}]}
    us = _noop_us(results)
    assert us["nadoo"] == pytest.approx([50, 90, 30])
    assert us["aiostream"] == pytest.approx([200])
    page = results_markdown(results)
    assert "only the ratios compare" in page
    glance = page.partition("### Overhead in µs an item")[2].partition("###")[0].splitlines()
    assert glance[2].split("|")[2].strip() == "noop"
    assert [row.split("|")[1].strip() for row in glance if "aiostream" in row] == ["aiostream 0.8.1 `map`, ordered"]
