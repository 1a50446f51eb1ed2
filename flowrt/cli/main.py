"""The console entry: a group whose commands are imported when they are called."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from contextlib import suppress
from typing import Any, Final, NoReturn

import click

from flowrt._version import __version__
from flowrt.cli.exit_codes import INTERRUPTED, CommandError
from flowrt.errors import FlowrtError, JournalError

__all__ = ["LazyGroup", "main"]

_COMMANDS: Final = {
    "run": ("flowrt.cli.commands.run", "Run a node over every item of a file."),
    "top": ("flowrt.cli.commands.top", "Watch the batches of a running process in the terminal."),
    "report": ("flowrt.cli.commands.report", "What failed in a finished run, and why it took so long."),
    "whatif": ("flowrt.cli.commands.whatif", "What other settings would have made of a recorded run."),
    "bench": ("flowrt.cli.commands.bench", "How many items at once a node should run, found by running it."),
    "journal": ("flowrt.cli.commands.journal", "Look into the journal of a run."),
    "demo": ("flowrt.cli.commands.demo", "The main job on real data against a local HTTP service."),
    "dashboards": ("flowrt.cli.commands.dashboards", "Grafana dashboards, Prometheus rules and alerts."),
}

_EXAMPLES: Final = """\b
Examples:
  flowrt run enrich:node airports.jsonl -o enriched.jsonl --max-concurrency 50
  cat urls.jsonl | flowrt run crawl:fetch - -o - --item-timeout 10 | jq .output
  flowrt demo
"""


class LazyGroup(click.Group):
    """A group that knows its commands' names and imports one only when it is asked for.

    Each is a click command in a module's attribute of the same name.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names, in the order in which they are shown."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command itself, or None where there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in _COMMANDS.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and end the process also where a thread of a node's never ends, which Python would wait for."""
        _fill_stderr()
        try:
            return super().main(*args, **kwargs)
        except SystemExit as exc:
            if isinstance(exc.code, int) and any(_never_ends(thread) for thread in threading.enumerate()):
                _leave(exc.code)
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what flowrt itself raises is one line, Ctrl-C is 130."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except JournalError as exc:
            raise CommandError(str(exc), exc.exit_code) from exc
        except FlowrtError as exc:
            raise CommandError(str(exc)) from exc


def _never_ends(thread: threading.Thread) -> bool:
    """Whether it runs an item that was given up: other threads of flowrt's have ended by now, or are daemons."""
    return thread.name.startswith("flowrt-") and not thread.daemon


def _leave(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXAMPLES,
)
@click.version_option(__version__, prog_name="flowrt", message="%(prog)s %(version)s")
def main() -> None:
    """Run a node over many items at once, with every item traced, measured and accounted for."""


def _fill_stderr() -> None:
    """Where stderr is closed, the next file that is opened would get its number, and what is said would go there."""
    try:
        os.fstat(2)
    except OSError:
        fd = os.open(os.devnull, os.O_WRONLY)
        if fd != 2:
            os.dup2(fd, 2)
            os.close(fd)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
