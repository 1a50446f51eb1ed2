"""The option `--journal`: opens the journal before any other file, and recognizes the output of an earlier run."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Final

from flowrt.cli.exit_codes import CommandError, say
from flowrt.cli.io.readers import Input
from flowrt.cli.options.input import InputOptions
from flowrt.journal import Journal, JournalPolicy, lines
from flowrt.model.node import BaseNode

__all__ = ["open_journal", "own_output_check", "report_resumed"]

_CHECKED_LINES: Final = 1000


def open_journal(
    path: str, node: BaseNode, source: Input, reading: InputOptions, *, target: str, retry_failed: bool
) -> Journal:
    """Open the journal of a run.

    An input file is compared with the earlier run's by its whole content, a stream item by item.

    Args:
        path: The journal.
        node: The node to run.
        source: The input.
        reading: Options of the input: a change of those that select or alter items makes another run.
        target: The node's name on the command line, the only thing that distinguishes two closures of one function.
        retry_failed: Rerun the items that did not end ok.

    Raises:
        CommandError: No journal can be at the path.
        JournalError: The journal belongs to another run, is damaged or in use, or its disk failed.
    """
    if not path:
        raise CommandError("--journal needs the name of a file")
    content = "a stream, each item compared" if source.digest is None else source.digest()
    policy = JournalPolicy(
        path,
        retry_failed=retry_failed,
        fingerprint={"target": target, "input": content, "input_format": source.format, **reading.fingerprint()},
        check_inputs=source.digest is None,
    )
    try:
        return policy.open(node)
    except ValueError as exc:
        raise CommandError(str(exc)) from exc


def report_resumed(journal: Journal) -> None:
    """Print on stderr how many items an earlier run has finished.

    Args:
        journal: The journal, just opened.
    """
    if journal.held:
        counts = ", ".join(f"{count:,} {status}" for status, count in journal.counts().items() if count)
        say(f"resuming from {journal.path}: {counts}")


def own_output_check(journal: Journal) -> Callable[[Path], bool]:
    """Return a function that recognizes an output of this run, which the run may replace.

    Args:
        journal: The journal of the run.
    """

    def is_written(path: Path) -> bool:
        seen: set[bytes] = set()
        try:
            with path.open("rb") as file:
                for line in islice(file, _CHECKED_LINES):
                    if _is_journaled(journal, line):
                        return True
                    seen.add(_digest(line))
            # an item that was rerun has another line now: the output may hold its old one
            return bool(seen) and any(_digest(line) in seen for line in lines(journal.path))
        except OSError:
            return False

    return is_written


def _digest(line: bytes) -> bytes:
    return blake2b(line, digest_size=16).digest()


def _is_journaled(journal: Journal, line: bytes) -> bool:
    try:
        index = json.loads(line)["index"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    # a line holds times to the nanosecond: a line of another run never matches
    return isinstance(index, int) and journal.line(index) == line
