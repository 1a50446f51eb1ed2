"""Options of the commands that serve telemetry over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from flowrt.cli.options.groups import grouped
from flowrt.telemetry.options import Serving

__all__ = ["serving_options"]


def serving_options(port: int | None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command with the server's options, which it receives as one argument `serving`.

    Args:
        port: Default port; None starts no server by default.
    """
    option = grouped("Telemetry")
    options: list[Any] = [
        option(
            "--metrics-port",
            type=click.IntRange(0, 65535),
            default=port,
            show_default=port is not None,
            metavar="P",
            help="Serve the live page, /metrics, /healthz and /readyz; 0 picks a port.",
        ),
        option(
            "--metrics-host",
            default="127.0.0.1",
            show_default=True,
            metavar="HOST",
            help="Address to serve on; one that other hosts reach needs a token.",
        ),
        option(
            "--metrics-token",
            envvar="FLOWRT_METRICS_TOKEN",
            show_envvar=True,
            metavar="TOKEN",
            help="Require this token; other users can see a command line.",
        ),
        option("--metrics-cert", type=click.Path(), metavar="FILE", help="Certificate (PEM) for TLS."),
        option("--metrics-key", type=click.Path(), metavar="FILE", help="Private key of the certificate (PEM)."),
        option(
            "--trace-url",
            envvar="FLOWRT_TRACE_URL",
            show_envvar=True,
            metavar="URL",
            help="Link trace ids to this URL, which holds {trace_id}.",
        ),
        option("--live-control", is_flag=True, help="Let the live page control batches; needs a token."),
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
