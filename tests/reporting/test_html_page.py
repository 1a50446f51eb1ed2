"""HTML report: self-contained, and no text in it can run anything."""

from __future__ import annotations

import json
import math
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from bench.report_page import write_recording
from flowrt import BatchProcessor
from flowrt.attribution.speedup import SequentialEstimate, speedup_by_sample
from flowrt.recording.command import command_line
from flowrt.recording.parquet import read_recording
from flowrt.reporting.attempts import Attempts
from flowrt.reporting.figures import Detail, detail_of
from flowrt.reporting.from_output import detail_of_lines
from flowrt.reporting.html_page import page_of
from tests.conftest import Run

from .conftest import HOSTILE


def outside_of_scripts(page: str) -> str:
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


def test_hostile_text_is_escaped(detail: Detail) -> None:
    page = page_of(detail)
    assert "onerror=" in page, "the text is shown"
    assert "<img" not in outside_of_scripts(page)
    assert page.count("</script>") == 3, "the data's and the two scripts' own"


def test_hostile_values_of_a_recording_are_escaped(detail: Detail) -> None:
    detail.slowest[0]["attempts"] = HOSTILE
    detail.causes[0]["http_status"] = HOSTILE
    detail.causes[0]["examples"][0]["attempt"] = HOSTILE
    page = page_of(detail)
    assert "<img" not in outside_of_scripts(page)
    assert page.count("</script>") == 3, "the data's and the two scripts' own"


def test_page_loads_nothing_from_the_network(detail: Detail) -> None:
    page = outside_of_scripts(page_of(detail))
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "default-src 'none'" in unescape(page)
    assert "unsafe-eval" not in page
    assert "script-src 'unsafe-inline'" not in unescape(page)


def section(page: str, title: str) -> str:
    return page.partition(f"<h2>{title}</h2>")[2].partition("</section>")[0]


def test_causes_come_before_the_charts(detail: Detail) -> None:
    page = outside_of_scripts(page_of(detail))
    heads = re.findall(r"<h2>(.*?)</h2>", page)
    assert heads.index("What failed, by cause") < heads.index("Throughput")
    assert heads[-1] == "How it was run"


def test_page_names_command_date_and_settings(detail: Detail) -> None:
    detail.command = "flowrt run crawl:fetch urls.jsonl"
    run = section(page_of(detail), "How it was run")
    assert "flowrt run crawl:fetch urls.jsonl" in run
    assert re.search(r"<dt>started</dt><dd>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC</dd>", run)
    assert "<dt>max concurrency</dt><dd><code>4</code></dd>" in run
    assert "None" not in run
    assert "null" not in run.replace("&quot;", "").partition("<dt>retry</dt>")[0]


def test_recording_knows_its_command(detail: Detail) -> None:
    assert detail.command
    assert detail.command == command_line()


def test_traces_are_links_if_there_is_a_template(detail: Detail) -> None:
    detail.slowest[0]["trace_id"] = f"ab{HOSTILE}"
    page = page_of(detail, "https://jaeger.example.com/trace/{trace_id}?a=1&b=2")
    link = 'href="https://jaeger.example.com/trace/ab%3C%2Fscript%3E'
    assert link in section(page, "Slowest items")
    assert "?a=1&amp;b=2" in page
    assert "<img" not in outside_of_scripts(page)
    assert "href=" not in section(page_of(detail), "Slowest items")
    with pytest.raises(ValueError, match="trace_url must be an http or https URL"):
        page_of(detail, "javascript:{trace_id}")


def test_output_file_has_a_page_without_empty_columns(tmp_path: Path) -> None:
    lines = [
        {"index": i, "success": i % 10 > 0, "status": "ok" if i % 10 else "failed", "output": i}
        | {"error": None if i % 10 else f"no {i}", "error_type": None if i % 10 else "ValueError"}
        | {"attempts": 1 + (i == 5), "execution_time": 0.01 * (i + 1)}
        for i in range(50)
    ]
    path = tmp_path / "out.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    detail = detail_of_lines(path)
    page = page_of(detail)
    heads = re.findall(r"<th[^e>]*>(.*?)</th>", section(page, "Slowest items"))
    assert heads == ["item", "last attempt", "attempts", "ended"]
    assert "Distribution of service times" in page
    assert 'class="share"' in section(page, "What failed, by cause")
    header = page.partition("<header>")[2].partition("</header>")[0]
    assert header.count(">out.jsonl") == 1, "the name is no subtitle of itself"


def test_speedup_from_one_sample_has_no_interval(detail: Detail) -> None:
    estimate = SequentialEstimate(1, 1.0, math.inf, 1.0, math.inf, 20)
    detail.speedup = speedup_by_sample(40.0, 10.0, estimate).as_dict()
    tiles = page_of(detail).partition('<dl class="tiles">')[2].partition("</dl>")[0]
    assert "2.0×" in tiles
    assert "no interval from a sample of 1" in tiles
    assert "inf" not in tiles


def test_lone_surrogate_in_an_error_is_replaced(run_virtual: Run, tmp_path: Path) -> None:
    async def node(x: int) -> int:
        raise ValueError("\ud800 \x00 \u2028")

    path = tmp_path / "run.parquet"
    results = run_virtual(BatchProcessor(node, 2, record=path).batch([1]))
    meta, table = read_recording(path)
    assert b"ValueError" in page_of(detail_of(meta, Attempts.of_table(table))).encode()
    assert b"ValueError" in results.report._repr_html_().encode()
    results.report.save(tmp_path / "page.html")
    assert "ValueError" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_page_of_100_000_items_is_small(tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    write_recording(path, 100_000)
    assert path.stat().st_size / 100_000 <= 24
    meta, table = read_recording(path)
    assert len(page_of(detail_of(meta, Attempts.of_table(table)))) < 5_000_000


@pytest.mark.parts
@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_browser_draws_the_charts_and_loads_nothing(detail: Detail, tmp_path: Path, scheme: Any, width: int) -> None:
    from tools.browser import chromium  # installed for the main Python only

    file = tmp_path / "page.html"
    file.write_text(page_of(detail))
    with chromium() as browser:  # occupies the thread's loop while it is open
        assert_drawn(browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}), file, width)


def assert_drawn(context: Any, file: Path, width: int) -> None:
    page = context.new_page()
    page.set_default_timeout(90_000)
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    try:
        page.goto(file.as_uri())
        page.wait_for_function(
            "window.Bokeh && Bokeh.documents.length && [...document.querySelectorAll('.plot')]"
            ".every(plot => plot.firstElementChild && plot.firstElementChild.offsetHeight > 100)"
        )
        assert requests == [file.as_uri()]
        assert errors == []
        assert page.title() != "owned"
        assert page.locator("img").count() == 0
        assert HOSTILE[:20] in page.locator("h1").inner_text()
        assert page.locator(".plot").count() == 6
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
        before = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.click("#theme")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
        assert errors == []
    finally:
        context.close()
