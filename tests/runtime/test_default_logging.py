"""Log events of a Runtime: by default, and with log settings."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

import flowrt


async def work(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    return x


Events = Callable[..., list[tuple[str, str]]]
OF_THE_MACHINE = ("loop.blocked", "speedup.overstated")  # warnings that a busy one may add


@pytest.fixture(name="events")
def _events(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Events:
    """Runs a batch in a Runtime with some settings; returns the level and name of each event on stderr."""

    def run(inputs: int, **settings: Any) -> list[tuple[str, str]]:
        monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's
        flowrt.run(flowrt.map(work, range(inputs)), **settings)
        logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        return [(each["level"], each["event"]) for each in logged if each["event"] not in OF_THE_MACHINE]

    return run


def test_script_without_log_settings_prints_nothing(events: Events) -> None:
    assert events(3) == []


def test_script_without_log_settings_prints_warnings(events: Events) -> None:
    assert events(5) == [("warning", "item.failed")]


def test_log_format_asks_for_all_events(events: Events) -> None:
    logged = events(3, log_format="json")
    assert ("info", "batch.started") in logged
    assert ("info", "batch.completed") in logged


def test_log_level_wins_over_the_default(events: Events) -> None:
    assert ("info", "batch.completed") in events(3, log_level="info")
    assert events(5, log_format="json", log_level="ERROR") == []


@pytest.mark.parametrize(
    ("settings", "logged"),
    [
        ({}, ["warning", "error"]),
        ({"log_format": "json"}, ["warning", "error"]),  # INFO for flowrt's events: libraries may log every request
        ({"log_level": "INFO"}, ["info", "warning", "error"]),
        ({"log_level": "error"}, ["error"]),
        ({"log_level": "DEBUG", "log_format": "json"}, ["debug", "info", "warning", "error"]),
    ],
)
def test_log_level_holds_for_the_process_s_own_loggers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], logged: list[str]
) -> None:
    root, own = logging.getLogger(), logging.getLogger("shop.orders")
    monkeypatch.setattr(root, "handlers", [])  # pytest's
    monkeypatch.setattr(root, "level", logging.WARNING)

    async def main() -> None:
        for level in ("debug", "info", "warning", "error"):
            getattr(own, level)("of the shop")

    flowrt.run(main(), **settings)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["level"] for line in lines if line["event"] == "of the shop"] == logged
    assert root.level == logging.WARNING


def test_log_level_leaves_a_root_logger_with_a_level_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # pytest's
    monkeypatch.setattr(root, "level", logging.ERROR)

    async def main() -> None:
        logging.getLogger("shop.orders").warning("of the shop")

    flowrt.run(main(), log_level="INFO")
    assert "of the shop" not in capsys.readouterr().err
    assert root.level == logging.ERROR
