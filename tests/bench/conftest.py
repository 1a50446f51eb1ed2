"""Invented figures, for the arithmetic and the tables."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def work() -> dict[str, Any]:
    return {
        "name": "1ms",
        "title": "1 ms at 100",
        "items": 1_000,
        "concurrency": 100,
        "ideal_s": 0.01,
        "samples": {
            "floor": [{"wall_s": 0.02}, {"wall_s": 0.04}, {"wall_s": 0.02}],
            "nadoo": [{"wall_s": wall, "cpu_s": 0.05} for wall in (0.05, 0.09, 0.03)],
            "flowrt-bare": [{"wall_s": wall, "cpu_s": 0.015} for wall in (0.02, 0.05, 0.02)],
            "flowrt-delivered": [
                {"wall_s": 0.03, "delivered": 1_000},
                {"wall_s": 0.05, "delivered": 999},
                {"wall_s": 0.02, "delivered": 1_000},
            ],
        },
    }


@pytest.fixture
def machine() -> dict[str, Any]:
    return {
        "processor": "a processor",
        "cores": 2,
        "system": "a system",
        "python": "CPython 3.11",
        "packages": {"uvloop": "1.0"},
        "commit": "abc",
        "garbage_collector": "enabled",
        "measured_at": "today",
    }


@pytest.fixture
def measured(work: dict[str, Any], machine: dict[str, Any]) -> dict[str, Any]:
    return {"machine": machine, "rounds": 3, "missing": {"gather": "gather is not installed"}, "workloads": [work]}
