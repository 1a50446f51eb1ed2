"""Attributes of item spans: the SDK's bounded mapping, filled so that no value can fail the item that sets it.

The SDK converts values of unknown types with `str()`, and lets an exception of that conversion reach the caller, which
is the user's node. Here such a value is dropped, counted and logged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.attributes import BoundedAttributes

from flowrt.telemetry.metrics.store import METRICS
from flowrt.telemetry.otlp.sender import warn_rate_limited

__all__ = ["drop", "frozen", "set_all", "set_one"]


def frozen(most: int | None, attributes: Any, longest: int | None) -> BoundedAttributes:
    """Make the immutable attributes of an event or a link.

    Args:
        most: Limit of attributes; None for no limit.
        attributes: The attributes, or None.
        longest: Limit of a text's length, in characters; None for no limit.
    """
    try:
        return BoundedAttributes(most, attributes, max_value_len=longest)
    except Exception:
        bounded = BoundedAttributes(most, None, immutable=False, max_value_len=longest)
        set_all(bounded, attributes)
        bounded._immutable = True  # noqa: SLF001  # as the constructor does
        return bounded


def set_one(bounded: BoundedAttributes, key: Any, value: Any) -> None:
    """Set an attribute, or drop it if its value cannot be converted."""
    try:
        bounded[key] = value
    except Exception as exc:
        bounded.dropped += 1
        drop(key, exc)


def set_all(bounded: BoundedAttributes, attributes: Any) -> None:
    """Set attributes, dropping those that cannot be converted.

    Args:
        bounded: The mapping to fill.
        attributes: A mapping. Anything else is dropped as a whole.
    """
    # Unlike `update`, the SDK's own way converts keys that are not text. SDKs before 1.39 do not have it.
    set_items: Callable[[Any], None] = getattr(bounded, "_set_items", bounded.update)
    try:
        set_items(attributes)
    except Exception as exc:
        if isinstance(attributes, Mapping):
            for key, value in attributes.items():
                set_one(bounded, key, value)
        else:
            bounded.dropped += 1
            drop(type(attributes).__name__, exc)


def drop(key: Any, exc: Exception) -> None:
    """Count a dropped attribute in the metrics, and log the error, at most once per minute and type of error.

    Args:
        key: The attribute's key.
        exc: The reason.
    """
    METRICS.dropped("attributes", "export_error")
    warn_rate_limited(
        ("attribute", type(exc)),
        "dropped the span attribute %.100r: OpenTelemetry cannot represent its value (%s); "
        "set a str, a number, a bool or a sequence of these",
        key if isinstance(key, str) else type(key).__name__,
        type(exc).__name__,
    )
