"""Exporters of a Runtime: one export of metrics for a process, however many runtimes start at once."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest

from flowrt.runtime import exporters
from flowrt.runtime.exporters import Exporters


def test_runtimes_that_start_at_once_export_the_metrics_once(monkeypatch: pytest.MonkeyPatch) -> None:
    both, made = threading.Barrier(2), []

    class Export:
        def __init__(self, *_: Any) -> None:
            made.append(self)
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(0.3)  # both threads start one, unless one of them waits for the other

        def close(self, timeout_s: float) -> None: ...

    monkeypatch.setattr(exporters, "_metrics_export", Export)
    monkeypatch.setattr(exporters, "_active", [])
    started = [Exporters("otlp", None) for _ in range(2)]
    threads = [threading.Thread(target=each.start, args=(None, "http://127.0.0.1:9")) for each in started]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert sorted(len(each.closing(0.0)) for each in started) == [0, 1]
