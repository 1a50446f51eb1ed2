"""Resources of a node: a node that is an async context manager is entered around the run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from flowrt.cli.exit_codes import CommandError
from flowrt.model.node import BaseNode

__all__ = ["entered"]


@asynccontextmanager
async def entered(node: BaseNode) -> AsyncIterator[None]:
    """Enter the node, or the object that it wraps, if that is an async context manager; leave it at the end.

    Args:
        node: The node, as loaded.

    Raises:
        CommandError: Entering it failed.
    """
    async with AsyncExitStack() as stack:
        found: Any
        for found in (node, getattr(node, "fn", None)):
            if hasattr(type(found), "__aenter__") and hasattr(type(found), "__aexit__"):
                try:
                    await stack.enter_async_context(found)
                except Exception as exc:
                    raise CommandError(
                        f"node {node.node_id!r} could not be opened: its __aenter__ raised {type(exc).__name__}: {exc}"
                    ) from exc
        yield
