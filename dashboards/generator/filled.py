"""A dashboard's queries as Grafana would send them: with its variables filled in."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["filled"]


def filled(query: str, *, interval: str, span: str, chosen: Mapping[str, str] | None = None) -> str:
    """The query.

    Args:
        query: With Grafana's variables.
        interval: What `$__rate_interval` and `$__interval` stand for.
        span: What `$__range` stands for.
        chosen: The dashboard's variables that are not at `All`.
    """
    values = {"job": ".+", "instance": ".+", "batch": ".+", "node": ".+", **(chosen or {})}
    query = query.replace("$__rate_interval", interval).replace("$__range", span).replace("$__interval", interval)
    for name, value in values.items():
        query = query.replace(f"${name}", value)
    return query
