"""Options of a run: concurrency, time limits and policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from flowrt.cli.exit_codes import CommandError
from flowrt.cli.options.groups import collect, grouped
from flowrt.cli.options.param_types import CONCURRENCY, HEDGE, RATE, SECONDS

if TYPE_CHECKING:
    from flowrt.policies import AdaptiveLimit, Hedge, RateLimit

__all__ = ["ExecutionOptions", "execution_options"]

_OPTIONS: Final = {"continue_on_error": "fail_fast", "retry": "retries", "rate_limit": "rates"}
"""The options of settings that are named otherwise."""


@dataclass(frozen=True, slots=True)
class ExecutionOptions:
    """Options of a run, as `BatchProcessor` takes them.

    Args:
        max_concurrency: Maximum number of items at once.
        item_timeout: Time limit of one attempt, in seconds.
        batch_timeout: Time limit of the run, in seconds.
        retries: Maximum number of retries per item.
        rates: Rate limits.
        hedge: When to start a second attempt.
        cache: File of outputs by input, or None.
        executor: Where items run.
        workers: Number of worker processes or Ray actors, or None.
        ray_address: The Ray cluster; None for a local one.
        fail_fast: Stop at the first failure.
    """

    max_concurrency: int | AdaptiveLimit
    item_timeout: float | None
    batch_timeout: float | None
    retries: int
    rates: tuple[RateLimit, ...]
    hedge: Hedge | None
    cache: str | None
    executor: str
    workers: int | None
    ray_address: str | None
    fail_fast: bool

    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments of `BatchProcessor` for the options that are not left at their defaults.

        For the others a function decorated with `flowrt.node` may have settings of its own.
        """
        from flowrt.policies import RetryPolicy  # noqa: PLC0415  # heavy

        settings = {
            "max_concurrency": self.max_concurrency,
            "continue_on_error": not self.fail_fast,
            "item_timeout": self.item_timeout,
            "batch_timeout": self.batch_timeout,
            "retry": RetryPolicy(self.retries + 1) if self.retries else None,
            "rate_limit": self.rates or None,
            "hedge": self.hedge,
            "cache": self.cache,
            "executor": self._executor(),
        }
        source = click.get_current_context().get_parameter_source
        return {
            name: value
            for name, value in settings.items()
            if source(_OPTIONS.get(name, name)) is not ParameterSource.DEFAULT
        }

    def _executor(self) -> Any:
        for option, value, executors in (
            ("--workers", self.workers, ("processes", "ray")),
            ("--ray-address", self.ray_address, ("ray",)),
        ):
            if value is not None and self.executor not in executors:
                raise CommandError(f"{option} {value} needs --executor {' or '.join(executors)}")
        try:
            if self.executor == "processes":
                from flowrt.executors.processes import ProcessesExecutor  # noqa: PLC0415  # only for those who use it

                return ProcessesExecutor(self.workers)
            if self.executor == "ray":
                from flowrt.executors.ray import RayExecutor  # noqa: PLC0415  # only for those who use it

                return RayExecutor(self.workers or 2, address=self.ray_address)
        except ValueError as exc:
            raise CommandError(str(exc)) from exc
        return self.executor


def execution_options(command: Any) -> Any:
    """Decorate a command with the options of a run, which it receives as `execution`."""
    option = grouped("Execution")
    return collect(
        "execution",
        ExecutionOptions,
        option(
            "--max-concurrency",
            type=CONCURRENCY,
            default=10,
            show_default=True,
            metavar="N|MIN:MAX|auto",
            help="Items at once; MIN:MAX adapts between bounds, auto is 1:100.",
        ),
        option("--item-timeout", type=SECONDS, metavar="S", help="Time limit of one attempt in seconds."),
        option("--batch-timeout", type=SECONDS, metavar="S", help="Time limit of the whole run in seconds."),
        option(
            "--retries",
            type=click.IntRange(min=0),
            default=0,
            metavar="N",
            help="Retry a failed item up to N times, with backoff.",
        ),
        option(
            "--rate",
            "rates",
            type=RATE,
            multiple=True,
            metavar="AMOUNT/TIME",
            help="Rate limit: 100/s, 600/min, 5/10s. Repeat it to apply several.",
        ),
        option("--cache", metavar="FILE", help="SQLite file of outputs; inputs that it has do not run."),
        option("--hedge", type=HEDGE, metavar="p95|S", help="Second attempt after this time; the first success wins."),
        option(
            "--executor",
            type=click.Choice(["loop", "threads", "processes", "ray"]),
            default="loop",
            show_default=True,
            help="Where items run; on the loop, functions that are not async run in threads.",
        ),
        option(
            "--workers",
            type=click.IntRange(min=1),
            metavar="N",
            help="Processes (one per core) or Ray actors (2 by default).",
        ),
        option(
            "--ray-address",
            metavar="ADDRESS",
            help="Ray cluster: auto or HOST:PORT; a local one by default.",
        ),
        option("--fail-fast", is_flag=True, help="Stop at the first failed item."),
    )(command)
