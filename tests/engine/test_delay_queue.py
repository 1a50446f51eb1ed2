"""Delay queue of items in backoff: the earliest due item comes first, and no item is lost."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flowrt.engine.delay_queue import DelayQueue
from tests.examples import examples


class DelayQueueMachine(RuleBasedStateMachine):
    """State machine that compares a delay queue with a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: DelayQueue[int] = DelayQueue(bound=5)
        self.model: list[tuple[int, int]] = []
        self.pushed = 0
        self.now = 0

    @rule(step=st.integers(0, 20))
    def time_passes(self, step: int) -> None:
        self.now += step

    @rule(delay=st.integers(0, 30))
    def push(self, delay: int) -> None:
        self.pushed += 1
        self.queue.push(self.now + delay, self.pushed)
        self.model.append((self.now + delay, self.pushed))

    @rule()
    def pop(self) -> None:
        due = sorted(entry for entry in self.model if entry[0] <= self.now)
        assert self.queue.pop(self.now) == (due[0][1] if due else None)
        if due:
            self.model.remove(due[0])

    @rule()
    def drain(self) -> None:
        assert self.queue.drain() == [item for _, item in sorted(self.model)]
        self.model.clear()

    @invariant()
    def length_and_due_time_match_the_list(self) -> None:
        assert len(self.queue) == len(self.model)
        assert self.queue.due_ns == min((due for due, _ in self.model), default=None)
        assert self.queue.full == (len(self.model) >= 5)
        assert repr(self.queue) == f"<DelayQueue: {len(self.model)} of 5 waiting>"


TestDelayQueue = DelayQueueMachine.TestCase
TestDelayQueue.settings = settings(max_examples=examples(100), stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("bound", [0, -1, True, 1.0, None])
def test_bound_that_is_not_a_positive_integer_is_refused(bound: int) -> None:
    with pytest.raises(ValueError, match="bound must be an integer of at least 1"):
        DelayQueue(bound)
