"""Queries of a dashboard with Grafana's variables filled in."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["filled"]


def filled(query: str, *, interval: str, span: str, chosen: Mapping[str, str] | None = None) -> str:
    """Return the query as Grafana sends it.

    Args:
        query: PromQL with Grafana's variables.
        interval: Value of `$__rate_interval` and `$__interval`.
        span: Value of `$__range`.
        chosen: Values of the dashboard's variables that are not at `All`.
    """
    values = {"job": ".+", "instance": ".+", "batch": ".+", "node": ".+", **(chosen or {})}
    query = query.replace("$__rate_interval", interval).replace("$__range", span).replace("$__interval", interval)
    for name, value in values.items():
        query = query.replace(f"${name}", value)
    return query
