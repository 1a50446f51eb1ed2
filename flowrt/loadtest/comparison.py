"""A run beside an earlier one: what is better, what is worse, and what is within the noise of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from flowrt.loadtest.measurement import OUTCOMES, Interval, Latencies, Step, share_interval
from flowrt.loadtest.plan import Plan
from flowrt.loadtest.search import Run

__all__ = ["Baseline", "Change", "Verdict", "compare"]

_LEAST: Final = 0.05  # less is no change: machines differ from themselves by as much from one hour to the next
_LEAST_FAILURES: Final = 0.005  # the same of the share of failures, in absolute terms

Sign = Literal["better", "worse", "same"]


@dataclass(frozen=True, slots=True)
class Earlier:
    """One setting of an earlier run.

    Attributes:
        outcome: How it ended.
        ok: How many succeeded, and failed.
        failed: The same of failures.
        throughput: Items a second.
        latencies: All of them.
    """

    outcome: str
    ok: int
    failed: int
    throughput: Interval
    latencies: Latencies


@dataclass(frozen=True, slots=True)
class Baseline:
    """What an earlier run wrote.

    Attributes:
        mode: `closed` or `open`.
        about: What it was of, by name.
        steps: By setting.
        best: The best setting, or None.
    """

    mode: str
    about: Mapping[str, Any]
    steps: Mapping[float, Earlier]
    best: float | None

    @classmethod
    def of_json(cls, told: Any) -> Baseline:
        """Read what `as_json` gave.

        Raises:
            ValueError: It is something else, or damaged; the message says where.
        """
        if not isinstance(told, dict) or not isinstance(told.get("steps"), list):
            raise ValueError("it is not what --json writes")  # noqa: TRY004  # a file, not an argument
        try:
            steps = {float(step["setting"]): _earlier(step) for step in told["steps"]}
            plan = told["plan"]
            about = {name: told[name] for name in ("node", "input", "executor")}
            about |= {"step": told["step_s"], "item_timeout": plan["item_timeout"]}
            best = None if told["best"] is None else float(told["best"])
            return cls(str(told["mode"]), about, steps, best)
        except KeyError as exc:
            raise ValueError(f"it is not what --json writes: it has no {exc.args[0]!r}") from None
        except Exception as exc:  # whatever a decoder says of damaged text
            raise ValueError(f"it is damaged: {type(exc).__name__}: {exc}") from exc

    def check(self, plan: Plan) -> None:
        """See whether a run of that plan could be compared.

        Raises:
            ValueError: It could not: the loop is of the other kind, or there is no setting in common.
        """
        mode = "open" if plan.open else "closed"
        if self.mode != mode:
            raise ValueError(f"it is of a loop that was {self.mode}, and this one is {mode}")
        if plan.settings and not set(plan.settings) & set(self.steps):
            raise ValueError(f"it has no setting in common with this run: it has {_listed(self.steps)}")


def _earlier(step: Mapping[str, Any]) -> Earlier:
    throughput, latencies = Interval.of_json(step["throughput"]), Latencies(step["latencies"])
    return Earlier(str(step["outcome"]), int(step["ok"]), int(step["failed"]), throughput, latencies)


@dataclass(frozen=True, slots=True)
class Change:
    """One figure at one setting, then and now.

    Attributes:
        setting: The concurrency or the arrival rate.
        what: `throughput`, `latency`, `failures` or `outcome`.
        before: Then; of an outcome in words.
        now: Now.
        sign: Whether it is better, worse, or within the noise.
    """

    setting: float
    what: str
    before: Interval | str
    now: Interval | str
    sign: Sign


@dataclass(frozen=True, slots=True)
class Verdict:
    """All changes.

    Attributes:
        changes: Of every setting that both runs have.
        percentile: Of the latencies that are compared.
        notes: What makes the runs differ otherwise.
    """

    changes: tuple[Change, ...]
    percentile: float
    notes: tuple[str, ...] = ()

    @property
    def sign(self) -> Sign:
        """Worse where anything is; else better where anything is."""
        signs = {change.sign for change in self.changes}
        return "worse" if "worse" in signs else "better" if "better" in signs else "same"


def compare(run: Run, baseline: Baseline, about: Mapping[str, Any]) -> Verdict:
    """Compare a run with an earlier one.

    A figure has changed where its interval and the earlier one do not overlap, and it differs by 5 % at least; a share
    of failures where it differs by half a point at least. Throughputs and latencies are those of settings that were
    measured to their end in both runs.

    Args:
        run: The run.
        baseline: The earlier one.
        about: What this run is of, as the baseline has it.

    Raises:
        ValueError: They have no setting in common, or one is of a closed and the other of an open loop.
    """
    baseline.check(run.plan)
    percentile, changes = run.plan.percentile, list[Change]()
    for setting, step in run.steps.items():
        if (old := baseline.steps.get(setting)) is not None:
            changes += _changes(step, old, percentile)
    if not changes:
        raise ValueError(f"it has no setting in common with this run: it has {_listed(baseline.steps)}")
    return Verdict(tuple(changes), percentile, tuple(_notes(run, baseline, about)))


def _changes(step: Step, old: Earlier, percentile: float) -> list[Change]:
    setting, changes = step.setting, list[Change]()
    if step.outcome != old.outcome:
        sign: Sign = "worse" if old.outcome == "ok" else "better" if step.outcome == "ok" else "same"
        changes.append(Change(setting, "outcome", _in_words(old.outcome), _in_words(step.outcome), sign))
    if step.sound and old.outcome == "ok" and old.ok:
        then, now = old.throughput, step.throughput
        changes.append(Change(setting, "throughput", then, now, _sign(then, now, 1)))
        then, now = old.latencies.interval(percentile), step.latency(percentile)
        changes.append(Change(setting, "latency", then, now, _sign(then, now, -1)))
    before, now = (share_interval(each.failed, each.ok + each.failed) for each in (old, step))
    failing: Sign = "same"
    if now.beyond(before) and abs(now.value - before.value) >= _LEAST_FAILURES:
        failing = "worse" if now.value > before.value else "better"
    changes.append(Change(setting, "failures", before, now, failing))
    return changes


def _in_words(outcome: str) -> str:
    words = {str(each): told for each, told in OUTCOMES.items()}
    return words.get(outcome, outcome) or "measured to its end"


def _sign(before: Interval, now: Interval, good: int) -> Sign:
    if not before.value or not now.beyond(before) or abs(now.value / before.value - 1) < _LEAST:
        return "same"
    return "better" if (now.value > before.value) == (good > 0) else "worse"


def _notes(run: Run, baseline: Baseline, about: Mapping[str, Any]) -> list[str]:
    notes = []
    for name, then in baseline.about.items():
        if name in about and about[name] != then:
            notes.append(
                f"the baseline's {name.replace('_', ' ')} was {_value(then)}, and now it is {_value(about[name])}"
            )
    if missing := [setting for setting in baseline.steps if setting not in run.steps]:
        notes.append(f"the baseline has what this run has not: {_listed(missing)}")
    best = None if run.best is None else run.best.setting
    if best != baseline.best:
        notes.append(f"the best setting was {_setting(baseline.best)}, and now it is {_setting(best)}")
    return notes


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _setting(setting: float | None) -> str:
    return "none" if setting is None else f"{setting:g}"


def _listed(settings: Any) -> str:
    return ", ".join(f"{setting:g}" for setting in settings)
