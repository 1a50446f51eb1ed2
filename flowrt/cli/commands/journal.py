"""`flowrt journal`: looking into a run's journal, and saving what is whole in a damaged one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import BinaryIO

import click

from flowrt._util.atomic_file import open_private
from flowrt.cli.exit_codes import BAD_USAGE, DISK_FAILED, SOME_FAILED, UNREADABLE_INPUT, CommandError, say
from flowrt.errors import JournalDamagedError
from flowrt.journal import JournalSummary, summary
from flowrt.journal import export as exported
from flowrt.journal import salvage as salvaged

__all__ = ["journal"]

_EXAMPLES = """\b
Examples:
  flowrt journal show run.journal
  flowrt journal export run.journal | jq .output
  flowrt journal salvage run.journal whole.journal
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
def journal() -> None:
    """Look into the journal of a run; the run may be under way."""


@journal.command()
@click.argument("file", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def show(file: str, as_json: bool) -> None:
    """Say what the journal FILE holds, and whether it is whole."""
    with _readable(file):
        told = summary(file)
    if as_json:
        fields = {name: getattr(told, name) for name in JournalSummary.__dataclass_fields__}
        click.echo(json.dumps(fields, indent=2))
    else:
        _print(told)
    if told.damage is not None:
        raise CommandError(told.damage, JournalDamagedError.exit_code)


@journal.command()
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", default="-", show_default=True, metavar="OUTPUT", help="A new JSONL file, or -.")
@click.option("--skip-damaged", is_flag=True, help="Leave out what is damaged.")
def export(file: str, output: str, skip_damaged: bool) -> None:
    """Write the lines that the items in FILE have in an output: each index once, in order."""
    lines = _lines(file, skip_damaged)
    first = next(lines, b"")  # a journal that cannot be read leaves no output
    with _opened(output) as target:
        for line in chain([first], lines):
            target.write(line)


@journal.command()
@click.argument("file", metavar="FILE")
@click.argument("new", metavar="NEW")
def salvage(file: str, new: str) -> None:
    """Make the journal NEW of what is whole in FILE, to resume from."""
    with _readable(file):
        try:
            lost = salvaged(file, new)
        except (FileExistsError, ValueError) as exc:  # it is NEW that cannot be
            raise CommandError(str(exc)) from exc
        told = summary(new)
    say(f"{told.items:,} items saved in {new}; {lost:,} bytes left out, whose items run again")


def _print(told: JournalSummary) -> None:
    rows = [("begun", f"{told.created} by flowrt {told.flowrt}" if told.created else "its first line was not written")]
    rows += [(f"  {name}", str(value)) for name, value in told.fingerprint.items()]
    rows.append(("items", f"{told.items:,}"))
    rows += [(f"  {status}", f"{count:,}") for status, count in told.counts.items()]
    rows.append(("records", f"{told.records:,} in {told.groups:,} groups"))
    rows.append(("highest index", str(told.last_index) if told.items else "none"))
    rows.append(("size", f"{told.size_bytes:,} bytes"))
    if told.torn_bytes:
        rows.append(("torn tail", f"{told.torn_bytes:,} bytes, or a group that is being written"))
    if told.damaged_at is not None:
        rows.append(("damaged at", f"offset {told.damaged_at:,}; what stands behind is not counted"))
    if sys.stdout.isatty() and _print_table(told.path, rows):
        return
    width = max(len(label) for label, _ in rows)
    click.echo("\n".join(f"{label:<{width}}  {text}" for label, text in rows))


def _print_table(title: str, rows: list[tuple[str, str]]) -> bool:
    from flowrt.reporting.summary import make_table  # noqa: PLC0415  # with rich, an extra

    try:
        from rich.console import Console  # noqa: PLC0415  # as above
    except ImportError:
        return False
    Console().print(make_table(title, rows))
    return True


@contextmanager
def _readable(file: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as exc:
        raise CommandError(f"journal {file!r} does not exist", BAD_USAGE) from exc
    except (IsADirectoryError, ValueError) as exc:
        raise CommandError(f"journal {file!r} is no file: name one", BAD_USAGE) from exc
    except OSError as exc:
        raise CommandError(f"journal {file!r} cannot be read: {exc.strerror}", UNREADABLE_INPUT) from exc


def _lines(file: str, skip_damaged: bool) -> Iterator[bytes]:
    with _readable(file):
        yield from exported(file, skip_damaged=skip_damaged)


@contextmanager
def _opened(output: str) -> Iterator[BinaryIO]:
    """Where the lines go: standard output, or a file of mode 0600 that did not exist; it is whole, or not there."""
    if output == "-":
        try:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # as `| head` does
            _leave_stdout()
            raise SystemExit(SOME_FAILED) from None
        except OSError as exc:
            _leave_stdout()
            raise _disk_failed("standard output", exc) from exc
        return
    try:
        fd = open_private(output, new=True)
    except OSError as exc:
        raise CommandError(f"output {output} cannot be made: {exc.strerror}") from exc
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(fd)
    except BaseException as exc:
        with suppress(OSError):
            os.unlink(output)  # noqa: PTH108  # as it was opened
        if isinstance(exc, OSError):
            raise _disk_failed(output, exc) from exc
        raise


def _disk_failed(name: str, exc: OSError) -> CommandError:
    return CommandError(f"writing {name} failed: {exc.strerror}", DISK_FAILED)


def _leave_stdout() -> None:
    """Nobody takes what goes to standard output: let Python's own flush at the end go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
