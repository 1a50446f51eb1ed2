"""Items in backoff: the first due comes first, and nobody is lost."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flowrt.engine.delay_queue import DelayQueue
from tests.examples import examples


class Waiting(RuleBasedStateMachine):
    """Beside a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.backoff: DelayQueue[int] = DelayQueue(bound=5)
        self.model: list[tuple[int, int]] = []
        self.pushed = 0
        self.now = 0

    @rule(step=st.integers(0, 20))
    def time_passes(self, step: int) -> None:
        self.now += step

    @rule(delay=st.integers(0, 30))
    def one_comes(self, delay: int) -> None:
        self.pushed += 1
        self.backoff.push(self.now + delay, self.pushed)
        self.model.append((self.now + delay, self.pushed))

    @rule()
    def one_is_asked_for(self) -> None:
        due = sorted(entry for entry in self.model if entry[0] <= self.now)
        assert self.backoff.pop(self.now) == (due[0][1] if due else None)
        if due:
            self.model.remove(due[0])

    @rule()
    def the_batch_stops(self) -> None:
        assert self.backoff.drain() == [item for _, item in sorted(self.model)]
        self.model.clear()

    @invariant()
    def it_tells_how_many_wait_and_until_when(self) -> None:
        assert len(self.backoff) == len(self.model)
        assert self.backoff.due_ns == min((due for due, _ in self.model), default=None)
        assert self.backoff.full == (len(self.model) >= 5)
        assert repr(self.backoff) == f"<DelayQueue: {len(self.model)} of 5 waiting>"


TestWaiting = Waiting.TestCase
TestWaiting.settings = settings(max_examples=examples(100), stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("bound", [0, -1, True, 1.0, None])
def test_a_bound_that_is_none_is_refused(bound: int) -> None:
    with pytest.raises(ValueError, match="bound must be an integer of at least 1"):
        DelayQueue(bound)
