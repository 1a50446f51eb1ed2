"""Plan of a processor's batches: what its settings decide, found out once and not for every batch."""

from __future__ import annotations

from flowrt.batch.config import BatchConfig
from flowrt.executors import LoopExecutor, ThreadsExecutor
from flowrt.executors.base import Session
from flowrt.executors.loop import LoopSession
from flowrt.model.node import FunctionNode
from flowrt.policies import AdaptiveLimit

__all__ = ["BatchPlan"]


class BatchPlan:
    """What the batches of one configuration have in common.

    A web service runs one small batch per request, which would pay more for finding this out than for its items. The
    processor owns the plan, and makes a new one when a setting has changed.

    Args:
        config: The settings, which are frozen.

    Attributes:
        config: The same.
        has_policies: True if a policy may hold an attempt back, repeat it, or learn from it.
        opens_first: True if something has to be read or opened before a batch is built: a journal, a cache, a sample.
        in_process: True if attempts run in this process.
        starts_at_once: True if an item's first attempt begins as the item is pulled.
        takes_values: True if the node is a function, whose values may be taken without a NodeResult around them.
    """

    __slots__ = ("_session", "config", "has_policies", "in_process", "opens_first", "starts_at_once", "takes_values")

    def __init__(self, config: BatchConfig) -> None:
        self.config = config
        self.has_policies = (
            isinstance(config.max_concurrency, AdaptiveLimit)
            or config.retry is not None
            or bool(config.rate_limit)
            or config.breaker is not None
        )
        opened = (config.journal, config.cache, config.speedup_sample)
        self.opens_first = any(setting is not None for setting in opened)
        self.in_process = isinstance(config.executor, (LoopExecutor, ThreadsExecutor))
        self.starts_at_once = config.journal is None and config.cache is None and not self.has_policies
        self.takes_values = isinstance(config.node, FunctionNode)
        self._session: LoopSession | None = None

    def open_session(self) -> Session:
        """Open the executor's session for one batch; that of the loop has no state, so all batches share it."""
        config, session = self.config, self._session
        if session is not None and session.invoke == config.node.execute:
            return session
        opened = config.executor.open(config.node, config.limit)
        self._session = opened if type(opened) is LoopSession else None
        return opened
