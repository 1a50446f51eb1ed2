"""Links from trace ids to the user's tracing UI."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlsplit

__all__ = ["check_trace_url", "trace_link"]

_PLACEHOLDER: Final = "{trace_id}"


def check_trace_url(template: str | None) -> str | None:
    """Check a template of links to traces, and return it.

    Args:
        template: URL with `{trace_id}` in place of the id, or None for no links.

    Raises:
        ValueError: The template is not an http or https URL, or has no `{trace_id}`.
    """
    if template is None:
        return None
    try:
        parts = urlsplit(template)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc or _PLACEHOLDER not in template:
        raise ValueError(
            f"trace_url must be an http or https URL with {_PLACEHOLDER}, not {template!r}: "
            f"for instance https://jaeger.example.com/trace/{_PLACEHOLDER}"
        )
    return template


def trace_link(template: str | None, trace_id: str | None) -> str | None:
    """Return the URL of a trace, or None if there is no template or no id.

    Args:
        template: A checked template, or None.
        trace_id: Id of the trace, or None.
    """
    if not template or not trace_id:
        return None
    return template.replace(_PLACEHOLDER, quote(trace_id, safe=""))
