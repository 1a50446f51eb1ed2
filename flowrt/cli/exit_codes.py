"""Exit codes, and the one-line messages on stderr."""

from __future__ import annotations

import sys
from typing import IO, Any, Final

import click

from flowrt.errors import one_line

__all__ = [
    "ALL_OK",
    "BAD_USAGE",
    "CLUSTER_LOST",
    "DISK_FAILED",
    "INTERRUPTED",
    "SOME_FAILED",
    "TELEMETRY_FAILED",
    "UNREADABLE_INPUT",
    "CommandError",
    "say",
]

ALL_OK: Final = 0
SOME_FAILED: Final = 1
BAD_USAGE: Final = 2
DISK_FAILED: Final = 5
TELEMETRY_FAILED: Final = 6
UNREADABLE_INPUT: Final = 65
CLUSTER_LOST: Final = 69
INTERRUPTED: Final = 130


class CommandError(click.ClickException):
    """Error that ends the command with one line on stderr and an exit code, without a traceback.

    Args:
        message: What is wrong, with the value and the fix.
        exit_code: Exit code of the process.
    """

    def __init__(self, message: str, exit_code: int = BAD_USAGE) -> None:
        super().__init__(one_line(message))
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it on the class

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message on one line."""
        if file is None:
            say(self.message)
        else:
            click.echo(f"flowrt: {self.message}", file=file)


def say(message: str) -> None:
    """Print one line on stderr. A closed or broken stderr is ignored."""
    try:
        # not err=True, for which click looks below a stream that prints above a progress bar
        click.echo(f"flowrt: {one_line(message)}", file=sys.stderr, err=True)
    except (OSError, ValueError):
        return
