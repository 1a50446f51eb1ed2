"""Command of the bench."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench.arms import ARMS, PEERS, Arm, arm
from bench.measure import BenchError
from bench.memory import MEMORY
from bench.suites import Choice, Suite, suite
from bench.workloads import WORKLOADS, workload


def test_run_measures_writes_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Arm("absent", "an absent peer", arm("floor").run, needs=("no_such_module",))
    arms = [arm("floor"), absent, arm("flowrt-bare"), arm("gather")]
    works = (workload("noop").of(200), workload("50ms"))
    monkeypatch.setattr(command, "SUITES", [replace(suite("overhead"), arms=arms, workloads=works)])
    monkeypatch.setattr("bench.report.ARMS", [arm("floor"), absent, arm("flowrt-bare")])
    file = tmp_path / "o.json"
    chosen = ["--arm", "floor", "--arm", "absent", "--arm", "flowrt-bare"]
    assert command.main(["run", "noop", "--rounds", "1", *chosen, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "no-op, 200 items, 100 at once" in printed
    assert any("an absent peer" in line and "-  no_such_module" in line for line in printed.splitlines())
    measured: dict[str, Any] = json.loads(file.read_text())
    assert [(name, len(samples)) for name, samples in measured["workloads"][0]["samples"].items()] == [
        ("floor", 1),
        ("flowrt-bare", 1),
    ]
    assert len(measured["workloads"]) == 1
    assert command.main(["report", str(file)]) == 0
    assert capsys.readouterr().out == f"{printed}\n"


def test_memory_is_measured_and_reported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(arms: Any, rounds: int, cut: int, say: Any) -> Any:
        assert (rounds, cut) == (2, 10)
        return measure_memory(arms, 1, 500, say)

    from bench.memory import measure_memory

    def run(suite: Suite, choice: Choice, say: Any) -> Any:
        return cut(choice.chosen(suite.arms), suite.rounds_of(choice), choice.cut, say)

    monkeypatch.setattr(command, "SUITES", [replace(suite("memory"), run=run)])
    assert command.main(["run", "memory", "--quick", "--arm", "flowrt-stream"]) == 0
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

    monkeypatch.setattr("bench.suites.measure", measure)
    assert command.main(["run", "overhead", *words]) == 0
    assert seen == [(rounds, items)]


def test_workload_runs_in_its_suite_or_selects_within_a_suite(
    monkeypatch: pytest.MonkeyPatch, machine: dict[str, Any]
) -> None:
    ran: list[tuple[str, list[str]]] = []

    def measure(self: Suite, choice: Choice, say: Any) -> dict[str, Any]:
        ran.append((self.name, list(choice.workloads)))
        return {"machine": machine, "rounds": 1, "missing": {}, "workloads": [], "suite": self.name}

    monkeypatch.setattr(Suite, "measure", measure)
    assert command.main(["run", "noop", "flaky", "1ms"]) == 0
    assert command.main(["run", "peers", "flaky", "1ms"]) == 0
    assert ran == [("overhead", ["noop", "1ms"]), ("workloads", ["flaky"]), ("peers", ["flaky", "1ms"])]


def test_list_names_suites_arms_and_workloads(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list"]) == 0
    words = capsys.readouterr().out.split()
    assert {each.name for each in (*ARMS, *PEERS, *MEMORY, *WORKLOADS, *command.SUITES)} <= set(words)


def test_arms_of_a_suite_have_unique_names() -> None:
    for each in command.SUITES:
        names = [arm.name for arm in each.arms]
        assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "required"),
        (["run", "speed"], "there is no suite or workload 'speed'"),
        (["run", "overhead", "--rounds", "0"], "at least 1, not 0"),
        (["run", "overhead", "--rounds", "some"], "invalid _positive value: 'some'"),
        (["run", "overhead", "--arm", "unknown"], "overhead has no arm unknown"),
        (["run", "memory", "--arm", "by-hand"], "memory has no arm by-hand"),
        (["run", "overhead", "memory", "--json", "x"], "one suite"),
        (["run", "overhead", "--json", "/no/such/folder/x.json"], "there is no folder /no/such/folder"),
        (["report", "/no/such/file.json"], "/no/such/file.json has no results of this bench: FileNotFoundError"),
        (["report", __file__], "has no results of this bench: JSONDecodeError"),
    ],
)
def test_bad_usage_is_reported(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err


def test_failing_run_exits_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*_: Any) -> Any:
        raise BenchError("floor on noop ended")

    monkeypatch.setattr(Suite, "measure", fails)
    assert command.main(["run", "overhead"]) == 1
    assert "bench: floor on noop ended" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "group"), [([], "main"), (["--more"], "more"), (["--peers"], "peers")])
def test_all_writes_every_suite_of_its_group(
    words: list[str], group: str, tmp_path: Path, machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[str] = []

    def measure(self: Suite, choice: Choice, say: Any) -> dict[str, Any]:
        works = [{"name": name, "items": 10**6} for name in choice.workloads]
        return {"machine": machine, "rounds": 1, "missing": {}, "workloads": works, "suite": self.name}

    monkeypatch.setattr(Suite, "measure", measure)
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.setattr(command, "lines", lambda measured: [measured["suite"]])
    monkeypatch.setattr(command, "record", lambda _: recorded.append("gate"))
    assert command.main(["all", "--quick", *words]) == 0
    assert not list(tmp_path.iterdir())
    assert command.main(["all", *words]) == 0
    assert {path.stem for path in tmp_path.iterdir()} == {each.name for each in command.SUITES if each.group == group}
    assert recorded == (["gate"] if group == "main" else [])
    if group == "peers":
        peers = json.loads((tmp_path / "peers.json").read_text())
        assert [work["name"] for work in peers["workloads"]] == [work.name for work in WORKLOADS]


def test_later_run_of_one_workload_keeps_the_others(machine: dict[str, Any]) -> None:
    about = {"machine": machine, "rounds": 1, "missing": {}}
    earlier = {**about, "workloads": [{"name": "noop", "at": 1}, {"name": "http", "at": 1}]}
    later = {**about, "workloads": [{"name": "http", "at": 2}, {"name": "1ms", "at": 2}]}
    joined = command._joined(earlier, later)
    assert joined["workloads"] == [{"name": "noop", "at": 1}, {"name": "1ms", "at": 2}, {"name": "http", "at": 2}]
