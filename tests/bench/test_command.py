"""The bench's command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench.arms import ARMS, Arm, arm
from bench.measure import BenchError
from bench.memory import MEMORY
from bench.workloads import OVERHEAD, workload


def test_it_measures_writes_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "OVERHEAD", [workload("noop").cut(500), workload("50ms")])
    absent = Arm("absent", "an absent peer", arm("floor").run, needs=("no_such_module",))
    monkeypatch.setattr(command, "ARMS", [arm("floor"), absent, arm("flowrt-bare"), arm("gather")])
    monkeypatch.setattr("bench.report.ARMS", [arm("floor"), absent, arm("flowrt-bare")])
    file = tmp_path / "o.json"
    chosen = ["--workload", "noop", "--arm", "floor", "--arm", "absent", "--arm", "flowrt-bare"]
    assert command.main(["run", "overhead", "--rounds", "1", *chosen, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "no-op, 200 items, 100 at once" in printed
    assert any("an absent peer" in line and "-  no_such_module" in line for line in printed.splitlines())
    measured: dict[str, Any] = json.loads(file.read_text())
    assert [(name, len(samples)) for name, samples in measured["workloads"][0]["samples"].items()] == [
        ("floor", 1),
        ("flowrt-bare", 1),
    ]
    assert command.main(["report", str(file)]) == 0
    assert capsys.readouterr().out == f"{printed}\n"


def test_memory_is_measured_and_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(arms: Any, rounds: int, cut: int, say: Any) -> Any:
        assert (rounds, cut) == (2, 10)
        return measure_memory(arms, 1, 500, say)

    measure_memory = command.measure_memory
    monkeypatch.setattr(command, "measure_memory", cut)
    assert command.main(["run", "memory", "--quick", "--arm", "floor", "--arm", "flowrt-stream"]) == 0
    printed = capsys.readouterr().out
    assert "flowrt-stream, MB of growth over 2,000 items" in printed
    assert "gather" not in printed


@pytest.mark.parametrize(
    ("words", "rounds", "items"),
    [
        ([], 5, 100_000),
        (["--quick"], 2, 10_000),
        (["--quick", "--rounds", "3"], 3, 10_000),
        (["--rounds", "1"], 1, 100_000),
    ],
)
def test_quick_is_a_tenth_of_the_items_and_two_rounds(
    words: list[str], rounds: int, items: int, monkeypatch: pytest.MonkeyPatch, machine: dict[str, Any]
) -> None:
    seen: list[tuple[int, int]] = []

    def measure(_: Any, works: Any, rounds: int, say: Any) -> dict[str, Any]:
        seen.append((rounds, works[0].items))
        return {"machine": machine, "rounds": rounds, "missing": {}, "workloads": []}

    monkeypatch.setattr(command, "measure", measure)
    assert command.main(["run", "overhead", *words]) == 0
    assert seen == [(rounds, items)]


def test_what_there_is_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list"]) == 0
    words = capsys.readouterr().out.split()
    names = [*(each.name for each in ARMS), *(each.name for each in MEMORY), *(each.name for each in OVERHEAD)]
    assert {*names, "overhead", "memory"} <= set(words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "required"),
        (["run", "speed"], "invalid choice: 'speed'"),
        (["run", "overhead", "--rounds", "0"], "at least 1, not 0"),
        (["run", "overhead", "--rounds", "some"], "invalid _positive value: 'some'"),
        (["run", "overhead", "--arm", "nobody"], "invalid choice: 'nobody'"),
        (["run", "overhead", "--arm", "nadoo-stream"], "overhead has no arm nadoo-stream"),
        (["run", "memory", "--arm", "by-hand"], "memory has no arm by-hand"),
        (["run", "overhead", "memory", "--json", "x"], "one suite"),
        (["run", "overhead", "--json", "/no/such/folder/x.json"], "there is no folder /no/such/folder"),
        (["report", "/no/such/file.json"], "/no/such/file.json has no results of this bench: FileNotFoundError"),
        (["report", __file__], "has no results of this bench: JSONDecodeError"),
    ],
)
def test_bad_usage_is_told(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_a_failing_run_is_exit_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*_: Any) -> Any:
        raise BenchError("floor on noop ended")

    monkeypatch.setattr(command, "measure", fails)
    assert command.main(["run", "overhead"]) == 1
    assert "bench: floor on noop ended" in capsys.readouterr().err
