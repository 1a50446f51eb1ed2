"""The command `flowrt top`: the live page in a terminal."""

from __future__ import annotations

import importlib.util
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

from flowrt.cli.exit_codes import CommandError, say
from flowrt.errors import MissingExtraError

if TYPE_CHECKING:
    from flowrt.cli.commands.top_client import Source
    from flowrt.cli.commands.top_view import View

__all__ = ["top"]

_UNREACHABLE: Final = 1

_EXAMPLES: Final = """\b
Examples:
  flowrt top http://127.0.0.1:9464
  ssh build-7 flowrt top localhost:9464 --once
  FLOWRT_METRICS_TOKEN=... flowrt top https://jobs.example.com:9464 --cacert ca.pem

\b
Keys: q quits, n and p show the next and previous batch, a returns to the latest batch.
While the server is down, the last state stays on the screen and the connection is retried.

\b
Exit codes: 0 quit by key; 1 no answer, with --once; 2 bad usage or a wrong token.
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@click.argument("url", default="http://127.0.0.1:9464")
@click.option(
    "--token",
    envvar="FLOWRT_METRICS_TOKEN",
    show_envvar=True,
    metavar="TOKEN",
    help="The server's token. Other users of this machine can read a command line: prefer the variable.",
)
@click.option(
    "--cacert", type=click.Path(), metavar="FILE", help="Trust this certificate or certificate authority (PEM)."
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.2, max=3600),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Refresh interval in seconds.",
)
@click.option("--once", is_flag=True, help="Print the current state once and exit; the default without a terminal.")
def top(url: str, token: str | None, cacert: str | None, interval: float, once: bool) -> None:
    """Watch the batches of a process that serves its telemetry at URL.

    URL is the address of `flowrt run --metrics-port` or `Runtime(metrics_port=...)`, by default http://127.0.0.1:9464.
    """
    if importlib.util.find_spec("rich") is None:
        raise MissingExtraError("flowrt top", "rich", "cli")
    from flowrt.cli.commands.top_client import Source  # noqa: PLC0415  # beside rich, which is heavy
    from flowrt.cli.commands.top_view import View  # noqa: PLC0415

    try:
        source = Source(url, token=token, cacert=cacert)
    except ValueError as exc:
        raise CommandError(str(exc)) from exc
    view = View(source.shown_url)
    with source:
        if once or not sys.stdout.isatty():
            _print_once(source, view)
        else:
            _watch(source, view, interval)


def _print_once(source: Source, view: View) -> None:
    from rich.console import Console  # noqa: PLC0415

    answer = source.ask()
    if answer.refused:
        raise CommandError(answer.problem or "refused")
    if answer.state is None:
        say(answer.problem or "no answer")
        raise SystemExit(_UNREACHABLE)
    view.update(answer)
    console = Console()
    console.print(view.render(console.size.width, None))


def _watch(source: Source, view: View, interval: float) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    console = Console()
    with _keys() as read_key, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            answer = source.ask()
            if answer.refused:
                break
            view.update(answer)
            due = time.monotonic() + interval
            while True:
                live.update(view.render(console.size.width, console.size.height), refresh=True)
                key = read_key(max(0.0, due - time.monotonic()))
                if key in ("q", "Q", "\x03", "\x04"):
                    return
                view.press(key)
                if time.monotonic() >= due:
                    break
    raise CommandError(answer.problem or "refused")


def _wait_without_keys(seconds: float) -> str:
    time.sleep(seconds)
    return ""


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Yield a function that waits up to some seconds for a key and returns it, or "" at the time-out.

    Without a terminal that can deliver single keys the function only waits.
    """
    try:
        import termios  # noqa: PLC0415  # not on every platform
        import tty  # noqa: PLC0415

        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
    except (ImportError, OSError, ValueError, AttributeError, termios.error):
        yield _wait_without_keys
        return

    def read_key(seconds: float) -> str:
        ready, _, _ = select.select([terminal], [], [], seconds)
        return sys.stdin.read(1) if ready else ""

    try:
        tty.setcbreak(terminal)
        yield read_key
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
