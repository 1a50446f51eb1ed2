"""The bench's arithmetic, its tables and its command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench import report
from bench.arms import ARMS, Arm, arm
from bench.collector import collector, count_spans
from bench.measure import BenchError, measure, run_once, summarize
from bench.workloads import OVERHEAD, Workload, workload

WORK = {
    "name": "1ms",
    "title": "1 ms at 100",
    "items": 1_000,
    "concurrency": 100,
    "ideal_s": 0.01,
    "samples": {
        "floor": [{"wall_s": 0.02}, {"wall_s": 0.04}, {"wall_s": 0.02}],
        "nadoo": [{"wall_s": 0.05}, {"wall_s": 0.09}, {"wall_s": 0.03}],
        "flowrt-bare": [{"wall_s": 0.02}, {"wall_s": 0.05}, {"wall_s": 0.02}],
        "flowrt-delivered": [
            {"wall_s": 0.03, "delivered": 1_000},
            {"wall_s": 0.05, "delivered": 999},
            {"wall_s": 0.02, "delivered": 1_000},
        ],
    },
}
MACHINE = {"python": "CPython 3.11", "cores": 2, "processor": "a processor"}
MEASURED = {"machine": MACHINE, "rounds": 3, "missing": {"gather": "gather is not installed"}, "workloads": [WORK]}


def test_ratios_are_taken_within_a_round_and_their_median_is_told() -> None:
    told = summarize(WORK, "nadoo")
    assert told["flowrt-bare"]["to_baseline"] == pytest.approx(0.5)  # 1/4, 4/8, 1/2
    assert told["flowrt-bare"]["to_floor"] == pytest.approx(1.0)  # 1, 5/4, 1
    assert told["flowrt-bare"]["overhead_us"] == pytest.approx(10)
    assert told["flowrt-bare"]["low_us"] == pytest.approx(10)
    assert told["flowrt-bare"]["high_us"] == pytest.approx(40)
    assert told["flowrt-bare"]["of_ideal"] == pytest.approx(0.5)
    assert told["nadoo"]["to_baseline"] == 1
    assert told["flowrt-delivered"]["delivered"] == pytest.approx(0.999)


def test_the_ideal_counts_whole_rounds_of_sleeping() -> None:
    assert Workload("w", "w", 250, 100, 0.01).ideal_s == pytest.approx(0.03)
    assert Workload("w", "w", 250, 100, None).ideal_s == 0
    assert workload("1ms").cut(10).items == 5_000
    assert workload("10ms").cut(1_000).items == 1_000


def test_the_table_has_every_arm_and_a_dash_with_the_reason_for_one_that_is_missing() -> None:
    lines = list(report.overhead_lines(MEASURED))
    (missing,) = [line for line in lines if "`gather` + `Semaphore`" in line]
    assert missing.split("  ")[-1] == "gather is not installed"
    assert " - " in missing
    (bare,) = [line for line in lines if line.startswith("  flowrt, telemetry off")]
    assert bare.split()[-5:] == ["10.00", "10.00", "40.00", "0.50x", "1.00x"]
    assert "met     flowrt-bare on 1ms, wall time of the floor's: 1 (target <= 1.1)" in lines
    assert "MISSED  spans delivered on 1ms, share: 0.999 (target >= 1)" in lines


def test_the_readme_s_table_comes_from_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noop = {**WORK, "name": "noop", "ideal_s": 0.0}
    (tmp_path / "overhead.json").write_text(json.dumps({**MEASURED, "workloads": [noop]}))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    table = report.overhead_markdown()
    assert "| flowrt, telemetry off | 20.00 | 0.56× |" in table
    assert "| `gather` + `Semaphore` | – | gather is not installed |" in table
    assert "CPython 3.11, 2 cores of a processor, 3 rounds" in table


@pytest.mark.parametrize("name", ["floor", "gather", "flowrt-bare", "flowrt-metrics"])
def test_an_arm_runs_in_a_process_of_its_own_and_is_timed(name: str) -> None:
    sample = run_once(arm(name), workload("yield").cut(500), "", None)
    assert sample["wall_s"] > 0
    assert sample["peak_kib"] > 1_000


@pytest.mark.parametrize("name", ["flowrt-delivered", "by-hand"])
def test_spans_are_counted_where_they_arrive(name: str) -> None:
    with collector() as url:
        sample = run_once(arm(name), workload("yield").cut(500), url, None)
        assert sample["delivered"] == 200
        assert count_spans(url) == 0


def test_a_run_that_fails_ends_the_bench_with_its_last_words() -> None:
    nobody = Arm("no-such-arm", "", arm("floor").run)
    with pytest.raises(BenchError, match="no-such-arm on noop ended with exit code 1: KeyError: 'no-such-arm'"):
        run_once(nobody, workload("noop"), "", None)


def test_rounds_are_interleaved_and_a_missing_peer_is_left_out() -> None:
    ran: list[str] = []

    def run(which: Arm, work: Workload, url: str, core: int | None) -> dict[str, float]:
        ran.append(f"{which.name} {work.name}")
        assert url.startswith("http://127.0.0.1:")
        return {"wall_s": 1.0}

    arms = [arm("floor"), Arm("absent", "absent", arm("floor").run, needs="no_such_module"), arm("gather")]
    measured = measure(arms, [workload("noop"), workload("1ms")], 2, lambda _: None, run)
    assert ran == [*["floor noop", "gather noop"] * 2, *["floor 1ms", "gather 1ms"] * 2]
    assert measured["missing"] == {"absent": "no_such_module is not installed"}
    assert set(measured["machine"]) >= {"processor", "python", "commit", "packages", "garbage_collector"}


def test_a_wrong_output_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import worker  # needs uvloop

    async def wrong(_: Workload, inputs: list[dict[str, int]]) -> list[int]:
        return [item["x"] for item in reversed(inputs)]

    monkeypatch.setattr(worker, "arm", lambda _: Arm("wrong", "wrong", wrong))
    with pytest.raises(ValueError, match="wrong gave wrong outputs for noop"):
        worker.main("wrong", "noop", 10, None)


def test_the_command_measures_writes_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "o.json"
    chosen = ["--workload", "50ms", "--arm", "floor", "--arm", "flowrt-bare"]
    assert command.main(["run", "overhead", "--quick", *chosen, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "50 ms at 100, 500 items, 100 at once" in printed
    measured: dict[str, Any] = json.loads(file.read_text())
    assert len(measured["workloads"][0]["samples"]["floor"]) == 2
    assert command.main(["report", str(file)]) == 0
    assert capsys.readouterr().out == printed


def test_memory_is_measured_over_a_stream(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "measure_memory", lambda items: command_memory(items // 100))
    assert command.main(["run", "memory", "--quick"]) == 0
    assert "MiB of growth over 1,000 streamed items" in capsys.readouterr().out


def command_memory(items: int) -> dict[str, Any]:
    from bench.memory import measure_memory

    return measure_memory(items)


def test_what_there_is_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list"]) == 0
    text = capsys.readouterr().out
    for name in [*(each.name for each in ARMS), *(each.name for each in OVERHEAD), "overhead", "memory"]:
        assert name in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "required"),
        (["run", "speed"], "invalid choice: 'speed'"),
        (["run", "overhead", "--rounds", "0"], "at least 1, not 0"),
        (["run", "overhead", "--arm", "nobody"], "invalid choice: 'nobody'"),
        (["run", "overhead", "memory", "--json", "x"], "one suite"),
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
