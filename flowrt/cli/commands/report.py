"""The command `flowrt report`: the analysis of a finished run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowrt.cli.exit_codes import UNREADABLE_INPUT, CommandError, say
from flowrt.recording.errors import RecordingError

if TYPE_CHECKING:
    from flowrt.reporting.figures import Detail

__all__ = ["load_detail", "report", "write_page"]

_EXAMPLES = """\b
Examples:
  flowrt run crawl:fetch urls.jsonl -o pages.jsonl --record run.parquet
  flowrt report run.parquet
  flowrt report run.parquet -o report.html
  flowrt report pages.jsonl --json | jq .causes

\b
FILE is a recording, as written by --record and record=, or the output of flowrt run, which holds no times of day.

\b
Exit codes: 0 shown, 2 bad usage or no such file, 65 the file cannot be read.
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", metavar="PAGE", type=click.Path(path_type=Path), help="Write a self-contained HTML page."
)
@click.option(
    "--trace-url",
    envvar="FLOWRT_TRACE_URL",
    show_envvar=True,
    metavar="URL",
    help="Link trace ids of the page to this URL, with {trace_id} in place of the id.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def report(file: Path, output: Path | None, trace_url: str | None, as_json: bool) -> None:
    """Show what failed in a finished run, and why it took as long as it did."""
    from flowrt.reporting.terminal import print_report  # noqa: PLC0415  # heavy

    detail = load_detail(file)
    if output is not None:
        write_page(detail, output, trace_url)
        say(f"report: {output}")
    if as_json:
        click.echo(json.dumps(detail.as_dict(), indent=2))
    elif output is None:
        print_report(detail, sys.stdout)


def load_detail(file: Path) -> Detail:
    """Load the figures from a recording or from an output of `flowrt run`.

    Raises:
        CommandError: The file does not exist or cannot be read.
    """
    # heavy, and some of it an extra
    from flowrt.recording.parquet import read_recording  # noqa: PLC0415
    from flowrt.reporting.attempts import Attempts  # noqa: PLC0415
    from flowrt.reporting.figures import detail_of  # noqa: PLC0415
    from flowrt.reporting.from_output import detail_of_lines  # noqa: PLC0415

    try:
        if _looks_like_lines(file):
            return detail_of_lines(file)
        meta, table = read_recording(file)
        return detail_of(meta, Attempts.of_table(table), source=str(file))
    except RecordingError as exc:
        raise as_command_error(exc) from exc


def as_command_error(exc: RecordingError) -> CommandError:
    """Convert the error, with the exit code 2 for a missing file and 65 for an unreadable one."""
    return CommandError(str(exc)) if exc.missing else CommandError(str(exc), UNREADABLE_INPUT)


def _looks_like_lines(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            first = opened.read(1)
            return first == b"{" or (
                not first and file.suffix == ".jsonl"
            )  # the output of a run without items is empty
    except OSError:
        return False


def write_page(detail: Detail, output: Path, trace_url: str | None = None) -> None:
    """Write the HTML page, readable by its owner only because it holds error messages.

    Raises:
        CommandError: The page cannot be written, or `trace_url` is invalid.
    """
    from flowrt._util.atomic_file import write_private  # noqa: PLC0415
    from flowrt.reporting.html_page import page_of  # noqa: PLC0415  # heavy

    try:
        page = page_of(detail, trace_url)
    except ValueError as exc:
        raise CommandError(str(exc)) from exc
    try:
        write_private(output, page)
    except OSError as exc:
        raise CommandError(f"report {output} cannot be written: {exc.strerror}") from exc
