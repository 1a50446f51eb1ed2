"""Settings of a batch as types: the keywords of `BatchProcessor` and the attributes that read them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, ParamSpec, Protocol, Self, TypedDict, TypeVar, overload

from flowrt.batch.config import BatchConfig
from flowrt.engine.instrument import Instrument
from flowrt.executors import Executor, ExecutorName
from flowrt.journal import Journal, JournalPolicy
from flowrt.model.node import FunctionNode
from flowrt.model.type_variables import In, Out
from flowrt.policies import AdaptiveLimit, Cache, CircuitBreaker, Hedge, RateLimit, RetryPolicy
from flowrt.telemetry.options import Telemetry

__all__ = ["BatchSettings", "KeywordSettings", "PresetNode", "Setting", "use_presets"]

T = TypeVar("T")
P = ParamSpec("P")


class KeywordSettings(TypedDict, total=False):
    """Settings that `BatchProcessor` takes as keywords only."""

    item_timeout: float | None
    batch_timeout: float | None
    retry: RetryPolicy | int | None
    rate_limit: RateLimit | str | Iterable[RateLimit | str] | None
    breaker: CircuitBreaker | None
    cache: Cache | str | os.PathLike[str] | bool | None
    hedge: Hedge | None
    executor: ExecutorName | Executor | None
    journal: str | os.PathLike[str] | JournalPolicy | Journal | None
    record: str | os.PathLike[str] | None
    speedup_sample: int | None
    name: str | None
    telemetry: bool | Telemetry
    instruments: Iterable[Instrument]
    task_per_item: bool


class BatchSettings(KeywordSettings, total=False):
    """Settings of a batch, as `BatchProcessor` takes them."""

    max_concurrency: int | AdaptiveLimit
    continue_on_error: bool


class PresetNode(FunctionNode[In, Out]):
    """Function with the settings of its batches.

    Args:
        fn: As `FunctionNode` takes it.
        node_id: Name on spans, metrics and logs; the function's name by default.
        settings: Defaults of `BatchProcessor` for this node.
    """

    def __init__(self, fn: Callable[[In], Any], node_id: str | None, settings: BatchSettings) -> None:
        super().__init__(fn, node_id)
        self.settings = settings


def use_presets(init: Callable[P, None]) -> Callable[P, None]:
    """Decorate a processor's constructor: settings that are not passed are taken from a `PresetNode`."""

    @functools.wraps(init)
    def with_presets(*args: Any, **settings: Any) -> None:
        node = args[1] if len(args) > 1 else settings.get("node")
        if isinstance(node, PresetNode):
            positional = _POSITIONAL[: max(0, len(args) - 2)]
            given = settings.keys() | positional
            settings |= {name: value for name, value in node.settings.items() if name not in given}
        init(*args, **settings)

    return with_presets


_POSITIONAL: Final = ("max_concurrency", "continue_on_error")


class _Configured(Protocol):
    config: BatchConfig


class Setting(Generic[T]):
    """A setting of a processor: read from its configuration, checked when it is set.

    Args:
        fixed: True if the setting cannot be changed, because metrics and instruments depend on it.
    """

    def __init__(self, *, fixed: bool = False) -> None:
        self._fixed = fixed

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, processor: None, owner: type) -> Self: ...
    @overload
    def __get__(self, processor: _Configured, owner: type) -> T: ...
    def __get__(self, processor: _Configured | None, owner: type) -> Self | T:
        if processor is None:
            return self
        value: T = getattr(processor.config, self._name)
        return value

    def __set__(self, processor: _Configured, value: Any) -> None:
        if self._fixed:
            raise AttributeError(f"{self._name} of a BatchProcessor cannot be changed: make a new one")
        processor.config = processor.config.changed(**{self._name: value})
