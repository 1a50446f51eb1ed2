"""`flowrt demo`: the main job on real data, with everything that flowrt shows about it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click

from flowrt.cli.options.serving import serving_options
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
  flowrt demo --items 500 --concurrency 10 -o enriched.jsonl --quiet

\b
2 % of the airports are answered 503 and 1 % after 1 to 3 s, where 2 s are allowed, so some items fail.
The same ones each time: they are picked by their codes.

\b
The measured speedup compares the batch with a plain loop over 40 of the same items, run first. So few
seldom hold their share of stragglers, so their mean alone misleads: the loop's time for all items is what
they took in the batch, less what being in the batch added to the sampled ones. The claimed speedup, the
usual figure, is the sum of the execution times over the wall time.

\b
Each line of the output is an object as `flowrt run` writes it. {_OUTPUT}
is replaced by the next run, another FILE is not.

\b
Exit codes: 0 the batch is complete, though items failed, which they do by design; 2 bad usage, 5 the disk
failed, 130 and 143 interrupted before it was complete.
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@click.option(
    "--items", type=click.IntRange(min=1), default=2000, show_default=True, metavar="N", help="How many airports."
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    metavar="N",
    help="How many may run at once.",
)
@serving_options(port=9464)
@click.option(
    "-o", "--output", default=_OUTPUT, show_default=True, metavar="FILE", help="A JSONL file; its folder is made."
)
@click.option("--serve", is_flag=True, help="Keep the endpoints up after the batch, until Ctrl-C.")
@click.option("--quiet", is_flag=True, help="Neither progress nor summary.")
def demo(items: int, concurrency: int, serving: Serving, output: str, serve: bool, quiet: bool) -> None:
    """Enrich real airports through a local HTTP service in another process.

    Shows progress, live metrics, the output file, the summary, and the speedup against a measured sequential sample
    of the same items. Takes some seconds.
    """
    # what is heavy is imported here, so that `flowrt demo --help` is quick
    if importlib.util.find_spec("aiohttp") is None:
        raise MissingExtraError("flowrt demo", "aiohttp", "demo")
    from flowrt import runtime  # noqa: PLC0415
    from flowrt._util.atomic_file import DiskFailedError, OutputFile  # noqa: PLC0415
    from flowrt.demo.airports import choose, load_airports  # noqa: PLC0415
    from flowrt.demo.job import LOG_LEVEL, Demo  # noqa: PLC0415
    from flowrt.demo.process import ServiceProcess  # noqa: PLC0415

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
                progress=not quiet and _can_draw(),
            )
            show = _Nothing() if quiet else _Show(serve=serve)
            try:
                runtime.run(
                    job.run(show.started, show.ended, serve=serve), service_name="flowrt-demo", log_level=LOG_LEVEL
                )
            except SystemExit:
                if not job.serving:
                    raise
    except DiskFailedError as exc:
        _say(str(exc))
        raise SystemExit(_DISK_FAILED) from exc
    finally:
        file.close(complete=False)


class _Nothing:
    """Says nothing."""

    def started(self, job: Demo) -> None:
        """The endpoints are up."""

    def ended(self, job: Demo) -> None:
        """The batch is over."""


class _Show(_Nothing):
    """Says on stderr what there is to see."""

    def __init__(self, *, serve: bool) -> None:
        self._serve = serve

    def started(self, job: Demo) -> None:
        """Name what is running, and the URLs."""
        click.echo("\n".join(opening_lines(job)), err=True)

    def ended(self, job: Demo) -> None:
        """Show the summary."""
        from flowrt.reporting.summary import print_rows  # noqa: PLC0415  # beside the rest that is heavy

        print_rows(title_of(job), rows_of(job))
        if not job.complete:
            _say(f"not complete: what finished is in {job.output.partial}")
        elif self._serve:
            click.echo(f"metrics are served until Ctrl-C: {job.metrics_url}", err=True)


def opening_lines(job: Demo) -> list[str]:
    """What is said before the first item.

    Args:
        job: Its endpoints are up.
    """
    url = urlsplit(job.metrics_url or "")
    lines = [
        f"flowrt demo: {len(job.items):,} airports, a sample of them one by one, then all, {job.concurrency} at once",
        f"service  {job.service_url}/airports/{job.items[0]['iata']}",
        f"live     {url._replace(path='/').geturl()}",
        f"metrics  {url.geturl()}",
        f"health   {url._replace(path='/healthz').geturl()}",
    ]
    if job.metrics_port not in (0, url.port):
        lines.insert(1, f"port {job.metrics_port} is in use: metrics are on port {url.port} this time")
    return lines


def title_of(job: Demo) -> str:
    """What stands above the summary.

    Args:
        job: Its batch is over.
    """
    return f"{job.report.name}, {job.concurrency} at once"


def rows_of(job: Demo) -> list[tuple[str, str]]:
    """The summary, as pairs of a label and a text.

    Args:
        job: Its batch is over.
    """
    from flowrt.reporting.summary import summary_rows  # noqa: PLC0415

    rows = summary_rows(job.report)
    if job.complete:
        rows.append(("output", str(job.output.path)))
    return rows


def _say(message: str) -> None:
    click.echo(f"flowrt: {one_line(message)}", err=True)


def _can_draw() -> bool:
    """Whether there is a terminal to show progress on and what draws it."""
    return sys.stderr is not None and sys.stderr.isatty() and importlib.util.find_spec("rich") is not None
