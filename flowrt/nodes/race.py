"""Race: several nodes on one input; the first success wins, the others are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, overload

from flowrt.engine.input_isolation import isolate
from flowrt.engine.timeouts import GRACE_S
from flowrt.errors import error_text
from flowrt.executors import LoopExecutor, Session
from flowrt.model.foreign_node import NodeLike, as_node
from flowrt.model.node import AsyncFunction, BaseNode, NodeContext, NodeResult, WorkflowContext, failed
from flowrt.model.type_variables import In, Out

__all__ = ["RaceNode", "race"]


@overload
async def race(
    nodes: Iterable[BaseNode[In, Out]],
    input_data: In | NodeContext[In],
    workflow_context: WorkflowContext | None = None,
) -> NodeResult[Out]: ...
@overload
async def race(
    nodes: Iterable[AsyncFunction[In, Out]],
    input_data: In | NodeContext[In],
    workflow_context: WorkflowContext | None = None,
) -> NodeResult[Out]: ...
@overload
async def race(
    nodes: Iterable[NodeLike[Any]], input_data: Any, workflow_context: WorkflowContext | None = None
) -> NodeResult[Any]: ...
async def race(
    nodes: Iterable[NodeLike[Any]], input_data: Any, workflow_context: WorkflowContext | None = None
) -> NodeResult[Any]:
    """Run several nodes on the same input and take the first success.

    Every loser was cancelled and has ended on return, also if the race itself is cancelled. A plain function runs in a
    thread, which cannot be cancelled: the race waits for it. A loser that does not end within 5 s is left running, and
    `metadata["still_running"]` of the result lists the node_ids of such losers.

    Args:
        nodes: BaseNodes or functions of one argument; each receives its own copy of the input.
        input_data: The input, or a NodeContext that holds it.
        workflow_context: Shared by all nodes; a new one by default.

    Returns:
        The first successful NodeResult, or, if all fail, one failed NodeResult that names each error;
        `metadata["errors"]` lists them as `{node_id, error}`.

    Raises:
        ValueError: `nodes` is empty.
        TypeError: A node is neither a BaseNode nor a function.
    """
    runners = [as_node(node) for node in nodes]
    if not runners:
        raise ValueError("race needs at least one node, not an empty list")
    data = input_data.input_data if isinstance(input_data, NodeContext) else input_data
    workflow = WorkflowContext() if workflow_context is None else workflow_context
    executor = LoopExecutor()
    entries = [_Entry(node, executor.open(node, 1), isolate(data), workflow) for node in runners]
    winner: NodeResult | None = None
    try:
        running = {entry.task for entry in entries}
        while running and winner is None:
            _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            winner = _first_success(entries)
    finally:
        still_running = await _end(entries)
    if winner is not None:
        if still_running:
            winner.metadata["still_running"] = still_running
        return winner
    listed = [{"node_id": entry.node.node_id, "error": error_text(_outcome(entry.task).error)} for entry in entries]
    text = "; ".join(f"{entry['node_id']}: {entry['error']}" for entry in listed)
    return failed(f"all {len(listed)} nodes failed: {text}", {"errors": listed})


class RaceNode(BaseNode[In, Out]):
    """`race` as a node: its input goes to all its nodes, and the first success is its result.

    Args:
        node_id: Names the node.
        nodes: BaseNodes or functions of one argument.
        name: Display name; the node_id by default.
        config: The node's own settings.

    Raises:
        ValueError: `nodes` is empty.
        TypeError: A node is neither a BaseNode nor a function.
    """

    @overload
    def __init__(
        self,
        node_id: str,
        nodes: Iterable[BaseNode[In, Out]],
        name: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: RaceNode[Any, Any],
        node_id: str,
        nodes: Iterable[NodeLike[Any]],
        name: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None: ...
    def __init__(
        self,
        node_id: str,
        nodes: Iterable[NodeLike[Any]],
        name: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(node_id, "race", name, config)
        self.nodes = [as_node(node) for node in nodes]
        if not self.nodes:
            raise ValueError(f"RaceNode {node_id!r} needs at least one node, not an empty list")

    async def execute(self, node_context: NodeContext[In], workflow_context: WorkflowContext) -> NodeResult[Out]:
        """Race the nodes on the context's input."""
        result: NodeResult[Out] = await race(self.nodes, node_context.input_data, workflow_context)
        return result


class _Entry:
    """One node in a race, its session and its task."""

    __slots__ = ("node", "session", "task")

    def __init__(self, node: BaseNode, session: Session, data: Any, workflow: WorkflowContext) -> None:
        self.node = node
        self.session = session
        self.task = asyncio.create_task(self._attempt(data, workflow), name=f"race {node.node_id}")

    async def _attempt(self, data: Any, workflow: WorkflowContext) -> NodeResult:
        node = self.node
        result = await self.session.invoke(NodeContext(node.node_id, node.node_type, data), workflow)
        if not isinstance(result, NodeResult):
            return failed(f"returned {type(result).__name__}, not a NodeResult")
        return result


def _first_success(entries: list[_Entry]) -> NodeResult | None:
    """Return the first success in the order of the nodes, if several have ended."""
    results = [_outcome(entry.task) for entry in entries if entry.task.done()]
    return next((result for result in results if result.success), None)


def _outcome(task: asyncio.Task[NodeResult]) -> NodeResult:
    if task.cancelled():
        return failed("the node raised CancelledError itself")
    error = task.exception()
    if error is None:
        return task.result()
    if not isinstance(error, Exception):  # KeyboardInterrupt, SystemExit
        raise error
    return failed(error)


async def _end(entries: list[_Entry]) -> list[str]:
    """Cancel the running nodes and wait for their end, even if this call is cancelled.

    Returns:
        The node_ids of those that did not end.
    """
    running = {entry.task for entry in entries if not entry.task.done()}
    for task in running:
        task.cancel()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + GRACE_S
    interrupted: asyncio.CancelledError | None = None
    while running and (left := deadline - loop.time()) > 0:
        try:
            _, running = await asyncio.wait(running, timeout=left)
        except asyncio.CancelledError as exc:
            interrupted = exc
            running = {task for task in running if not task.done()}
    for entry in entries:
        if entry.task in running:
            entry.session.abandon_one()
        entry.task.add_done_callback(_retrieve)
        entry.session.close()
    if interrupted is not None:
        raise interrupted
    return [entry.node.node_id for entry in entries if entry.task in running]


def _retrieve(task: asyncio.Task[NodeResult]) -> None:
    """Retrieve a loser's exception, or asyncio logs that it was never retrieved."""
    if not task.cancelled():
        task.exception()
