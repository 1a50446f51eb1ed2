"""Scripted nodes: each attempt of an item takes the next step of a script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from flowrt.model.node import BaseNode, NodeContext, NodeResult, WorkflowContext

__all__ = [
    "ODD_EXCEPTIONS",
    "Call",
    "ScriptedNode",
    "Step",
    "blocks",
    "cancels_itself",
    "fails",
    "hangs",
    "raises",
    "returns",
    "sleeps",
]

Step = Callable[[Any], Awaitable[Any]]
"""One attempt: takes the input and returns an output or a NodeResult, or raises."""


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt that a scripted node ran.

    Attributes:
        index: Index of the item, None outside a batch.
        attempt: 1 for the first attempt.
        input_data: The input.
        at_s: Time of its start on the loop's clock, in seconds; calls are equal whenever they started.
    """

    index: int | None
    attempt: int
    input_data: Any
    at_s: float = field(default=0.0, compare=False)


class ScriptedNode(BaseNode):
    """Node whose attempts follow a script: the first attempt takes the first step, and so on; the last step repeats.

    Args:
        steps: Steps of every item; without any, each attempt returns its input.
        items: Steps of single items, by index.
        node_id: Name on spans, metrics and logs.

    Attributes:
        calls: The attempts so far, in order of their start.
        running: Number of attempts that run now.
        peak: Most attempts that ran at once.

    Example:
        >>> import asyncio
        >>> from flowrt import BatchProcessor, RetryPolicy
        >>> node = ScriptedNode(raises(ConnectionError), returns("fine"), items={1: [returns("at once")]})
        >>> results = asyncio.run(BatchProcessor(node, retry=RetryPolicy(3, base=0.001)).batch(["a", "b"]))
        >>> [(result.output, result.attempts) for result in results]
        [('fine', 2), ('at once', 1)]
    """

    def __init__(
        self, *steps: Step, items: Mapping[int, Sequence[Step]] | None = None, node_id: str = "scripted"
    ) -> None:
        super().__init__(node_id, "scripted")
        self._steps = steps or (_echo,)
        self._items = {} if items is None else items
        self.calls: list[Call] = []
        self.running = self.peak = 0

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:  # noqa: ARG002
        """Take the step of this attempt."""
        index, attempt = node_context.index, node_context.attempt
        steps = self._steps if index is None else self._items.get(index, self._steps)
        self.calls.append(Call(index, attempt, node_context.input_data, asyncio.get_running_loop().time()))
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            value = await steps[min(attempt, len(steps)) - 1](node_context.input_data)
        finally:
            self.running -= 1
        return value if isinstance(value, NodeResult) else NodeResult(True, value)


async def _echo(data: Any) -> Any:
    return data


def returns(value: Any) -> Step:
    """Step that returns a value or a NodeResult."""

    async def step(_: Any) -> Any:
        return value

    return step


def raises(error: BaseException | type[BaseException]) -> Step:
    """Step that raises an exception; a class is instantiated for each attempt."""

    async def step(_: Any) -> Any:
        raise error

    return step


def fails(times: int, error: BaseException | type[BaseException] = ConnectionError, then: Step = _echo) -> list[Step]:
    """Return steps that raise a number of times and then take another step, for `ScriptedNode(*fails(2))`.

    Args:
        times: Number of attempts that fail.
        error: The exception, or its class.
        then: The step of later attempts; by default they return the input.
    """
    return [*[raises(error)] * times, then]


def sleeps(seconds: float, then: Step = _echo) -> Step:
    """Step that sleeps and then takes another step.

    Args:
        seconds: Length of the sleep.
        then: The step after it; by default it returns the input.
    """

    async def step(data: Any) -> Any:
        await asyncio.sleep(seconds)
        return await then(data)

    return step


def hangs(*, stubborn_for: float = 0.0) -> Step:
    """Step that never ends by itself.

    Args:
        stubborn_for: Time for which the step ignores cancellation, in seconds.
    """

    async def step(_: Any) -> Any:
        loop = asyncio.get_running_loop()
        until = None
        while until is None or loop.time() < until:
            try:
                await (loop.create_future() if until is None else asyncio.sleep(until - loop.time()))
            except asyncio.CancelledError:
                if until is None:
                    until = loop.time() + stubborn_for
                if loop.time() >= until:
                    raise
        raise asyncio.CancelledError

    return step


def blocks(seconds: float, then: Step = _echo) -> Step:
    """Step that blocks the event loop in real time, even on a loop of virtual time.

    Args:
        seconds: Length of the block.
        then: The step after it; by default it returns the input.
    """

    async def step(data: Any) -> Any:
        time.sleep(seconds)  # noqa: ASYNC251  # the mistake that it simulates
        return await then(data)

    return step


def cancels_itself() -> Step:
    """Step that cancels its own task, as a library with a timeout may."""

    async def step(_: Any) -> Any:
        task = asyncio.current_task()
        if task is not None:
            task.cancel()
        await asyncio.sleep(0)

    return step


class _MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class _UnpicklableError(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("cannot be pickled")


class _FalsyError(Exception):
    def __bool__(self) -> bool:
        return False


ODD_EXCEPTIONS: Final[dict[str, Callable[[], Exception]]] = {
    "without a message": ValueError,
    "without a readable text": _MuteError,
    "unpicklable": lambda: _UnpicklableError("unpicklable"),
    "falsy": lambda: _FalsyError("falsy"),
    "StopIteration": lambda: StopIteration("stop"),
    "StopAsyncIteration": lambda: StopAsyncIteration("stop"),
    "a group": lambda: ExceptionGroup("several", [ValueError("a"), OSError("b")]),
}
"""Exceptions that break careless code, by a name of their oddity: `raises(ODD_EXCEPTIONS[name]())`."""
