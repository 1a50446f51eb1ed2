"""Simulated service in virtual time: a fixed capacity, one queue, and clients that keep a limit full."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from flowrt.policies.adaptive_concurrency import LimitController


def seeded(seed: int) -> random.Random:
    """Return a seeded random generator."""
    return random.Random(seed)  # noqa: S311  # for a simulation


@dataclass
class Run:
    """Outcome of a simulated batch.

    Attributes:
        limits: The limit after each result.
        finished_s: When the last one ended, in virtual seconds.
        throttled: Attempts that were refused.
        timed_out: Attempts that took too long.
        ends: When each good result came, in virtual seconds.
    """

    limits: list[int] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    finished_s: float = 0.0
    throttled: int = 0
    timed_out: int = 0

    def mean_limit(self, since: float = 0.5) -> float:
        """Return the mean limit of the run's tail, which starts at a share of its results."""
        rest = self.limits[int(len(self.limits) * since) :]
        return sum(rest) / len(rest)

    def rate(self, since: float = 0.5) -> float:
        """Return successes per second over the run's tail."""
        rest = self.ends[int(len(self.ends) * since) :]
        return (len(rest) - 1) / (rest[-1] - rest[0])


def simulate(
    controller: LimitController,
    results: int,
    *,
    capacity: Callable[[float], int],
    service_s: Callable[[float], float],
    refuse_above: float = float("inf"),
    timeout_s: float = float("inf"),
    demand: float = float("inf"),
    inspect: Callable[[LimitController], None] = lambda controller: None,
) -> Run:
    """Run `controller.limit` concurrent attempts on a service with `capacity` and one queue, until enough have ended.

    Args:
        controller: The controller under test; it receives every result.
        results: When to stop.
        capacity: Places at a time.
        service_s: Draws how long an attempt that starts at a time is served.
        refuse_above: Attempts in the service from which it throttles; refusing takes 1 ms.
        timeout_s: Attempts that have waited and run for longer are stopped.
        demand: How many attempts there are to make at once, whatever the limit.
        inspect: Called after every result.
    """
    run = Run()
    now = 0.0
    serial = 0
    events: list[tuple[float, int, str, float]] = []
    waiting: deque[float] = deque()
    serving = inflight = 0

    def push(at: float, what: str, began: float) -> None:
        nonlocal serial
        serial += 1
        heapq.heappush(events, (at, serial, what, began))

    while len(run.limits) < results:
        while inflight < min(controller.limit, demand):
            inflight += 1
            if len(waiting) + serving >= refuse_above:
                push(now + 0.001, "throttled", now)
            else:
                waiting.append(now)
        while waiting and serving < capacity(now):
            began = waiting.popleft()
            serving += 1
            push(now + service_s(now), "served", began)
        now, _, what, began = heapq.heappop(events)
        latency = now - began
        if what == "served":
            serving -= 1
            what = "ok" if latency <= timeout_s else "timed_out"
        if what == "ok":
            run.ends.append(now)
        elif what == "throttled":
            run.throttled += 1
        else:
            run.timed_out += 1
        controller.on_result(round(now * 1e9) + 1, round(latency * 1e9), inflight, what)  # type: ignore[arg-type]
        inflight -= 1
        run.limits.append(controller.limit)
        inspect(controller)
    run.finished_s = now
    return run
