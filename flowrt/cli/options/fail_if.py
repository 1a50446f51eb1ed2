"""Conditions of `--fail-if`: `failed>1%`, `p95>2s`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from flowrt.cli.options.param_types import ParsedText
from flowrt.reporting.report import BatchReport
from flowrt.reporting.units import duration, percent

__all__ = ["FAIL_IF", "Condition"]

Kind = Literal["count", "time", "rate"]

_OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_FORM: Final = re.compile(
    r"(?P<quantity>[a-z_]+(?:\d+(?:\.\d+)?)?)\s*(?P<operator>[<>]=?)\s*(?P<number>\d[\d_]*(?:\.\d+)?)\s*(?P<unit>%|/?[a-z]+)?"
)
_COUNTS: Final = ("failed", "timed_out", "cancelled")
_UNITS: Final[dict[Kind, dict[str, float]]] = {
    "count": {"": 1, "%": 0.01},
    "time": {"": 1, "ms": 0.001, "s": 1, "min": 60, "h": 3_600},
    "rate": {"": 1, "/s": 1, "/min": 1 / 60, "/h": 1 / 3_600},
}
_EXAMPLES: Final[dict[Kind, str]] = {
    "count": "a number of items or a share, like failed>10 or failed>1%",
    "time": "a time, like p95>2s or p95>250ms",
    "rate": "items per time, like rate<10/s",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """Condition on the figures of a finished run.

    Args:
        text: The condition as it was given.
        quantity: `failed`, `timed_out` or `cancelled` (items); `p50` and other percentiles, `mean` or `max` (of the
            execution times, in seconds); `duration` (wall time, in seconds); `rate` (items per second).
        compare: Compares the figure with the bound.
        bound: The bound.
        of_total: True if the bound is a share of all items.
    """

    text: str
    quantity: str
    compare: Callable[[float, float], bool]
    bound: float
    of_total: bool

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Parse a quantity, an operator and a bound.

        Raises:
            ValueError: The text has another form, or the unit is not one of the quantity's.
        """
        found = _FORM.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r} is no condition: write failed>1%, p95>2s or rate<10/s, with >, >=, < or <=")
        quantity, unit = found["quantity"], found["unit"] or ""
        kind = _kind_of(quantity)
        if kind is None:
            raise ValueError(
                f"{text!r} begins with {quantity!r}, which is none of failed, timed_out, cancelled, p50 to p99.9, "
                "mean, max, duration and rate"
            )
        scale = _UNITS[kind].get(unit)
        if scale is None:
            raise ValueError(f"{text!r} compares {quantity} with {unit!r}: write {_EXAMPLES[kind]}")
        bound = float(found["number"].replace("_", "")) * scale
        if unit == "%" and bound > 1:
            raise ValueError(f"{text!r} compares {quantity} with more than 100 %, which no run reaches")
        return cls(text.strip(), quantity, _OPERATORS[found["operator"]], bound, unit == "%")

    def check(self, report: BatchReport) -> str | None:
        """Return the condition with the run's figure if it holds, or None.

        Args:
            report: Report of the run. A figure that it lacks meets no condition: a run in which no item ran has no
                percentiles.
        """
        figure = _figure(self.quantity, report)
        if figure is None:
            return None
        if self.of_total:
            figure = figure / report.total if report.total else 0.0
        return f"{self.text} ({self._shown(figure)})" if self.compare(figure, self.bound) else None

    def _shown(self, figure: float) -> str:
        if self.of_total:
            return percent(figure)
        kind = _kind_of(self.quantity)
        return duration(figure) if kind == "time" else f"{figure:,.1f}/s" if kind == "rate" else f"{figure:,.0f}"


def _kind_of(quantity: str) -> Kind | None:
    """Return the kind of a quantity, or None for an unknown one."""
    if quantity in _COUNTS:
        return "count"
    if quantity == "rate":
        return "rate"
    if quantity in ("mean", "max", "duration") or 0 < _percentile(quantity) < 100:
        return "time"
    return None


def _percentile(quantity: str) -> float:
    """Return the percentile that a name like `p99.9` has, or 0."""
    found = re.fullmatch(r"p(\d+(?:\.\d+)?)", quantity)
    return float(found[1]) if found else 0.0


def _figure(quantity: str, report: BatchReport) -> float | None:
    """Return a quantity of a run, or None if it has none."""
    times = report.service_times
    if quantity == "failed":
        return report.failed
    if quantity in _COUNTS:
        return report.counts[quantity]
    if quantity == "duration":
        return report.wall_time
    if quantity == "rate":
        return report.throughput
    if not times.count:
        return None
    if quantity == "mean":
        return times.total / times.count
    return times.highest if quantity == "max" else times.at(_percentile(quantity) / 100)


class _FailIf(ParsedText):
    name = "condition"

    def parse(self, text: str) -> Condition:
        return Condition.parse(text)


FAIL_IF: Final = _FailIf()
