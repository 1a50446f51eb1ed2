"""The command `flowrt demo`: a complete run on real data, with everything that flowrt shows about it."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click

from flowrt.cli.exit_codes import CommandError
from flowrt.cli.options.param_types import count_option
from flowrt.cli.options.serving import serving_options
from flowrt.cli.options.telemetry import ExportMonitor, service_name
from flowrt.errors import MissingExtraError, one_line
from flowrt.telemetry.options import Serving

if TYPE_CHECKING:
    from flowrt.demo.job import Demo

__all__ = ["demo", "opening_lines", "rows_of", "title_of"]

_OUTPUT: Final = "demo-output/airports.jsonl"
_DISK_FAILED: Final = 5

_EXAMPLES: Final = f"""\b
Examples:
  flowrt demo
  flowrt demo --serve
  flowrt demo --executor processes
  flowrt demo --items 500 --concurrency 10 -o enriched.jsonl --quiet

\b
The service answers 503 for 2 % of the airports and takes 1 to 3 s for 1 %, where 2 s are allowed: some items
fail. They are the same in every run, because their codes decide.

\b
The measured speedup compares the batch with a plain loop over 40 of the same items, which runs first. So
small a sample rarely contains its share of stragglers, and its mean alone would mislead. The loop's time for all
items is therefore estimated: their time in the batch, less the time that the batch added to the sampled items.
The claimed speedup, the usual figure, is the sum of the execution times divided by the wall time.

\b
With --executor processes a second node searches for the airport that is nearest to each, by comparing all pairs:
first in one worker process, then in several. The summary has the speedup.

\b
Each line of the output is an object as written by `flowrt run`. The next run replaces {_OUTPUT},
but no other FILE.

\b
Exit codes: 0 complete, although items fail by design; 2 bad usage, 5 the disk failed, 129, 130 and 143
interrupted before the batch was complete.
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@count_option("--items", 2000, "Number of airports.")
@count_option("--concurrency", 50, "Maximum number of items at once.")
@click.option(
    "--executor",
    type=click.Choice(["loop", "processes"]),
    default="loop",
    show_default=True,
    help="processes adds a node that computes, and measures the speedup over one process.",
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Worker processes; one per core by default.")
@serving_options(port=9464)
@click.option(
    "-o", "--output", default=_OUTPUT, show_default=True, metavar="FILE", help="JSONL file; its folder is created."
)
@click.option("--serve", is_flag=True, help="Keep serving after the batch, until Ctrl-C.")
@click.option("--quiet", is_flag=True, help="Print neither progress nor summary.")
def demo(
    items: int,
    concurrency: int,
    executor: str,
    workers: int | None,
    serving: Serving,
    output: str,
    serve: bool,
    quiet: bool,
) -> None:
    """Enrich real airports through a local HTTP service in another process.

    Shows progress, live metrics, the output file, the summary and the measured speedup over a sequential sample
    of the same items. Takes some seconds.
    """
    # heavy imports are here, so that `flowrt demo --help` stays fast
    if importlib.util.find_spec("aiohttp") is None:
        raise MissingExtraError("flowrt demo", "aiohttp", "demo")
    from flowrt import runtime  # noqa: PLC0415
    from flowrt._util.atomic_file import DiskFailedError, OutputFile  # noqa: PLC0415
    from flowrt._util.cores import usable_cores  # noqa: PLC0415
    from flowrt.demo.airports import choose, load_airports  # noqa: PLC0415
    from flowrt.demo.job import LOG_LEVEL, Demo  # noqa: PLC0415
    from flowrt.demo.process import ServiceProcess  # noqa: PLC0415

    if workers is not None and executor != "processes":
        raise CommandError(f"--workers {workers} needs --executor processes")
    compute = None
    if executor == "processes":
        from flowrt.demo.nearest import measure_speedup  # noqa: PLC0415

        compute = partial(measure_speedup, workers=workers or usable_cores())
    airports = choose(load_airports(), items)
    file = OutputFile(Path(output), replace=output == _OUTPUT)
    try:
        with ServiceProcess() as service:
            job = Demo(
                airports,
                service.url,
                file,
                concurrency=concurrency,
                serving=serving,
                progress=not quiet and _can_draw_progress(),
                compute=compute,
            )
            show = _Silent() if quiet else _Show(serve=serve)
            try:
                with ExportMonitor().watch(printing=True):
                    runtime.run(
                        job.run(show.started, show.ended, serve=serve),
                        service_name=service_name(None, "flowrt-demo"),
                        log_level=LOG_LEVEL,
                        on_interrupt="return",
                    )
            except SystemExit:
                if not job.serving:
                    raise
    except DiskFailedError as exc:
        _say(str(exc))
        raise SystemExit(_DISK_FAILED) from exc
    finally:
        file.close(complete=False)


class _Silent:
    """Display of `--quiet`: prints nothing."""

    def started(self, job: Demo) -> None:
        """React to the endpoints being up."""

    def ended(self, job: Demo) -> None:
        """React to the end of the batch."""


class _Show(_Silent):
    """Display on stderr."""

    def __init__(self, *, serve: bool) -> None:
        self._serve = serve

    def started(self, job: Demo) -> None:
        """Print what runs, and the URLs."""
        click.echo("\n".join(opening_lines(job)), err=True)

    def ended(self, job: Demo) -> None:
        """Print the summary."""
        from flowrt.reporting.summary import print_rows  # noqa: PLC0415  # heavy

        print_rows(title_of(job), rows_of(job))
        if not job.complete:
            _say(f"not complete: finished items are in {job.output.partial}")
        elif self._serve:
            click.echo(f"metrics are served until Ctrl-C: {job.metrics_url}", err=True)


def opening_lines(job: Demo) -> list[str]:
    """Return the lines printed before the first item.

    Args:
        job: The demo, with its endpoints up.
    """
    url = urlsplit(job.metrics_url or "")
    lines = [
        f"flowrt demo: {len(job.items):,} airports, first a sample one by one, then all, {job.concurrency} at once",
        f"service  {job.service_url}/airports/{job.items[0]['iata']}",
        f"live     {url._replace(path='/').geturl()}",
        f"metrics  {url.geturl()}",
        f"health   {url._replace(path='/healthz').geturl()}",
    ]
    if job.metrics_port not in (0, url.port):
        lines.insert(1, f"port {job.metrics_port} is in use: metrics are on port {url.port}")
    return lines


def title_of(job: Demo) -> str:
    """Return the title of the summary.

    Args:
        job: The demo, with its batch finished.
    """
    return f"{job.report.name}, {job.concurrency} at once"


def rows_of(job: Demo) -> list[tuple[str, str]]:
    """Return the summary as pairs of a label and a text.

    Args:
        job: The demo, with its batch finished.
    """
    from flowrt.reporting.summary import summary_rows  # noqa: PLC0415

    rows = summary_rows(job.report)
    if job.computed is not None:
        rows.append(("nearest airports", str(job.computed)))
    if job.complete:
        rows.append(("output", str(job.output.path)))
    return rows


def _say(message: str) -> None:
    click.echo(f"flowrt: {one_line(message)}", err=True)


def _can_draw_progress() -> bool:
    """True if stderr is a terminal and rich is installed."""
    return sys.stderr is not None and sys.stderr.isatty() and importlib.util.find_spec("rich") is not None
