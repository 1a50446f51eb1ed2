"""The conformance suite with Ray's actors as the executor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.executors import test_conformance as suite
from tests.executors.differences import DIFFERENCES, Difference

globals().update({name: test for name, test in vars(suite).items() if name.startswith("test_")})  # not its fixtures


@pytest.mark.parametrize("difference", DIFFERENCES, ids=str)
def test_difference_is_as_the_docs_say(
    executor: Any, difference: Difference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrt.engine.cancellation.GRACE_S", 50.0)  # on a busy machine Ray takes long to end an actor
    monkeypatch.setattr("flowrt.engine.timeouts._GRACE_NS", 50_000_000_000)
    assert difference.observe(executor, tmp_path) == difference.expected("ray")
