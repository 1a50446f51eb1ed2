"""The page of `--report`: from the recording, or from the totals if the recording was lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flowrt import BatchProcessor
from flowrt.cli.options.report import write_report_page
from flowrt.reporting.report import BatchReport


async def node(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    return x


def run(record: Path | None) -> BatchReport:
    async def main() -> BatchReport:
        report = BatchReport("lost")
        async with BatchProcessor(node, name="lost", record=record).batch_as_completed(range(5)) as results:
            async for result in results:
                report.add(result)
        report.batch, report.wall_time = results.batch, 0.1
        return report

    return asyncio.run(main())


@pytest.mark.parametrize("earlier", [False, True], ids=["no recording", "recording of an earlier run"])
def test_report_of_a_lost_recording_has_the_totals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], earlier: bool
) -> None:
    record, page = tmp_path / "run.parquet", tmp_path / "page.html"
    if earlier:
        run(record)
    write_report_page(str(page), str(record), "", run(None))
    text = page.read_text()
    assert "ValueError" in text
    assert "lost" in text
    assert "the recording was not written: the report has totals only" in capsys.readouterr().err


def test_report_of_a_recording_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record, page = tmp_path / "run.parquet", tmp_path / "page.html"
    write_report_page(str(page), str(record), "run.parquet", run(record))
    assert "three" in page.read_text(), "messages are in the recording only"
    assert "not written" not in capsys.readouterr().err
