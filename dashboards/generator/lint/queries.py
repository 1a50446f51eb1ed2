"""Rules on PromQL, checked on the syntax tree of a PromQL parser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import promql_parser
from promql_parser import Call, Expr, MatchOp, MatrixSelector, SubqueryExpr, VectorSelector

from dashboards.generator.objectives import FAILURE_RATIO, LATE_RATIO, SUCCESS_INTERVAL, objectives_file
from dashboards.generator.promql import PROCESS_METRICS
from dashboards.generator.recording import recording_groups
from flowrt.telemetry.metrics.catalogue import CATALOGUE

__all__ = ["lint_query", "names_in"]

Wrong = tuple[str, str]

_RATE_INTERVAL: Final = "4242s"
_RANGE: Final = "4243s"
_STANDS_FOR: Final = {"$__rate_interval": _RATE_INTERVAL, "$__range": _RANGE, "$__interval": "4244s"}
_GROWTH: Final = frozenset({"rate", "irate", "increase"})
_PARTS: Final = ("_bucket", "_sum", "_count")
_OBJECTIVES: Final = frozenset({FAILURE_RATIO, LATE_RATIO, SUCCESS_INTERVAL})
_RECORDED: Final = frozenset(
    {rule["record"] for group in recording_groups()["groups"] for rule in group["rules"]}
    | set(re.findall(r"^ +- record: (\S+)$", objectives_file(), re.MULTILINE))
)


class _Reader:
    """Visitor that collects the selectors of a query with their surroundings.

    Attributes:
        selectors: Each selector with the function that takes it and its range in seconds, or None.
    """

    def __init__(self) -> None:
        self.selectors: list[tuple[VectorSelector, Call | None, float | None]] = []
        self._above: list[Expr] = []

    def enter(self, expr: Expr) -> None:
        """Visit an expression before its children."""
        if isinstance(expr, MatrixSelector):
            self.selectors.append((expr.vector_selector, self._call(), expr.range.total_seconds()))
        elif isinstance(expr, VectorSelector) and not (self._above and isinstance(self._above[-1], MatrixSelector)):
            self.selectors.append((expr, None, None))
        self._above.append(expr)

    def leave(self, expr: Expr) -> None:  # noqa: ARG002  # the signature that the walker calls
        """Leave an expression after its children."""
        self._above.pop()

    def _call(self) -> Call | None:
        """Return the innermost function that takes the range; None if a subquery stands in between."""
        for expr in reversed(self._above):
            if isinstance(expr, Call):
                return expr
            if isinstance(expr, SubqueryExpr):
                return None
        return None


def _read(query: str) -> _Reader:
    """Parse a query.

    Raises:
        ValueError: The query is not valid PromQL.
    """
    for variable, length in _STANDS_FOR.items():
        query = query.replace(variable, length)
    reader = _Reader()
    promql_parser.walk(promql_parser.parse(query), reader.enter, reader.leave)
    return reader


def names_in(query: str) -> set[str]:
    """Return the names of the series that a query reads; empty if it cannot be parsed."""
    try:
        return {selector.name or "" for selector, _, _ in _read(query).selectors}
    except ValueError:
        return set()


def lint_query(query: str) -> Iterator[Wrong]:
    """Yield the problems of a query with their fixes.

    Args:
        query: PromQL with Grafana's variables.
    """
    try:
        reader = _read(query)
    except ValueError as exc:
        yield f"its query cannot be parsed: {exc}", f"correct it: {query}"
        return
    for selector, call, range_s in reader.selectors:
        yield from _lint_selector(selector)
        yield from _lint_range(selector.name or "", call, range_s)


def _kind(name: str) -> str | None:
    """Return the metric's type, `histogram` for the parts of one; None for an unknown metric."""
    if name in CATALOGUE:
        return CATALOGUE[name].kind
    for part in _PARTS:
        whole = CATALOGUE.get(name.removesuffix(part)) if name.endswith(part) else None
        if whole is not None and whole.kind == "histogram":
            return "histogram"
    return PROCESS_METRICS.get(name)


def _lint_selector(selector: VectorSelector) -> Iterator[Wrong]:
    name = selector.name or ""
    if name in _OBJECTIVES:
        return
    if name != "ALERTS" and name not in _RECORDED and _kind(name) is None:
        fix = "use one of flowrt/telemetry/metrics/catalogue.py, dashboards/generator/promql.py or the recording rules"
        yield f"{name or 'a selector without a name'} is in no catalogue", fix
        return
    wanted = ["job"]
    if name != "ALERTS" and (name not in _RECORDED or "instance" in name.partition(":")[0].split("_")):
        wanted.append("instance")
    matched = {(m.name, m.value) for m in selector.matchers.matchers if m.op == MatchOp.Re}
    for label in wanted:
        if (label, f"${label}") not in matched:
            yield f"{name} is not narrowed by ${label}", f'match {label}=~"${label}"'


def _lint_range(name: str, call: Call | None, range_s: float | None) -> Iterator[Wrong]:
    function = call.func.name if call is not None else None
    if _kind(name) in ("counter", "histogram") and function not in _GROWTH:
        yield f"{name} is a counter and is not in rate, irate or increase", f"rate({name}[$__rate_interval])"
    if range_s is None or function not in _GROWTH:
        return
    allowed = (_RATE_INTERVAL, _RANGE) if function == "increase" else (_RATE_INTERVAL,)
    if f"{range_s:g}s" not in allowed:
        yield f"{function} of {name} has a fixed range", f"{function}({name}[$__rate_interval])"
