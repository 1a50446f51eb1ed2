"""A run beside an earlier one: what is better, what is worse, and what is within the noise of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from flowrt.loadtest.ladder import Run
from flowrt.loadtest.step import Interval

__all__ = ["Change", "Verdict", "compare"]

_LEAST: Final = 0.05  # less is no change: machines differ from themselves by as much from one hour to the next

Sign = Literal["better", "worse", "same"]


@dataclass(frozen=True, slots=True)
class Change:
    """One figure at one setting, then and now.

    Attributes:
        setting: The concurrency or the arrival rate.
        what: `throughput`, `latency` or `failures`.
        before: Then.
        now: Now.
        sign: Whether it is better, worse, or within the noise.
    """

    setting: float
    what: str
    before: Interval
    now: Interval
    sign: Sign

    @property
    def ratio(self) -> float:
        """How many times what it was it is; 1 where there was nothing."""
        return self.now.value / self.before.value if self.before.value else 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """All changes.

    Attributes:
        changes: Of every setting that both runs have.
        percentile: Of the latencies that are compared.
    """

    changes: tuple[Change, ...]
    percentile: float

    @property
    def sign(self) -> Sign:
        """Worse where anything is; else better where anything is."""
        signs = {change.sign for change in self.changes}
        return "worse" if "worse" in signs else "better" if "better" in signs else "same"


def compare(run: Run, earlier: Mapping[str, Any]) -> Verdict:
    """Compare a run with what an earlier one wrote as JSON.

    A figure has changed where its interval and the earlier one do not overlap, and it differs by 5 % at least.

    Args:
        run: The run.
        earlier: What `as_json` gave of the earlier one.

    Raises:
        ValueError: They have no setting in common, or one is of a closed and the other of an open loop.
    """
    mode = "open" if run.plan.open else "closed"
    if earlier["mode"] != mode:
        raise ValueError(f"the baseline is of a loop that was {earlier['mode']}, and this one is {mode}")
    then = {step["setting"]: step for step in earlier["steps"]}
    percentile, changes = run.plan.percentile, []
    for setting, step in run.steps.items():
        old = then.get(setting)
        if old is None:
            continue
        label = f"p{percentile:g}"
        pairs = [("throughput", Interval(**old["throughput"]), step.throughput, 1)]
        if label in old["latency_s"]:
            pairs.append(("latency", Interval(**old["latency_s"][label]), step.latency(percentile), -1))
        for what, before, now, good in pairs:
            changes.append(Change(setting, what, before, now, _sign(before, now, good)))
        changes.append(_failures(setting, old, step.ok, step.failed))
    if not changes:
        told = ", ".join(f"{setting:g}" for setting in then)
        raise ValueError(f"the baseline has no setting in common with this run: it has {told}")
    return Verdict(tuple(changes), percentile)


def _sign(before: Interval, now: Interval, good: int) -> Sign:
    if not before.value or not now.beyond(before) or abs(now.value / before.value - 1) < _LEAST:
        return "same"
    return "better" if (now.value > before.value) == (good > 0) else "worse"


def _failures(setting: float, old: Mapping[str, Any], ok: int, failed: int) -> Change:
    before, now = _share(old["ok"], old["failed"]), _share(ok, failed)
    changed: Sign = "same"
    if now.beyond(before):
        changed = "worse" if now.value > before.value else "better"
    return Change(setting, "failures", before, now, changed)


def _share(ok: int, failed: int) -> Interval:
    """A share of failures with its 95 % interval (Wilson's)."""
    count = ok + failed
    if not count:
        return Interval(0.0, 0.0, 1.0)
    share, z = failed / count, 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))
