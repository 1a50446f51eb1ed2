"""Static files of the live page, served from the package by a fixed table.

No file path is built from a request, and the page loads nothing from other hosts.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Final

from flowrt.server.responses import Response

__all__ = ["FILES", "page_file"]

FILES: Final = {
    "/": ("page.html", b"text/html; charset=utf-8"),
    "/live/page.css": ("page.css", b"text/css; charset=utf-8"),
    "/live/page.js": ("page.js", b"text/javascript; charset=utf-8"),
    "/live/batch.js": ("batch.js", b"text/javascript; charset=utf-8"),
    "/live/charts.js": ("charts.js", b"text/javascript; charset=utf-8"),
    "/live/dom.js": ("dom.js", b"text/javascript; charset=utf-8"),
    "/live/format.js": ("format.js", b"text/javascript; charset=utf-8"),
    "/live/overview.js": ("overview.js", b"text/javascript; charset=utf-8"),
    "/live/workers.js": ("workers.js", b"text/javascript; charset=utf-8"),
    "/live/icon.svg": ("icon.svg", b"image/svg+xml"),
    "/live/icon-failing.svg": ("icon-failing.svg", b"image/svg+xml"),
}
"""File name and content type by request path."""

_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)


def page_file(path: str) -> Response:
    """Return the response with one of the files.

    Args:
        path: A key of `FILES`.
    """
    name, content_type = FILES[path]
    headers = [(b"content-type", content_type), (b"content-security-policy", _POLICY), (b"x-frame-options", b"DENY")]
    return 200, headers, _read(name)


@cache
def _read(name: str) -> bytes:
    return resources.files("flowrt.server").joinpath("static", name).read_bytes()
