"""The options of every command that serves its telemetry."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from flowrt.telemetry.options import Serving

__all__ = ["serving_options"]


def serving_options(port: int | None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options, which reach the command as one argument `serving`.

    Args:
        port: The port where none is named; None for no server.
    """
    options = [
        click.option(
            "--metrics-port",
            type=click.IntRange(0, 65535),
            default=port,
            show_default=port is not None,
            metavar="P",
            help="Serve the live page at /, /metrics, /healthz and /readyz there; 0 for any free port.",
        ),
        click.option(
            "--metrics-host",
            default="127.0.0.1",
            show_default=True,
            metavar="HOST",
            help="The address to serve on; one that others can reach needs a token.",
        ),
        click.option(
            "--metrics-token",
            envvar="FLOWRT_METRICS_TOKEN",
            show_envvar=True,
            metavar="TOKEN",
            help="Ask for this token: as a bearer token, or as the password in a browser. Others on this machine can "
            "read a command line, so use the variable.",
        ),
        click.option(
            "--metrics-cert", type=click.Path(), metavar="FILE", help="Serve over TLS with this certificate (PEM)."
        ),
        click.option("--metrics-key", type=click.Path(), metavar="FILE", help="The certificate's private key (PEM)."),
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_serving(**arguments: Any) -> None:
            serving = {name: arguments.pop(name) for name in Serving.__annotations__}
            command(**arguments, serving=serving)

        decorated: Callable[..., None] = with_serving
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate
