"""Console entry point: a command group that imports each command only when it runs."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn

import click

from flowrt._version import __version__
from flowrt.cli.exit_codes import CLUSTER_LOST, INTERRUPTED, CommandError
from flowrt.errors import ClusterLostError, FlowrtError, JournalError

__all__ = ["LazyGroup", "main"]

_COMMANDS: Final = {
    "run": ("flowrt.cli.commands.run", "Run a node over every item of a file."),
    "top": ("flowrt.cli.commands.top", "Watch the batches of a running process in the terminal."),
    "report": ("flowrt.cli.commands.report", "Show what failed in a finished run, and why it took so long."),
    "whatif": ("flowrt.cli.commands.whatif", "Predict a recorded run under other settings."),
    "bench": ("flowrt.cli.commands.bench", "Measure how many items at once a node should run."),
    "journal": ("flowrt.cli.commands.journal", "Inspect the journal of a run."),
    "demo": ("flowrt.cli.commands.demo", "Enrich real airports against a local HTTP service."),
    "dashboards": ("flowrt.cli.commands.dashboards", "Export Grafana dashboards, Prometheus rules and alerts."),
}

_EXAMPLES: Final = """\b
Examples:
  flowrt run enrich:node airports.jsonl -o enriched.jsonl --max-concurrency 50
  cat urls.jsonl | flowrt run crawl:fetch - -o - --item-timeout 10 | jq .output
  flowrt demo
"""


class LazyGroup(click.Group):
    """Click group that imports a command's module on first use.

    Each command is the attribute of its module that has the command's name.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names in display order."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return a command, or None if the name is unknown."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in _COMMANDS.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command. Exit even if a node's thread never returns, or Ray waits for its head: Python would wait."""
        _ensure_stderr()
        try:
            return super().main(*args, **kwargs)
        except SystemExit as exc:
            if isinstance(exc.code, int) and (
                exc.code == CLUSTER_LOST or any(_is_abandoned(thread) for thread in threading.enumerate())
            ):
                _exit_process(exc.code)
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. An error of flowrt's own is one line on stderr, Ctrl-C is exit code 130."""
        try:
            with _interrupts_raised():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except JournalError as exc:
            raise CommandError(str(exc), exc.exit_code) from exc
        except ClusterLostError as exc:
            raise CommandError(str(exc), CLUSTER_LOST) from exc
        except FlowrtError as exc:
            raise CommandError(str(exc)) from exc


@contextmanager
def _interrupts_raised() -> Iterator[None]:
    """Have Ctrl-C raise KeyboardInterrupt in a block, if flowrt's import has made it end the process silently."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _is_abandoned(thread: threading.Thread) -> bool:
    """True if the thread runs an abandoned item: all other threads of flowrt have ended by now or are daemons."""
    return thread.name.startswith("flowrt-") and not thread.daemon


def _exit_process(code: int) -> NoReturn:
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


def _ensure_stderr() -> None:
    """Open /dev/null as stderr if it is closed.

    Otherwise the next file to be opened would get descriptor 2, and messages would be written into it.
    """
    try:
        os.fstat(2)
    except OSError:
        fd = os.open(os.devnull, os.O_WRONLY)
        if fd != 2:
            os.dup2(fd, 2)
            os.close(fd)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
