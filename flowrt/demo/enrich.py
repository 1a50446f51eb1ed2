"""The demo's node: one airport in, what the service knows about it out."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import aiohttp

from flowrt.model.node import BaseNode, NodeContext, NodeResult, WorkflowContext

__all__ = ["EnrichAirport", "ServiceError"]


class ServiceError(Exception):
    """The service answered something other than 200.

    Args:
        status: The HTTP status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"the airport service answered {status}")
        self.status = status


class EnrichAirport(BaseNode):
    """Asks the service about an airport; to be used inside `async with`, which opens and closes its one session.

    Args:
        url: Where the service is, without a trailing slash.
    """

    def __init__(self, url: str) -> None:
        super().__init__(node_id="enrich", node_type="http", name="Enrich an airport", config={"url": url})
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the session."""
        self._session = aiohttp.ClientSession(
            self.config["url"],
            # how many run at once and for how long is the batch's to say
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:  # noqa: ARG002
        """Look the airport up.

        Raises:
            ServiceError: The answer is not 200.
            RuntimeError: It is used outside `async with`.
        """
        if self._session is None:
            raise RuntimeError("EnrichAirport has no session: use it inside `async with EnrichAirport(url) as node`")
        airport: dict[str, Any] = node_context.input_data
        async with self._session.get(f"/airports/{airport['iata']}") as response:
            if response.status != 200:
                raise ServiceError(response.status)
            return NodeResult(success=True, output={**airport, **await response.json()})
