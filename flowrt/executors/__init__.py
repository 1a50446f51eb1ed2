"""Executors: they run attempts on the loop, in threads, in processes or in a cluster."""

from __future__ import annotations

from concurrent.futures import Executor as PoolExecutor
from typing import Any, Literal

from flowrt.executors.base import Executor, Session
from flowrt.executors.loop import LoopExecutor
from flowrt.executors.threads import ThreadsExecutor

__all__ = ["Executor", "ExecutorName", "LoopExecutor", "Session", "ThreadsExecutor", "executor_of"]

ExecutorName = Literal["loop", "threads", "processes"]
"""Name of a built-in executor."""


def executor_of(choice: Any) -> Executor:
    """Return the executor for an argument: None or "loop", "threads", "processes", "ray", or an executor.

    Raises:
        ValueError: `choice` is none of these.
        MissingExtraError: The extra that it needs is not installed.
    """
    if choice is None or choice == "loop":
        return LoopExecutor()
    if choice == "threads":
        return ThreadsExecutor()
    if choice == "processes":
        from flowrt.executors.processes import default_executor  # noqa: PLC0415  # only for those who use it

        return default_executor()
    if choice == "ray":
        from flowrt.executors import ray  # noqa: PLC0415  # only for those who use it

        return ray.default_executor()
    if isinstance(choice, PoolExecutor):
        from flowrt.executors.futures import FuturesExecutor  # noqa: PLC0415  # only for those who use it

        return FuturesExecutor(choice)
    if hasattr(choice, "open"):
        executor: Executor = choice
        return executor
    raise ValueError(f"executor must be 'loop', 'threads', 'processes', 'ray' or an executor, not {choice!r}")
