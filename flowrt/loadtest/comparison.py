"""Comparison of a load test with an earlier one: better, worse, or within the noise of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from flowrt.loadtest.measurement import OUTCOMES, Interval, Latencies, Measurement, share_interval
from flowrt.loadtest.plan import Plan
from flowrt.loadtest.run import Run

__all__ = ["Baseline", "Change", "Verdict", "compare"]

_MIN_CHANGE: Final = 0.05  # a machine differs from itself by as much from one hour to the next
_MIN_FAILURES: Final = 0.005  # the same for shares of failures, in absolute terms

Sign = Literal["better", "worse", "same"]


@dataclass(frozen=True, slots=True)
class BaselineMeasurement:
    """One setting of the baseline.

    Attributes:
        outcome: How its measurement ended.
        ok: Successes.
        failed: Failures.
        throughput: Items a second.
        latencies: Latencies of the successes.
    """

    outcome: str
    ok: int
    failed: int
    throughput: Interval
    latencies: Latencies


@dataclass(frozen=True, slots=True)
class Baseline:
    """An earlier load test, read from its JSON.

    Attributes:
        mode: `closed` or `open`.
        about: Node, input and settings, by name.
        measurements: By setting.
        best: Best setting, or None.
    """

    mode: str
    about: Mapping[str, Any]
    measurements: Mapping[float, BaselineMeasurement]
    best: float | None

    @classmethod
    def of_json(cls, data: Any) -> Baseline:
        """Read what `as_json` wrote.

        Raises:
            ValueError: The data are something else, or damaged; the message says where.
        """
        if not isinstance(data, dict) or not isinstance(data.get("steps"), list):
            raise ValueError("it is not what --json writes")  # noqa: TRY004  # a file, not an argument
        try:
            measurements = {float(step["setting"]): _measurement(step) for step in data["steps"]}
            plan = data["plan"]
            about = {name: data[name] for name in ("node", "input", "executor")}
            about |= {"step": data["step_s"], "item_timeout": plan["item_timeout"]}
            best = None if data["best"] is None else float(data["best"])
            return cls(str(data["mode"]), about, measurements, best)
        except KeyError as exc:
            raise ValueError(f"it is not what --json writes: it has no {exc.args[0]!r}") from None
        except Exception as exc:  # decoders raise errors of many types for damaged text
            raise ValueError(f"it is damaged: {type(exc).__name__}: {exc}") from exc

    def check(self, plan: Plan) -> None:
        """Check that a run of a plan can be compared with this baseline.

        Raises:
            ValueError: The loop is of the other kind, or no setting is in common.
        """
        mode = "open" if plan.open else "closed"
        if self.mode != mode:
            raise ValueError(f"it measured {_loop(self.mode)}, and this run measures {_loop(mode)}")
        if plan.settings and not set(plan.settings) & set(self.measurements):
            raise ValueError(f"it has no setting in common with this run: it has {_listed(self.measurements)}")


def _measurement(step: Mapping[str, Any]) -> BaselineMeasurement:
    throughput, latencies = Interval.of_json(step["throughput"]), Latencies(step["latencies"])
    return BaselineMeasurement(str(step["outcome"]), int(step["ok"]), int(step["failed"]), throughput, latencies)


@dataclass(frozen=True, slots=True)
class Change:
    """One figure at one setting, before and now.

    Attributes:
        setting: Concurrency or arrival rate.
        what: `throughput`, `latency`, `failures` or `outcome`.
        before: Figure of the baseline; an outcome in words.
        now: Figure of this run.
        sign: Better, worse, or the same within the noise.
    """

    setting: float
    what: str
    before: Interval | str
    now: Interval | str
    sign: Sign


@dataclass(frozen=True, slots=True)
class Verdict:
    """All changes since the baseline.

    Attributes:
        changes: Changes at every setting that both runs measured.
        percentile: Latency percentile that is compared.
        notes: Other differences between the runs.
    """

    changes: tuple[Change, ...]
    percentile: float
    notes: tuple[str, ...] = ()

    @property
    def sign(self) -> Sign:
        """Worse if anything is worse; else better if anything is better."""
        signs = {change.sign for change in self.changes}
        return "worse" if "worse" in signs else "better" if "better" in signs else "same"


def compare(run: Run, baseline: Baseline, about: Mapping[str, Any]) -> Verdict:
    """Compare a run with an earlier one.

    A figure has changed if its intervals do not overlap and it differs by at least 5 %; a share of failures, by at
    least half a point. Throughputs and latencies are compared at settings whose measurements are complete in both runs.

    Args:
        run: The run.
        baseline: The earlier run.
        about: Node, input and settings of the run, as `about` gives them.

    Raises:
        ValueError: No setting is in common, or only one of the runs is of an open loop.
    """
    baseline.check(run.plan)
    percentile, changes = run.plan.percentile, list[Change]()
    for setting, measured in run.measurements.items():
        if (old := baseline.measurements.get(setting)) is not None:
            changes += _changes(measured, old, percentile)
    if not changes:
        raise ValueError(f"it has no setting in common with this run: it has {_listed(baseline.measurements)}")
    return Verdict(tuple(changes), percentile, tuple(_notes(run, baseline, about)))


def _changes(measured: Measurement, old: BaselineMeasurement, percentile: float) -> list[Change]:
    setting, changes = measured.setting, list[Change]()
    if measured.outcome != old.outcome:
        sign: Sign = "worse" if old.outcome == "ok" else "better" if measured.outcome == "ok" else "same"
        changes.append(Change(setting, "outcome", _in_words(old.outcome), _in_words(measured.outcome), sign))
    if measured.complete and old.outcome == "ok" and old.ok:
        then, now = old.throughput, measured.throughput
        changes.append(Change(setting, "throughput", then, now, _sign(then, now, 1)))
        then, now = old.latencies.interval(percentile), measured.latency(percentile)
        changes.append(Change(setting, "latency", then, now, _sign(then, now, -1)))
    before, now = share_interval(old.failed, old.ok + old.failed), measured.failures
    failing: Sign = "same"
    if now.beyond(before) and abs(now.value - before.value) >= _MIN_FAILURES:
        failing = "worse" if now.value > before.value else "better"
    changes.append(Change(setting, "failures", before, now, failing))
    return changes


def _in_words(outcome: str) -> str:
    words = {str(each): text for each, text in OUTCOMES.items()}
    return words.get(outcome, outcome) or "complete"


def _sign(before: Interval, now: Interval, good: int) -> Sign:
    if not before.value or not now.beyond(before) or abs(now.value / before.value - 1) < _MIN_CHANGE:
        return "same"
    return "better" if (now.value > before.value) == (good > 0) else "worse"


def _notes(run: Run, baseline: Baseline, about: Mapping[str, Any]) -> list[str]:
    notes = []
    for name, then in baseline.about.items():
        if name in about and about[name] != then:
            notes.append(
                f"the baseline's {name.replace('_', ' ')} was {_value(then)}, and now it is {_value(about[name])}"
            )
    if missing := [setting for setting in baseline.measurements if setting not in run.measurements]:
        notes.append(f"only the baseline has these settings: {_listed(missing)}")
    best = None if run.best is None else run.best.setting
    if best != baseline.best:
        notes.append(f"the best setting was {_setting(baseline.best)}, and now it is {_setting(best)}")
    return notes


def _loop(mode: str) -> str:
    return "an open loop" if mode == "open" else "a closed loop"


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _setting(setting: float | None) -> str:
    return "none" if setting is None else f"{setting:g}"


def _listed(settings: Any) -> str:
    return ", ".join(f"{setting:g}" for setting in settings)
