"""Control of active batches from the live page: pause, resume, drain and cancel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from flowrt.errors import one_line
from flowrt.model import BatchRecord
from flowrt.server.responses import Response, Scope, header_values, text
from flowrt.telemetry.live import LIVE

__all__ = ["ACTIONS", "control", "control_path"]

_PREFIX: Final = "/live/batches/"
_REASON: Final = "{} from the live page"

ACTIONS: Final[dict[str, Callable[[Any], None]]] = {
    "pause": lambda run: run.pause(),
    "resume": lambda run: run.resume(),
    "drain": lambda run: run.drain(_REASON.format("drained")),
    "cancel": lambda run: run.stop(_REASON.format("cancelled"), cancels_rest=True),
}
"""What each action calls on an active batch, on the batch's own loop."""

_log = logging.getLogger("flowrt.server")


def control_path(path: str) -> tuple[str, str] | None:
    """Return the batch id and the action of a control path, or None for any other path.

    Args:
        path: Path of the request, below the mount point.
    """
    batch_id, slash, action = path.removeprefix(_PREFIX).partition("/")
    return (batch_id, action) if path.startswith(_PREFIX) and slash and action in ACTIONS else None


def control(scope: Scope, batch_id: str, action: str) -> Response:
    """Apply an action to an active batch, and return the response.

    Browsers send credentials on their own, so a request must prove with its Origin that it comes from this page. A
    request without one is refused as well.

    Args:
        scope: Scope of the POST request.
        batch_id: Id of the batch.
        action: A key of `ACTIONS`.
    """
    own = {f"{scheme}://{host}" for scheme in ("http", "https") for host in header_values(scope, b"host")}
    origins = header_values(scope, b"origin")
    if not origins or not own.issuperset(origins):
        return text(403, "controlling a batch needs the Origin header of this server")
    view = LIVE.find(batch_id)
    loop = None if view is None else view.loop
    if view is None or loop is None:
        return text(404, "no active batch of the live page has this id")
    try:
        loop.call_soon_threadsafe(_apply, loop, view.batch, action)
    except RuntimeError:  # the loop was closed meanwhile
        return text(404, "the batch's event loop is closed")
    _log.warning("batch %s: %s requested from the live page", one_line(view.batch.name), action)
    return text(202, f"{action} requested")


def _apply(loop: asyncio.AbstractEventLoop, batch: BatchRecord, action: str) -> None:
    from flowrt.engine.batch_run import active_batches  # noqa: PLC0415  # keeps the server apart from the engine

    for run in active_batches(loop):
        if run.batch is batch:
            ACTIONS[action](run)
