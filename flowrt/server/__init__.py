"""HTTP server of a process: the live page at `/`, `/metrics`, `/healthz` and `/readyz`."""

from __future__ import annotations

from flowrt.server.app import READINESS, asgi_app
from flowrt.server.thread import TelemetryServer

__all__ = ["READINESS", "TelemetryServer", "asgi_app"]
