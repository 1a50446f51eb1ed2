"""Click parameter types of policies: `1:200`, `600/min`, `p95`."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import click

from flowrt._util.validation import check_concurrency
from flowrt.cli.options.groups import Decorator
from flowrt.policies import AdaptiveLimit, Hedge, RateLimit

__all__ = ["CONCURRENCY", "HEDGE", "RATE", "SECONDS", "ParsedText", "count_option", "seconds_option"]

_HEDGE_SECONDS: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|s)?")


class _Seconds(click.FloatRange):
    """Positive, finite number of seconds. FloatRange alone lets nan and inf pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value} is not a finite number of seconds.", param, ctx)
        return seconds


class ParsedText(click.ParamType):  # type: ignore[type-arg]  # generic in click's latest only
    """Value parsed from text; the ValueError of `parse` becomes the usage error."""

    def parse(self, text: str) -> Any:
        """Parse the text.

        Raises:
            ValueError: The text is not valid.
        """
        raise NotImplementedError

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):  # a default, or converted before
            return value
        try:
            return self.parse(value.strip())
        except ValueError as exc:
            self.fail(f"{exc}.", param, ctx)


class _Concurrency(ParsedText):
    name = "n"

    def parse(self, text: str) -> int | AdaptiveLimit:
        if text == "auto":
            return AdaptiveLimit()
        low, colon, high = text.partition(":")
        try:
            bounds = int(low), int(high) if colon else 0
        except ValueError:
            raise ValueError(
                f"{text!r} is neither a number of items, like 50, nor bounds, like 1:200, nor auto"
            ) from None
        if not colon:
            return check_concurrency(bounds[0])
        try:
            return AdaptiveLimit(*bounds)
        except ValueError as exc:
            raise ValueError(f"{text!r} is not a valid MIN:MAX: {exc}") from None


class _Rate(ParsedText):
    name = "rate"

    def parse(self, text: str) -> RateLimit:
        return RateLimit.parse(text)


class _Hedge(ParsedText):
    name = "when"

    def parse(self, text: str) -> Hedge:
        found = _HEDGE_SECONDS.fullmatch(text)
        if found is None:
            try:
                return Hedge(text)
            except ValueError:
                raise ValueError(f"{text!r} is neither a quantile, like p95, nor a time, like 0.5s or 200ms") from None
        return Hedge(float(found["number"]) / (1000 if found["unit"] == "ms" else 1))


SECONDS: Final = _Seconds(min=0, min_open=True)
CONCURRENCY: Final = _Concurrency()
RATE: Final = _Rate()
HEDGE: Final = _Hedge()


def count_option(name: str, default: int, help_text: str) -> Decorator:
    """Return a click option for a number of at least 1.

    Args:
        name: The option.
        default: Its default, which the help shows.
        help_text: Its help.
    """
    option: Decorator = click.option(
        name, type=click.IntRange(min=1), default=default, show_default=True, metavar="N", help=help_text
    )
    return option


def seconds_option(name: str, default: float, help_text: str) -> Decorator:
    """Return a click option for a duration in seconds.

    Args:
        name: The option.
        default: Its default, which the help shows.
        help_text: Its help.
    """
    option: Decorator = click.option(
        name, type=SECONDS, default=default, show_default=True, metavar="S", help=help_text
    )
    return option
