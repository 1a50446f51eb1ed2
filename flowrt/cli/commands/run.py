"""The command `flowrt run`: runs a node over every item of its inputs."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from flowrt.cli.exit_codes import ALL_OK, DISK_FAILED, SOME_FAILED, TELEMETRY_FAILED, CommandError, say
from flowrt.cli.io.shared_stderr import SharedStderr
from flowrt.cli.options.execution import ExecutionOptions, execution_options
from flowrt.cli.options.fail_if import FAIL_IF, Condition
from flowrt.cli.options.groups import GroupedCommand, grouped
from flowrt.cli.options.input import InputOptions, input_options
from flowrt.cli.options.output import OutputOptions, output_options
from flowrt.cli.options.serving import serving_options
from flowrt.cli.options.telemetry import ExportMonitor, TelemetryOptions, service_name, telemetry_options
from flowrt.telemetry.options import Serving

if TYPE_CHECKING:
    from flowrt.batch.processor import BatchProcessor
    from flowrt.cli.commands.run_job import Job
    from flowrt.cli.io.readers import Input
    from flowrt.journal import Journal
    from flowrt.model.node import BaseNode

__all__ = ["run"]

_EXAMPLES = """\b
Examples:
  flowrt run enrich:node airports.jsonl -o enriched.jsonl --max-concurrency 50
  flowrt run jobs/crawl.py:fetch 'urls/*.csv' -o pages.parquet --item-timeout 10
  flowrt run ask:model prompts.jsonl -o answers.jsonl --journal answers.journal --rate 600/min
  cat urls.jsonl | flowrt run crawl:fetch - -o - | jq .output

\b
A line of OUTPUT has index, success, status, output, error, error_type, attempts and
execution_time (seconds). It is written when its item completes. OUTPUT is OUTPUT.partial until it
is complete. With --journal, the same command resumes a run that was killed or interrupted.

\b
Exit codes: 0 all items ok, 1 some failed, 2 bad usage, 3 the journal belongs to another run,
4 it is damaged, 5 the disk failed, 6 telemetry was lost (--strict-telemetry),
65 unreadable input, 69 Ray cluster lost, 75 journal in use, 129, 130 and 143 interrupted.
"""

_journal = grouped("Journal")


@click.command(cls=GroupedCommand, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@click.argument("node", metavar="NODE")
@click.argument("sources", metavar="INPUT...", nargs=-1, required=True)
@input_options
@output_options
@execution_options
@grouped("Execution")("--factory", is_flag=True, help="NODE is a function that makes the node.")
@grouped("Execution")(
    "--fail-if",
    type=FAIL_IF,
    multiple=True,
    metavar="CONDITION",
    help="Exit 1 only if this holds: failed>1%, p95>2s; repeatable.",
)
@_journal("--journal", metavar="FILE", help="Journal of finished items, to resume from; created if missing.")
@_journal("--retry-failed", is_flag=True, help="Rerun the items that the journal has as not ok.")
@telemetry_options
@serving_options(port=None)
def run(
    node: str,
    sources: tuple[str, ...],
    factory: bool,
    reading: InputOptions,
    writing: OutputOptions,
    execution: ExecutionOptions,
    fail_if: tuple[Condition, ...],
    journal: str | None,
    retry_failed: bool,
    telemetry: TelemetryOptions,
    serving: Serving,
) -> None:
    """Run NODE over every item of INPUT.

    NODE is module:name or path/to/file.py:name: a node, a function of one argument, or a class, whose __aenter__ and
    __aexit__ are called. INPUT is JSON Lines, JSON, CSV, Parquet or Arrow by its extension, compressed or not; a
    pattern, a folder of Parquet, a URL, or - for stdin.
    """
    # heavy imports are here, so that `flowrt --help` stays fast
    from flowrt.cli.io.output_files import claim_stdout  # noqa: PLC0415
    from flowrt.cli.io.path_conflicts import check_path_conflicts  # noqa: PLC0415
    from flowrt.cli.io.readers import open_input  # noqa: PLC0415
    from flowrt.cli.io.sources import standard_stream  # noqa: PLC0415
    from flowrt.cli.options.node_loader import load_node  # noqa: PLC0415
    from flowrt.cli.options.report import check_report_page, check_writable  # noqa: PLC0415

    if retry_failed and journal is None:
        raise CommandError("--retry-failed needs the journal of the run that had failures: pass --journal FILE")
    to_stdout = writing.output == "-" or standard_stream(writing.output) == 1
    stdout = claim_stdout() if to_stdout else None  # before the user's module can print anything
    until_the_end = ExitStack()
    click.get_current_context().call_on_close(until_the_end.close)
    record = telemetry.record
    if telemetry.page is not None:
        record = check_report_page(telemetry.page, record, until_the_end)
    for option, path in (("--record", telemetry.record), ("--report", telemetry.page)):
        if path is not None:
            check_writable(option, path)
    processor = _processor(load_node(node, factory=factory), execution, record)
    opened = open_input(sources, reading, note_rejected=writing.errors is not None)
    check_path_conflicts(
        opened.files,
        "-" if to_stdout else writing.output,
        journal=journal,
        errors=writing.errors,
        recording=telemetry.record,
        report=telemetry.page,
    )
    opened_journal = None
    if journal is not None:  # before the output is touched: it may belong to the run of the journal
        opened_journal = until_the_end.enter_context(
            _open_journal(journal, processor, opened, reading, node, retry_failed, quiet=telemetry.quiet)
        )
    job = _job(processor, opened, writing, opened_journal, stdout, telemetry, fail_if)
    raise SystemExit(_Launch(job, telemetry, serving, record, opened_journal).run())


def _processor(node: BaseNode, execution: ExecutionOptions, record: str | None) -> BatchProcessor:
    from flowrt.batch.processor import BatchProcessor  # noqa: PLC0415  # heavy

    try:
        return BatchProcessor(node, record=record, **execution.settings())
    except (TypeError, ValueError) as exc:
        raise CommandError(str(exc)) from exc


def _open_journal(
    path: str,
    processor: BatchProcessor,
    opened: Input,
    reading: InputOptions,
    node: str,
    retry_failed: bool,
    *,
    quiet: bool,
) -> Journal:
    from flowrt.cli.options.journal import open_journal, report_resumed  # noqa: PLC0415  # heavy

    opened_journal = open_journal(path, processor.node, opened, reading, target=node, retry_failed=retry_failed)
    processor.journal = opened_journal
    if not quiet:
        report_resumed(opened_journal)
    return opened_journal


def _job(
    processor: BatchProcessor,
    opened: Input,
    writing: OutputOptions,
    opened_journal: Journal | None,
    stdout: int | None,
    telemetry: TelemetryOptions,
    fail_if: tuple[Condition, ...],
) -> Job:
    from flowrt.cli.commands.run_job import Job, Outputs  # noqa: PLC0415  # heavy
    from flowrt.cli.options.journal import own_output_check  # noqa: PLC0415

    is_own = (lambda _: False) if opened_journal is None else own_output_check(opened_journal)
    outputs = Outputs.open(writing, stdout=stdout, inputs=opened.files, is_own=is_own)
    draws = not telemetry.quiet and _can_draw_progress()
    return Job(
        processor,
        opened,
        outputs,
        progress=draws,
        status_lines=not telemetry.quiet and not draws and telemetry.log_format is None,
        failure_lines=not telemetry.quiet and telemetry.log_format is None,
        journal=opened_journal,
        fail_if=fail_if,
    )


class _Launch:
    """Runs a job with signals, telemetry and logs, and reports on it."""

    def __init__(
        self,
        job: Job,
        telemetry: TelemetryOptions,
        serving: Serving,
        record: str | None,
        opened_journal: Journal | None,
    ) -> None:
        self._job = job
        self._telemetry = telemetry
        self._serving = serving
        self._record = record
        self._journal = opened_journal
        self._monitor = ExportMonitor()
        self._stderr: SharedStderr | None = None

    def run(self) -> int:
        """Run the job. Return the exit code."""
        from flowrt.cli.io.output_files import OutputClosedError  # noqa: PLC0415  # heavy

        job, written = self._job, True
        try:
            with self._monitor.watch(printing=self._telemetry.log_format is None):
                self._run()
        except OutputClosedError:  # as with `| head`, which is not an error to report
            return SOME_FAILED
        finally:
            written = self._report()
        if not written:
            return DISK_FAILED
        strict = self._telemetry.strict_telemetry and self._monitor.failed
        return TELEMETRY_FAILED if job.exit_code == ALL_OK and strict else job.exit_code

    def _run(self) -> None:
        from flowrt import runtime  # noqa: PLC0415  # heavy

        job, log_format = self._job, self._telemetry.log_format
        if log_format is not None and _can_draw_progress():
            self._stderr = SharedStderr(sys.stderr)
            self._stderr.install()
        try:
            runtime.run(
                job.run(self._started),
                service_name=service_name(self._telemetry.service_name, "flowrt"),
                otlp_endpoint=self._telemetry.otlp_endpoint,
                log_format=log_format,
                log_level="INFO" if log_format else "ERROR",
                on_interrupt="return",  # so that the job writes its results
                **self._serving,
            )
        except (OSError, ValueError) as exc:
            if job.started:
                raise
            raise CommandError(str(exc)) from exc
        finally:
            self._release_stderr()
            if not job.started:
                job.discard()

    def _release_stderr(self) -> None:
        """Let log lines go to stderr directly, since the handlers hold the shared stream by now."""
        if self._stderr is not None:
            self._stderr.uninstall()

    def _started(self) -> None:
        """Record the runtime's exporters, and print the URLs that it serves."""
        from flowrt.runtime.runtime import Runtime  # noqa: PLC0415  # heavy

        self._release_stderr()
        self._monitor.attach()
        runtime = Runtime.current()
        # with a log format, the event `runtime.started` has the URLs
        if runtime is not None and runtime.metrics_url and not (self._telemetry.quiet or self._telemetry.log_format):
            say(f"metrics: {runtime.metrics_url}")
            say(f"live page: {runtime.live_url}")

    def _report(self) -> bool:
        """Print the summary and write the report. Return False if the recording or the report was not written."""
        from flowrt.cli.commands.run_summary import run_rows  # noqa: PLC0415
        from flowrt.cli.options.report import write_report_page  # noqa: PLC0415  # heavy
        from flowrt.reporting.summary import print_rows  # noqa: PLC0415

        job, telemetry = self._job, self._telemetry
        # with JSON events, a program reads stderr, and the totals are in `batch.completed`
        if job.over and not telemetry.quiet and (telemetry.log_format != "json" or sys.stderr.isatty()):
            rows = run_rows(job.report, self._monitor.summary_rows(), complete=job.complete, met=job.met)
            print_rows(job.report.name, rows)
        written = not self._monitor.recording_failed
        if telemetry.page is not None and self._record is not None and job.started:
            name = telemetry.record or ""
            trace_url = self._serving.get("trace_url")
            written = write_report_page(telemetry.page, self._record, name, job.report, trace_url) and written
        if self._journal is not None and job.started and not job.complete:
            say(f"run the same command again to resume: finished items are in {self._journal.path}")
        return written


def _can_draw_progress() -> bool:
    """True if stderr is a terminal and rich is installed."""
    return sys.stderr is not None and sys.stderr.isatty() and importlib.util.find_spec("rich") is not None
