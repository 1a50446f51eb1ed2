"""`flowrt run`: a node over every item of a file."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal

import click

from flowrt.cli.exit_codes import SOME_FAILED, CommandError, say
from flowrt.cli.io.path_conflicts import check_path_conflicts
from flowrt.cli.io.readers import FORMATS, Format, open_input
from flowrt.cli.options.param_types import CONCURRENCY, HEDGE, RATE, SECONDS
from flowrt.cli.options.serving import serving_options
from flowrt.telemetry.options import Serving

if TYPE_CHECKING:
    from flowrt.cli.commands.run_job import Job
    from flowrt.policies import AdaptiveLimit, Hedge, RateLimit

__all__ = ["run"]

LogFormat = Literal["json", "console"]

_EXAMPLES = """\b
Examples:
  flowrt run enrich:node airports.jsonl -o enriched.jsonl --max-concurrency 50
  flowrt run crawl:Fetch urls.csv -o pages.jsonl --item-timeout 10 --metrics-port 9464
  flowrt run ask:model prompts.jsonl -o answers.jsonl --max-concurrency 1:200 --rate 600/min --retries 4
  flowrt run ask:model prompts.jsonl -o answers.jsonl --journal answers.journal
  cat urls.jsonl | flowrt run crawl:fetch - -o - | jq .output

\b
Each line of OUTPUT is an object with index, success, status, output, error, error_type, attempts and
execution_time (seconds), written when its item is done. A line of INPUT that cannot be read is a failed
item whose error names the line. OUTPUT is OUTPUT.partial until it is complete.

\b
With --journal a run that was killed or interrupted is resumed by the same command: what had finished is
not run again, and OUTPUT has each index exactly once.

\b
Exit codes: 0 all items ok, 1 some failed, 2 bad usage, 3 the journal belongs to another run, 4 the
journal is damaged, 5 the disk failed, 65 unreadable input, 75 the journal is in use, 130 and 143
interrupted.
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@click.argument("node", metavar="MODULE:NODE")
@click.argument("source", metavar="INPUT")
@click.option("-o", "--output", required=True, metavar="OUTPUT", help="A JSONL file, or - for standard output.")
@click.option(
    "--max-concurrency",
    type=CONCURRENCY,
    default=10,
    show_default=True,
    metavar="N|MIN:MAX|auto",
    help="How many items may run at once; MIN:MAX finds the number by itself, auto is 1:100.",
)
@click.option("--item-timeout", type=SECONDS, metavar="S", help="Time limit of one attempt at an item, in seconds.")
@click.option("--batch-timeout", type=SECONDS, metavar="S", help="Time limit of the whole run, in seconds.")
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Try an item that failed again, up to N times, after growing waits.",
)
@click.option(
    "--rate",
    "rates",
    type=RATE,
    multiple=True,
    metavar="AMOUNT/TIME",
    help="How much may start within a time: 100/s, 600/min, 5/10s. Given more than once, all hold.",
)
@click.option(
    "--hedge",
    type=HEDGE,
    metavar="p95|S",
    help="Give an item that takes longer than most, or than S seconds, a second attempt; the first success wins.",
)
@click.option(
    "--executor",
    type=click.Choice(["loop", "threads"]),
    default="loop",
    show_default=True,
    help="Where items run; functions that are not async run in threads in any case.",
)
@click.option(
    "--journal", metavar="FILE", help="Keep what is finished there, and resume from it; made where it does not exist."
)
@click.option("--retry-failed", is_flag=True, help="Run the items again that the journal has as not ok.")
@serving_options(port=None)
@click.option("--otlp-endpoint", metavar="URL", help="Send spans there by OTLP over HTTP.")
@click.option("--record", metavar="FILE", help="Record every attempt's times for flowrt report and flowrt whatif.")
@click.option("--report", "page", metavar="PAGE", help="Write one HTML page about the run when it is over.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first item that fails.")
@click.option("--log-format", type=click.Choice(["json", "console"]), help="Log events to stderr in this form.")
@click.option("--quiet", is_flag=True, help="Neither progress nor summary.")
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT if it exists.")
@click.option(
    "--input-format", type=click.Choice(FORMATS), help="By default what INPUT's extension says, and jsonl for -."
)
def run(
    node: str,
    source: str,
    output: str,
    max_concurrency: int | AdaptiveLimit,
    item_timeout: float | None,
    batch_timeout: float | None,
    retries: int,
    rates: tuple[RateLimit, ...],
    hedge: Hedge | None,
    executor: str,
    journal: str | None,
    retry_failed: bool,
    serving: Serving,
    otlp_endpoint: str | None,
    record: str | None,
    page: str | None,
    fail_fast: bool,
    log_format: LogFormat | None,
    quiet: bool,
    overwrite: bool,
    input_format: Format | None,
) -> None:
    """Run MODULE:NODE over every item of INPUT.

    INPUT is JSON lines, CSV or Parquet, by its extension, or - for standard input. MODULE:NODE names a node or a
    function of one argument, in an installed module or one in the working directory.
    """
    # what is heavy is imported here, so that `flowrt --help` is quick
    from flowrt.batch.processor import BatchProcessor  # noqa: PLC0415
    from flowrt.cli.commands.run_job import Job  # noqa: PLC0415
    from flowrt.cli.io.output_files import OutputClosedError, claim_stdout, open_target  # noqa: PLC0415
    from flowrt.cli.options.journal import open_journal, own_output_check, report_resumed  # noqa: PLC0415
    from flowrt.cli.options.node_loader import load_node  # noqa: PLC0415
    from flowrt.cli.options.report import check_report_page, write_report_page  # noqa: PLC0415
    from flowrt.policies import RetryPolicy  # noqa: PLC0415
    from flowrt.reporting.summary import print_summary  # noqa: PLC0415

    if retry_failed and journal is None:
        raise CommandError("--retry-failed needs the journal of the run that had failures: pass --journal FILE")
    stdout = claim_stdout() if output == "-" else None  # before the user's module can print anything
    until_recorded = ExitStack()
    click.get_current_context().call_on_close(until_recorded.close)
    if page is not None:
        named, record = record or "", check_report_page(page, record, until_recorded)
    loaded = load_node(node)
    try:
        processor = BatchProcessor(
            loaded,
            max_concurrency,
            continue_on_error=not fail_fast,
            item_timeout=item_timeout,
            batch_timeout=batch_timeout,
            retry=RetryPolicy(retries + 1) if retries else None,
            rate_limit=rates or None,
            hedge=hedge,
            executor=executor,
            record=record,
        )
    except (TypeError, ValueError) as exc:
        raise CommandError(str(exc)) from exc
    opened = open_input(source, input_format)
    check_path_conflicts(opened.file, output, journal=journal, recording=record, report=page)
    with ExitStack() as until_the_end:
        kept = None
        if journal is not None:  # before the output is touched: it may be that of the run that has the journal
            kept = open_journal(journal, processor.node, opened, target=node, retry_failed=retry_failed)
            processor.journal = until_the_end.enter_context(kept)
            if not quiet:
                report_resumed(kept)
        is_own = (lambda _: False) if kept is None else own_output_check(kept)
        target = open_target(output, stdout=stdout, overwrite=overwrite, input_status=opened.file, is_own=is_own)
        job = Job(processor, opened, target, progress=not quiet and _can_draw_progress(), journal=kept)
        if serving.get("metrics_port") is not None and not quiet and log_format is None:
            job.on_start = _report_urls  # with a log format, `runtime.started` has it
        try:
            _launch(job, serving, otlp_endpoint=otlp_endpoint, log_format=log_format)
        except OutputClosedError:  # as `| head` does: nothing to complain about
            raise SystemExit(SOME_FAILED) from None
        finally:
            # where events are read by a program, the totals are in `batch.completed`
            if job.over and not quiet and (log_format != "json" or sys.stderr.isatty()):
                print_summary(job.report)
            if page is not None and record is not None and job.started:
                write_report_page(page, record, named)
            if kept is not None and job.started and not job.complete:
                say(f"run the same command again to go on: what finished is in {kept.path}")
        raise SystemExit(job.exit_code)


def _launch(job: Job, serving: Serving, *, otlp_endpoint: str | None, log_format: LogFormat | None) -> None:
    """Run the job with signals, metrics and logs around it; events are logged where a format is asked for."""
    from flowrt import runtime  # noqa: PLC0415  # heavy

    try:
        runtime.run(
            job.run(),
            service_name="flowrt",
            otlp_endpoint=otlp_endpoint,
            log_format=log_format,
            log_level="INFO" if log_format else "ERROR",
            **serving,
        )
    except (OSError, ValueError) as exc:
        if job.started:
            raise
        raise CommandError(str(exc)) from exc
    finally:
        if not job.started:
            job.discard()


def _report_urls() -> None:
    from flowrt.runtime.runtime import Runtime  # noqa: PLC0415  # heavy

    runtime = Runtime.current()
    if runtime is not None:
        say(f"metrics: {runtime.metrics_url}")
        say(f"live page: {runtime.live_url}")


def _can_draw_progress() -> bool:
    """Whether there is a terminal to show progress on and what draws it."""
    return sys.stderr is not None and sys.stderr.isatty() and importlib.util.find_spec("rich") is not None
