"""Node of the demo: looks an airport up in the service."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import aiohttp

from flowrt.model.node import BaseNode, NodeContext, NodeResult, WorkflowContext

__all__ = ["EnrichAirport", "ServiceError"]


class ServiceError(Exception):
    """Error for an answer of the service other than 200.

    Args:
        status: HTTP status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"the airport service answered {status}")
        self.status = status


class EnrichAirport(BaseNode):
    """Node that requests an airport's data; `async with` opens and closes its HTTP session.

    Args:
        url: URL of the service, without a trailing slash.
    """

    def __init__(self, url: str) -> None:
        super().__init__(node_id="enrich", node_type="http", name="Enrich an airport", config={"url": url})
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the session."""
        self._session = aiohttp.ClientSession(
            self.config["url"],
            # the batch limits concurrency and time
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the session."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:  # noqa: ARG002
        """Request the airport's data.

        Raises:
            ServiceError: The status is not 200.
            RuntimeError: The node is used outside `async with`.
        """
        if self._session is None:
            raise RuntimeError("EnrichAirport has no session: use it inside `async with EnrichAirport(url) as node`")
        airport: dict[str, Any] = node_context.input_data
        async with self._session.get(f"/airports/{airport['iata']}") as response:
            if response.status != 200:
                raise ServiceError(response.status)
            return NodeResult(success=True, output={**airport, **await response.json()})
