"""Helpers for tests of nodes and batches: captured telemetry, virtual time, scripted nodes.

`pytest_plugins = ["flowrt.testing.plugin"]` in a conftest.py adds the fixtures `telemetry` and `run_virtual`.
"""

from __future__ import annotations

from flowrt.testing.conservation import assert_conserved
from flowrt.testing.nodes import (
    ODD_EXCEPTIONS,
    ScriptedNode,
    Step,
    blocks,
    cancels_itself,
    fails,
    hangs,
    raises,
    returns,
    sleeps,
)
from flowrt.testing.telemetry import CapturedTelemetry, capture_telemetry
from flowrt.testing.virtual_time import run_on, run_virtual

__all__ = [
    "ODD_EXCEPTIONS",
    "CapturedTelemetry",
    "ScriptedNode",
    "Step",
    "assert_conserved",
    "blocks",
    "cancels_itself",
    "capture_telemetry",
    "fails",
    "hangs",
    "raises",
    "returns",
    "run_on",
    "run_virtual",
    "sleeps",
]
