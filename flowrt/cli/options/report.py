"""The option `--report`: an HTML page about the run, written at its end."""

from __future__ import annotations

import importlib.util
import tempfile
from contextlib import ExitStack
from pathlib import Path

from flowrt.cli.commands.report import load_detail, write_page
from flowrt.cli.exit_codes import DISK_FAILED, CommandError, say
from flowrt.errors import FlowrtError, MissingExtraError
from flowrt.reporting.report import BatchReport

__all__ = ["check_report_page", "check_writable", "write_report_page"]


def check_report_page(page: str, record: str | None, until_the_end: ExitStack) -> str:
    """Check before the first item that the page can be written.

    Args:
        page: Path of the page.
        record: Path given with `--record`, or None.
        until_the_end: Deletes the temporary recording, which is made if `record` is None.

    Returns:
        Path of the recording that the page is made from.

    Raises:
        CommandError: The page cannot be written to `page`.
        MissingExtraError: bokeh is not installed.
    """
    for package in ("bokeh", "numpy", "pyarrow"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("--report", package, "report")
    path = Path(page)
    if not path.name or path.is_dir():
        raise CommandError(f"--report {page!r} is a folder: name a file, for example report.html")
    if path.is_symlink():
        raise CommandError(f"--report {page!r} is a symlink: name the file that it points to")
    if path.exists() and not _is_page(path):
        raise CommandError(f"--report {page!r} exists and is not a report: name another file, or delete it")
    if record is not None:
        return record
    folder = until_the_end.enter_context(tempfile.TemporaryDirectory(prefix="flowrt-"))
    return str(Path(folder) / "run.parquet")


def check_writable(option: str, path: str) -> None:
    """Check before the first item that a file can be created in the folder of a path.

    Args:
        option: Name of the option for the message.
        path: The path.

    Raises:
        CommandError: No file can be created there.
    """
    folder = Path(path).parent
    if not folder.is_dir():
        raise CommandError(f"{option} {path!r}: its folder does not exist: create it first")
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
    except OSError as exc:
        raise CommandError(f"{option} {path} cannot be written: {exc.strerror}", DISK_FAILED) from exc


def write_report_page(page: str, record: str, name: str, report: BatchReport, trace_url: str | None = None) -> bool:
    """Write the page after the run: from the recording, or from the totals in memory if it was lost.

    Args:
        page: Path of the page.
        record: Path of the recording.
        name: The recording's name on the page, or "" for a temporary recording.
        report: Totals of the run.
        trace_url: Template of links to traces, or None.

    Returns:
        True if the page was written.
    """
    try:
        if _is_of(Path(record), report):
            detail = load_detail(Path(record))
            detail.source = name
        else:
            say("the recording was not written: the report has totals only")
            detail = report.detail
        write_page(detail, Path(page), trace_url)
    except (FlowrtError, CommandError) as exc:
        say(f"no report: {exc}")
        return False
    say(f"report: {page}")
    return True


def _is_of(record: Path, report: BatchReport) -> bool:
    """True if the recording is of this run: a lost one leaves an earlier run's file in place."""
    from flowrt.recording.errors import RecordingError  # noqa: PLC0415  # as in `load_detail`
    from flowrt.recording.parquet import read_meta  # noqa: PLC0415

    try:
        return report.batch is not None and read_meta(record)["batch_id"] == report.batch.batch_id
    except RecordingError:
        return False


def _is_page(path: Path) -> bool:
    """True if the file is an earlier report, or empty."""
    try:
        with path.open("rb") as opened:
            head = opened.read(4096)
    except OSError:
        return False
    return not head or b"flowrt report</title>" in head
