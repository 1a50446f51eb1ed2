"""Draw docs/demo.svg, the terminal of a real run of `flowrt demo`: `python -m tools.picture`."""

from __future__ import annotations

import io
import re
import tempfile
from pathlib import Path
from typing import Any

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from flowrt import runtime
from flowrt._util.atomic_file import OutputFile
from flowrt.batch.progress_bar import ProgressBar
from flowrt.cli.commands.demo import opening_lines, rows_of, title_of
from flowrt.demo.airports import choose, load_airports
from flowrt.demo.job import LOG_LEVEL, Demo
from flowrt.demo.process import ServiceProcess
from flowrt.model import BatchRecord
from flowrt.reporting.summary import make_table

PICTURE = Path(__file__).parents[1] / "docs" / "demo.svg"
WIDTH = 100
# rich's template loads a font from the network. The file positions every letter, so any monospaced font will do.
TEMPLATE = re.sub(r"\s*(@font-face \{\{.*?\}\}|<!--.*?-->)", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, ", ""
)


class Snapshot(ProgressBar):
    """Invisible progress bar, of which one state is printed.

    Args:
        kept: Console for that state.
        share: Completed share of the batch at that moment, 0 to 1.
    """

    def __init__(self, kept: Console, share: float = 0.6) -> None:
        super().__init__(Console(file=io.StringIO(), force_terminal=True, width=WIDTH))
        self._kept: Console | None = kept
        self._share = share

    def _update(self, batch: BatchRecord, task: Any) -> None:
        super()._update(batch, task)
        if self._kept is not None and batch.expected and batch.completed >= self._share * batch.expected:
            self._kept.print(self._bar.get_renderable())
            self._kept = None


def draw(airports: int = 2000, concurrency: int = 50) -> str:
    """Run the demo and return its terminal as SVG.

    Args:
        airports: Number of items.
        concurrency: Maximum number of items at once.
    """
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text("$ flowrt demo", style="bold"))
    with tempfile.TemporaryDirectory() as folder, ServiceProcess() as service:
        demo = Demo(
            choose(load_airports(), airports),
            service.url,
            OutputFile(Path(folder) / "airports.jsonl", replace=True),
            concurrency=concurrency,
            serving={"metrics_port": 9464},
            instruments=(Snapshot(console),),
        )

        def started(job: Demo) -> None:
            console.print(Text("\n".join(opening_lines(job))))

        def ended(job: Demo) -> None:
            rows = [
                (label, "demo-output/airports.jsonl" if label == "output" else text) for label, text in rows_of(job)
            ]
            console.print(make_table(title_of(job), rows))

        runtime.run(demo.run(started, ended, serve=False), log_level=LOG_LEVEL)
    return console.export_svg(title="flowrt demo", code_format=TEMPLATE, unique_id="demo")


if __name__ == "__main__":
    PICTURE.write_text(draw())
