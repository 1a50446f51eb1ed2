"""`--report`: a page about the run when it is over."""

from __future__ import annotations

import importlib.util
import tempfile
from contextlib import ExitStack
from pathlib import Path

from flowrt.cli.commands.report import load_detail, write_page
from flowrt.cli.exit_codes import CommandError, say
from flowrt.errors import FlowrtError, MissingExtraError

__all__ = ["prepare_page", "put_page"]


def prepare_page(page: str, record: str | None, until_the_end: ExitStack) -> str:
    """Find out before the first item what would keep the page from being written.

    Args:
        page: Where it is to be.
        record: The recording that is asked for, or None.
        until_the_end: Takes away a recording that nobody asked for.

    Returns:
        The recording that the page is to be made of.

    Raises:
        CommandError: The page cannot be written there.
        MissingExtraError: bokeh is not installed.
    """
    for package in ("bokeh", "numpy", "pyarrow"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("--report", package, "report")
    path = Path(page)
    if not path.name or path.is_dir():
        raise CommandError(f"--report {page!r} is a folder: name a file, such as report.html")
    if not path.parent.is_dir():
        raise CommandError(f"--report {page!r}: its folder does not exist: make it first")
    if path.is_symlink():
        raise CommandError(f"--report {page!r} is a symlink: name the file that it points to")
    if path.exists() and not _is_page(path):
        raise CommandError(f"--report {page!r} exists and is no report: name another file, or take it away")
    if record is not None:
        return record
    folder = until_the_end.enter_context(tempfile.TemporaryDirectory(prefix="flowrt-"))
    return str(Path(folder) / "run.parquet")


def put_page(page: str, record: str, name: str) -> None:
    """Write the page; the run has ended, and its exit code stays what it is.

    Args:
        page: Where to.
        record: The recording.
        name: What the recording is called on the page, or "" where it is taken away.
    """
    if not Path(record).exists():
        say(f"no report: the run was not recorded in {record}")
        return
    try:
        detail = load_detail(Path(record))
        detail.source = name
        write_page(detail, Path(page))
    except (FlowrtError, CommandError) as exc:
        say(f"no report: {exc}")
    else:
        say(f"report: {page}")


def _is_page(path: Path) -> bool:
    """Whether a file is an earlier report, or empty."""
    try:
        with path.open("rb") as opened:
            head = opened.read(4096)
    except OSError:
        return False
    return not head or b"flowrt report</title>" in head
