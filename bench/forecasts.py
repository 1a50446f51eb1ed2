"""Error of `flowrt whatif`: each case is recorded, forecast under other settings, and run for real under them."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.machine import about

__all__ = ["FORECASTS", "ForecastCase", "errors", "measure_forecasts", "median_error"]

_CASES_ITEMS: Final = 2_000


@dataclass(frozen=True, slots=True)
class ForecastCase:
    """A recorded batch and the settings of its forecast.

    Args:
        name: Name for the command line.
        title: Title in tables.
        service_s: Service time of a call in seconds, given a random generator and the number of running calls.
        fails: Share of calls that fail.
        recorded: Settings of the recorded run.
        changed: Settings of the forecast and of the real run.
        loads: True if latency depends on load.
        ramp: Concurrency limits that the recorded run goes through.
    """

    name: str
    title: str
    service_s: Callable[[random.Random, int], float]
    fails: float = 0.0
    recorded: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)
    loads: bool = False
    ramp: tuple[int, ...] = ()


def _lognormal(draw: random.Random, running: int) -> float:
    return draw.lognormvariate(-3.9, 0.5)  # a median of 20 ms


def _heavy(draw: random.Random, running: int) -> float:
    return 0.4 if draw.random() < 0.02 else draw.lognormvariate(-3.9, 0.3)


def _constant(draw: random.Random, running: int) -> float:
    return 0.02


def _contended(draw: random.Random, running: int) -> float:
    return 0.01 * (1 + 0.1 * (running - 1)) * draw.uniform(0.9, 1.1)


FORECASTS: Final = (
    ForecastCase(
        "more", "4 times the slots", _lognormal, recorded={"max_concurrency": 10}, changed={"max_concurrency": 40}
    ),
    ForecastCase(
        "fewer", "a quarter of the slots", _lognormal, recorded={"max_concurrency": 80}, changed={"max_concurrency": 20}
    ),
    ForecastCase(
        "constant", "twice the slots, equal calls", _constant, recorded={"max_concurrency": 20},
        changed={"max_concurrency": 40},
    ),
    ForecastCase(
        "rate", "a rate limit of 500/s", _lognormal, recorded={"max_concurrency": 40}, changed={"rate": "500/s"}
    ),
    ForecastCase(
        "timeout", "a time limit of 0.1 s, one retry", _heavy, recorded={"max_concurrency": 20},
        changed={"item_timeout": 0.1, "retries": 1},
    ),
    ForecastCase(
        "retries", "3 retries where a tenth fails", _lognormal, fails=0.1,
        recorded={"max_concurrency": 20, "retries": 1}, changed={"retries": 3},
    ),
    ForecastCase(
        "hedge", "a hedge at p95, heavy tail", _heavy, recorded={"max_concurrency": 20}, changed={"hedge": "p95"}
    ),
    ForecastCase(
        "all", "slots, rate, time limit and retries at once", _heavy, fails=0.02, recorded={"max_concurrency": 10},
        changed={"max_concurrency": 30, "rate": "900/s", "item_timeout": 0.2, "retries": 2},
    ),
    ForecastCase(
        "contended", "3 times the slots, latency grows with load", _contended, loads=True,
        recorded={"max_concurrency": 10}, changed={"max_concurrency": 30}, ramp=(5, 10, 20),
    ),
    ForecastCase(
        "contended-unseen", "the same, recorded at one concurrency", _contended, loads=True,
        recorded={"max_concurrency": 10}, changed={"max_concurrency": 30},
    ),
)  # fmt: skip


def measure_forecasts(
    cases: Sequence[ForecastCase], rounds: int, cut: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Record, forecast and run each case.

    Args:
        cases: Cases in their order.
        rounds: Runs of each case.
        cut: Divisor of the number of items.
        say: Reports the progress.

    Returns:
        The JSON: for each case and round the recorded, predicted and real makespan and 95th percentile, in seconds.
    """
    items = max(200, _CASES_ITEMS // cut)
    forecasts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for case in cases:
            samples = []
            for number in range(rounds):
                say(f"{case.name}: round {number + 1} of {rounds}")
                samples.append(_sample(case, items, number, Path(folder)))
            forecasts[case.name] = {"title": case.title, "loads": case.loads, "samples": samples}
    return {"forecasts": forecasts, "items": items, "rounds": rounds, "missing": {}, "machine": about()}


def _sample(case: ForecastCase, items: int, number: int, folder: Path) -> dict[str, float | str]:
    from flowrt.policies import Hedge, RateLimit
    from flowrt.whatif import RecordedAttempts, forecast
    from flowrt.whatif.forecast import recorded_figures, recorded_plan

    before, after = folder / "before.parquet", folder / "after.parquet"
    _run(case, case.recorded, items, before, seed=2 * number)
    attempts = RecordedAttempts.load(before)
    changes = dict(case.changed)
    if "rate" in changes:
        changes["rates"] = [RateLimit.parse(changes.pop("rate"))]
    if "hedge" in changes:
        changes["hedge"] = Hedge(changes["hedge"])
    found = forecast(attempts, recorded_plan(attempts).changed(**changes))
    _run(case, {**case.recorded, **case.changed}, items, after, seed=2 * number + 1)
    real = recorded_figures(RecordedAttempts.load(after))
    return {
        "recorded_s": found.recorded.makespan,
        "predicted_s": found.predicted.makespan,
        "real_s": real.makespan,
        "predicted_p95_s": found.predicted.p95,
        "real_p95_s": real.p95,
        "predicted_calls": found.predicted.calls,
        "real_calls": real.calls,
        "contention": attempts.contention.known,
    }


def _run(case: ForecastCase, settings: dict[str, Any], items: int, file: Path, seed: int) -> None:
    from flowrt import BatchProcessor
    from flowrt.policies import Hedge, RateLimit, RetryPolicy

    draw = random.Random(seed)  # noqa: S311  # the same calls in each bench
    running = 0

    async def call(item: int) -> int:
        nonlocal running
        running += 1
        try:
            await asyncio.sleep(case.service_s(draw, running))
        finally:
            running -= 1
        if draw.random() < case.fails:
            raise ConnectionError("refused")
        return item

    retries = settings.get("retries", 0)
    processor = BatchProcessor(
        call,
        settings["max_concurrency"],
        item_timeout=settings.get("item_timeout"),
        retry=RetryPolicy(retries + 1, base=0.05, budget=None) if retries else None,
        rate_limit=RateLimit.parse(settings["rate"]) if "rate" in settings else None,
        hedge=Hedge(settings["hedge"]) if "hedge" in settings else None,
        record=file,
    )
    ramp = case.ramp if settings is case.recorded else ()

    async def main() -> None:
        count = 0
        async for _ in processor.batch_as_completed(range(items)):
            step, rest = divmod(count, items // len(ramp)) if ramp else (0, 1)
            if not rest and step < len(ramp):
                processor.set_max_concurrency(ramp[step])
            count += 1

    if sys.platform == "win32":
        asyncio.run(main())
    else:
        import uvloop

        uvloop.run(main())


def errors(case: dict[str, Any], what: str) -> list[float]:
    """Relative error of each round's forecast."""
    return [abs(sample[f"predicted_{what}"] / sample[f"real_{what}"] - 1) for sample in case["samples"]]


def median_error(measured: Mapping[str, Any], *, loads: bool) -> list[float]:
    """Median error of the makespan, for each case whose latency depends on load (or does not)."""
    return [median(errors(case, "s")) for case in measured["forecasts"].values() if case["loads"] is loads]
