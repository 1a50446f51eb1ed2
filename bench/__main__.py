"""Command of the bench: `python -m bench list`, `run`, `all`, `draw`, `report` and `gate`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.gate import RECORD, check, record
from bench.measure import BenchError
from bench.report import RESULTS, lines
from bench.suites import SUITES, Choice, Suite
from bench.workloads import WORKLOADS

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Arguments; those of the command line by default.

    Returns:
        Exit code: 0, or 1 if a run failed.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "list":
        _list()
        return 0
    if options.command == "draw":
        _draw()
        return 0
    if options.command == "report":
        return _report(options.files or sorted(RESULTS.glob("*.json")), parser)
    try:
        if options.command == "all":
            return _run_all(options)
        if options.command == "gate":
            return _gate(recording=options.record)
        return _run(options, parser)
    except BenchError as exc:
        sys.stderr.write(f"bench: {exc}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure flowrt beside its peers.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list suites, arms and workloads")
    run = commands.add_parser("run", help="measure")
    run.add_argument("names", nargs="+", metavar="NAME", help="suites and workloads, as `list` has them")
    run.add_argument("--quick", action="store_true", help="a tenth of the items, two rounds")
    run.add_argument("--rounds", type=_positive, metavar="N", help="runs of each arm (5, with --quick 2)")
    run.add_argument("--json", type=Path, metavar="FILE", help="write the samples to FILE")
    run.add_argument("--add", action="store_true", help="keep workloads in FILE from earlier runs")
    run.add_argument("--arm", action="append", default=[], metavar="ARM", help="only this arm; repeatable")
    everything = commands.add_parser("all", help="measure and write the checked-in results, in about 30 minutes")
    everything.add_argument("--quick", action="store_true", help="a tenth of the items, two rounds; writes nothing")
    everything.add_argument(
        "--more", action="store_const", const="more", dest="group", help="measure the remaining suites, about as long"
    )
    everything.add_argument(
        "--peers", action="store_const", const="peers", dest="group", help="measure the peers, nearly two hours"
    )
    everything.add_argument(
        "--ray", action="store_const", const="ray", dest="group", help="measure actors on a local Ray, five minutes"
    )
    gate = commands.add_parser("gate", help="compare this code's cost with the record")
    gate.add_argument("--record", action="store_true", help="write the record that later commits are compared with")
    commands.add_parser("draw", help="draw the charts of the checked-in results")
    report = commands.add_parser("report", help="print the tables of earlier runs")
    report.add_argument("files", nargs="*", type=Path, help="the checked-in results by default")
    return parser


def _list() -> None:
    _print([f"{each.name:14} {each.title}" for each in SUITES])
    for each in SUITES:
        _print(["", f"arms of {each.name}:", *(f"  {arm.name:26} {arm.title}" for arm in each.arms)])
    _print(["", "workloads:", *(f"  {work.name:26} {work.title}" for work in WORKLOADS)])


def _report(files: Sequence[Path], parser: argparse.ArgumentParser) -> int:
    for path in files:
        try:
            _print([*lines(json.loads(path.read_text())), ""])
        except (OSError, ValueError, KeyError, TypeError) as exc:
            parser.error(f"{path} has no results of this bench: {type(exc).__name__}: {exc}")
    return 0


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    wanted = _wanted(options, parser)
    if options.json is not None and len(wanted) > 1:
        parser.error("--json takes the samples of one suite: run them one by one")
    if options.json is not None and not options.json.resolve().parent.is_dir():  # before minutes of measuring
        parser.error(f"--json: there is no folder {options.json.resolve().parent}")
    for each, works in wanted:
        choice = Choice(options.rounds, 10 if options.quick else 1, options.arm, works)
        measured = each.measure(choice, _report_progress)
        if options.add and options.json is not None and options.json.exists():
            measured = _joined(json.loads(options.json.read_text()), measured)
        if options.json is not None:
            options.json.write_text(json.dumps(measured, indent=1) + "\n")
        _print(lines(measured))
    return 0


def _run_all(options: argparse.Namespace) -> int:
    """Measure every suite of a group; each is written at once, those of the peers after each workload."""
    group = options.group or "main"
    for each in SUITES:
        if each.group != group:
            continue
        path = RESULTS / f"{each.name}.json"
        by_work = group == "peers" and bool(each.workloads)
        for works in [[work.name] for work in each.workloads] if by_work else [[]]:
            measured = each.measure(Choice(None, 10 if options.quick else 1, (), works), _report_progress)
            if by_work and path.exists():
                measured = _joined(json.loads(path.read_text()), measured)
            if not options.quick:
                path.write_text(json.dumps(measured, indent=1) + "\n")
            _print(lines(measured))
    if group == "main" and not options.quick:
        record(_report_progress)
    return 0


def _draw() -> None:
    from bench.charts import draw
    from bench.pages import read_results

    for path in draw(read_results(), RESULTS):
        _report_progress(f"drew {path}")


def _gate(*, recording: bool) -> int:
    if recording:
        record(_report_progress)
        return 0
    try:
        recorded = json.loads(RECORD.read_text())
    except FileNotFoundError:
        raise BenchError(f"there is no record in {RECORD}: write it with python -m bench gate --record") from None
    slow = check(recorded, _report_progress)
    if slow:
        raise BenchError(f"slower than the record by more than the margin: {'; '.join(slow)}")
    _print(["gate: within the margin"])
    return 0


def _joined(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """The later run, with workloads that only the earlier one has; each has its own time of measurement."""
    new = {work["name"]: work for work in later["workloads"]}
    old = {work["name"]: work for work in earlier["workloads"]}
    both = {**old, **new}
    return {**later, "workloads": [both[work.name] for work in WORKLOADS if work.name in both]}


def _wanted(options: argparse.Namespace, parser: argparse.ArgumentParser) -> list[tuple[Suite, list[str]]]:
    """Suites to run, each with the named workloads; without any, all of them."""
    suites = {each.name: each for each in SUITES}
    works = [name for name in options.names if name not in suites]
    if unknown := [name for name in works if name not in {work.name for work in WORKLOADS}]:
        parser.error(f"there is no suite or workload {unknown[0]!r}: python -m bench list has them")
    wanted = [
        (suites[name], [work for work in works if _has(suites[name], work)])
        for name in _once(options.names)
        if name in suites
    ]
    if not any(chosen for _, chosen in wanted):  # workloads without a suite
        for each in SUITES:
            if chosen := [work for work in works if _has(each, work)]:
                wanted.append((each, chosen))
                works = [work for work in works if work not in chosen]
    for each, _ in wanted:
        names = [arm.name for arm in each.arms]
        if options.arm and not set(options.arm) & set(names):
            parser.error(f"{each.name} has no arm {' or '.join(options.arm)}: {', '.join(names)}")
    return wanted


def _has(which: Suite, work: str) -> bool:
    return work in [each.name for each in which.workloads]


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _print(printed: Iterable[str]) -> None:
    for line in printed:
        sys.stdout.write(f"{line}\n")


def _report_progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
