"""The command `flowrt journal`: inspects a journal, and salvages the intact part of a damaged one."""

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
    """Inspect the journal of a run, which may be active."""


@journal.command()
@click.argument("file", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(file: str, as_json: bool) -> None:
    """Print what the journal FILE holds, and whether it is intact."""
    with _readable(file):
        found = summary(file)
    if as_json:
        fields = {name: getattr(found, name) for name in JournalSummary.__dataclass_fields__}
        click.echo(json.dumps(fields, indent=2))
    else:
        _print(found)
    if found.damage is not None:
        raise CommandError(found.damage, JournalDamagedError.exit_code)


@journal.command(short_help="Write the output lines of a journal's items.")
@click.argument("file", metavar="FILE")
@click.option(
    "-o", "--output", default="-", show_default=True, metavar="OUTPUT", help="New JSONL file, or - for standard output."
)
@click.option("--skip-damaged", is_flag=True, help="Skip damaged records.")
def export(file: str, output: str, skip_damaged: bool) -> None:
    """Write the output lines of the items in FILE: each index once, in order."""
    lines = _lines(file, skip_damaged)
    first = next(lines, b"")  # an unreadable journal must leave no output
    with _opened(output) as target:
        for line in chain([first], lines):
            target.write(line)


@journal.command(short_help="Write the intact records to a new journal.")
@click.argument("file", metavar="FILE")
@click.argument("new", metavar="NEW")
def salvage(file: str, new: str) -> None:
    """Write the intact records of FILE to the journal NEW, to resume from it."""
    with _readable(file):
        try:
            lost_bytes = salvaged(file, new)
        except (FileExistsError, ValueError) as exc:  # NEW cannot be created
            raise CommandError(str(exc)) from exc
        found = summary(new)
    say(f"{found.items:,} items saved in {new}; {lost_bytes:,} bytes were damaged, and their items will run again")


def _print(found: JournalSummary) -> None:
    rows = [
        ("started", f"{found.created} by flowrt {found.flowrt}" if found.created else "its first line was not written")
    ]
    rows += [(f"  {name}", str(value)) for name, value in found.fingerprint.items()]
    rows.append(("items", f"{found.items:,}"))
    rows += [(f"  {status}", f"{count:,}") for status, count in found.counts.items()]
    rows.append(("records", f"{found.records:,} in {found.groups:,} groups"))
    rows.append(("highest index", str(found.last_index) if found.items else "none"))
    rows.append(("size", f"{found.size_bytes:,} bytes"))
    if found.torn_bytes:
        rows.append(("torn tail", f"{found.torn_bytes:,} bytes, unless a group is being written"))
    if found.damaged_at is not None:
        rows.append(("damaged at", f"offset {found.damaged_at:,}; later records are not counted"))
    if sys.stdout.isatty() and _print_table(found.path, rows):
        return
    width = max(len(label) for label, _ in rows)
    click.echo("\n".join(f"{label:<{width}}  {text}" for label, text in rows))


def _print_table(title: str, rows: list[tuple[str, str]]) -> bool:
    from flowrt.reporting.summary import make_table  # noqa: PLC0415  # with rich, an extra

    try:
        from rich.console import Console  # noqa: PLC0415  # an extra
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
        raise CommandError(f"journal {file!r} is not a file: name one", BAD_USAGE) from exc
    except OSError as exc:
        raise CommandError(f"journal {file!r} cannot be read: {exc.strerror}", UNREADABLE_INPUT) from exc


def _lines(file: str, skip_damaged: bool) -> Iterator[bytes]:
    with _readable(file):
        yield from exported(file, skip_damaged=skip_damaged)


@contextmanager
def _opened(output: str) -> Iterator[BinaryIO]:
    """Open standard output, or a new file with mode 0600, which is deleted if writing it fails."""
    if output == "-":
        try:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # as `| head` does
            _discard_stdout()
            raise SystemExit(SOME_FAILED) from None
        except OSError as exc:
            _discard_stdout()
            raise _disk_failed("standard output", exc) from exc
        return
    try:
        fd = open_private(output, new=True)
    except OSError as exc:
        raise CommandError(f"output {output} cannot be created: {exc.strerror}") from exc
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(fd)
    except BaseException as exc:
        with suppress(OSError):
            os.unlink(output)  # noqa: PTH108  # the path as it was opened
        if isinstance(exc, OSError):
            raise _disk_failed(output, exc) from exc
        raise


def _disk_failed(name: str, exc: OSError) -> CommandError:
    return CommandError(f"writing {name} failed: {exc.strerror}", DISK_FAILED)


def _discard_stdout() -> None:
    """Redirect standard output to /dev/null, so that Python's flush at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
