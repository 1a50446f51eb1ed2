"""`--journal`: the journal of a command's run, opened before anything else is touched, and the output that it wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Final

from flowrt.cli.exit_codes import CommandError, say
from flowrt.cli.io.readers import Input
from flowrt.journal import Journal, JournalPolicy, digest_of_file, lines
from flowrt.model.node import BaseNode

__all__ = ["open_journal", "tell_what_is_done", "written_by"]

_LOOKED_AT_LINES: Final = 1000


def open_journal(path: str, node: BaseNode, source: Input, *, target: str, retry_failed: bool) -> Journal:
    """Open a run's journal; of an input that is a file the whole content is compared, else each item.

    Args:
        path: The journal.
        node: What runs.
        source: The input.
        target: What names the node in the command: two closures of one function are told apart by nothing else.
        retry_failed: Run the items again that had not ended ok.

    Raises:
        CommandError: The path cannot be a journal's.
        JournalError: The journal belongs to another run, is damaged or in use, or its disk failed.
    """
    if not path:
        raise CommandError("--journal needs the name of a file")
    content = digest_of_file(source.fd, source.start) if source.rereadable else "a stream, each item compared"
    policy = JournalPolicy(
        path,
        retry_failed=retry_failed,
        fingerprint={"target": target, "input": content, "input_format": source.format},
        check_inputs=not source.rereadable,
    )
    try:
        return policy.open(node)
    except ValueError as exc:
        raise CommandError(str(exc)) from exc


def tell_what_is_done(journal: Journal) -> None:
    """Say on stderr what an earlier run has finished.

    Args:
        journal: Just opened.
    """
    if journal.held:
        counts = ", ".join(f"{count:,} {status}" for status, count in journal.counts().items() if count)
        say(f"resuming from {journal.path}: {counts}")


def written_by(journal: Journal) -> Callable[[Path], bool]:
    """What tells whether an output holds this very run's results, so that the run may replace it.

    Args:
        journal: The run's.
    """

    def is_written(path: Path) -> bool:
        seen: set[bytes] = set()
        try:
            with path.open("rb") as file:
                for line in islice(file, _LOOKED_AT_LINES):
                    if _is_held(journal, line):
                        return True
                    seen.add(_digest(line))
            # what ran again has other lines now, and the output may be from before
            return bool(seen) and any(_digest(line) in seen for line in lines(journal.path))
        except OSError:
            return False

    return is_written


def _digest(line: bytes) -> bytes:
    return blake2b(line, digest_size=16).digest()


def _is_held(journal: Journal, line: bytes) -> bool:
    try:
        index = json.loads(line)["index"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    # times are in it to the nanosecond: a line of another run is never the same
    return isinstance(index, int) and journal.line(index) == line
