"""flowrt: run a node over many items at once, with every item traced, measured and accounted for."""

from __future__ import annotations

import sys

_IS_MODULE = sys.argv[:1] == ["-m"] and "flowrt" in sys.orig_argv  # while this is imported, argv[0] is still "-m"
if _IS_MODULE and not sys.flags.safe_path:
    # `python -m flowrt` puts the working directory first, where a json.py would hide the standard library's from all
    # that is imported here
    del sys.path[0]

if _IS_MODULE or "".join(sys.argv[:1]).replace("\\", "/").endswith("/flowrt"):
    # the command, whose imports take a while: until `flowrt.cli.main` handles it, Ctrl-C ends it without a traceback
    import _signal  # type: ignore[import-not-found]  # the part of `signal` that imports nothing

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import importlib
from typing import TYPE_CHECKING, Any

from flowrt._version import __version__
from flowrt.batch.processor import BatchProcessor
from flowrt.batch.results import BatchFailedError, BatchResults
from flowrt.batch.shortcuts import map as map  # noqa: A004  # not in __all__: a star import would hide the builtin
from flowrt.batch.shortcuts import node
from flowrt.engine.instrument import Instrument
from flowrt.errors import FlowrtError, Interrupted, JournalError, MissingExtraError
from flowrt.journal import JournalPolicy
from flowrt.model import BatchRecord, BatchResult, ItemRecord, Rejected
from flowrt.model.node import BaseNode, FunctionNode, NodeContext, NodeResult, WorkflowContext
from flowrt.model.result import ItemFailedError
from flowrt.nodes.filter import FilterNode
from flowrt.nodes.map import MapNode
from flowrt.nodes.outputs import FilterOutput, MapOutput, ReduceOutput
from flowrt.nodes.race import RaceNode, race
from flowrt.nodes.reduce import ReduceNode
from flowrt.policies import AdaptiveLimit, Cache, CircuitBreaker, Hedge, RateLimit, RetryPolicy
from flowrt.reporting.report import BatchReport
from flowrt.telemetry.options import TailSampling, Telemetry

if TYPE_CHECKING:
    from flowrt.executors.processes import ProcessesExecutor
    from flowrt.executors.ray import RayExecutor
    from flowrt.runtime.runtime import Runtime, run
    from flowrt.server import asgi_app

__all__ = [
    "AdaptiveLimit",
    "BaseNode",
    "BatchFailedError",
    "BatchProcessor",
    "BatchRecord",
    "BatchReport",
    "BatchResult",
    "BatchResults",
    "Cache",
    "CircuitBreaker",
    "FilterNode",
    "FilterOutput",
    "FlowrtError",
    "FunctionNode",
    "Hedge",
    "Instrument",
    "Interrupted",
    "ItemFailedError",
    "ItemRecord",
    "JournalError",
    "JournalPolicy",
    "MapNode",
    "MapOutput",
    "MissingExtraError",
    "NodeContext",
    "NodeResult",
    "ProcessesExecutor",
    "RaceNode",
    "RateLimit",
    "RayExecutor",
    "ReduceNode",
    "ReduceOutput",
    "Rejected",
    "RetryPolicy",
    "Runtime",
    "TailSampling",
    "Telemetry",
    "WorkflowContext",
    "__version__",
    "asgi_app",
    "node",
    "race",
    "run",
]

_LATER = {
    "ProcessesExecutor": "flowrt.executors.processes",
    "RayExecutor": "flowrt.executors.ray",
    "Runtime": "flowrt.runtime",
    "run": "flowrt.runtime",
    "asgi_app": "flowrt.server",
}
"""Names imported on first use: their modules load a server and the OpenTelemetry SDK, or are needed by few."""


if not TYPE_CHECKING:  # with __getattr__, a type checker would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module 'flowrt' has no attribute {name!r}")
        return getattr(importlib.import_module(_LATER[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATER})
