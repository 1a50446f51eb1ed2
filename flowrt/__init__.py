"""flowrt: run a node over many items at once, with every item traced, measured and accounted for."""

from __future__ import annotations

from flowrt._version import __version__
from flowrt.batch import BatchProcessor, BatchResults
from flowrt.errors import FlowrtError, ItemFailedError, MissingExtraError
from flowrt.instrument import Instrument
from flowrt.nodes.base import BaseNode, FunctionNode, NodeContext, NodeResult, WorkflowContext
from flowrt.policy import Telemetry
from flowrt.records import BatchRecord, BatchResult, ItemRecord, Rejected
from flowrt.report import BatchReport

__all__ = [
    "BaseNode",
    "BatchProcessor",
    "BatchRecord",
    "BatchReport",
    "BatchResult",
    "BatchResults",
    "FlowrtError",
    "FunctionNode",
    "Instrument",
    "ItemFailedError",
    "ItemRecord",
    "MissingExtraError",
    "NodeContext",
    "NodeResult",
    "Rejected",
    "Telemetry",
    "WorkflowContext",
    "__version__",
]
