"""SIGKILL at random moments and between any two steps: the output equals an uninterrupted run's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.child import When
from tests.chaos.harness import FULL, KILLS, chance, check_end, code_of, finish, make_job, outcomes, said, start

Expected = Callable[[int], dict[int, tuple[Any, ...]]]
pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.parts]  # one fork server, one uninterrupted run


@pytest.mark.timeout(900)
def test_run_killed_at_random_moments_resumes(tmp_path: Path, expected: Expected) -> None:
    items, dice = 300, chance()
    whole = expected(items)
    kills = runs = 0
    while kills < KILLS:
        folder, killed = tmp_path / str(runs), 0
        runs += 1
        make_job(folder, items)
        while True:
            process = start(folder)
            # Most kills come in the middle of the run, some at its start, some in its last steps. Each comes later than
            # the one before, or on a busy machine no run would get far enough to finish an item.
            process.join(dice.choice([0.03, 0.15, 0.15, 0.3]) * dice.random() * 1.05**killed)
            process.kill()
            code = code_of(process)
            assert code in {1, -9}, (code, said(folder))
            if code != -9:
                break
            killed += 1
            if (folder / "out.jsonl").exists():  # the final name only ever holds a complete file
                assert outcomes(folder) == whole
        finish(folder)  # a second resumed run has nothing to do
        check_end(folder, whole, killed)
        kills += killed
    assert kills >= KILLS


STEPS = [(at, when) for at in range(1, 400) for when in ("before", "half", "after")]


@pytest.mark.timeout(900)
def test_run_killed_between_any_two_steps_resumes(tmp_path: Path, expected: Expected) -> None:
    items, dice = 12, chance()
    whole = expected(items)
    reached = True
    step = 0
    for step, (at, when) in enumerate(STEPS if FULL else STEPS[1::7]):  # the step that the run reached
        folder = tmp_path / str(step)
        reached = _kill_at(folder, items, at, when)
        kills = int(reached)
        if FULL and dice.random() < 0.5:  # and the resumed run too
            kills += code_of(start(folder, die_at=dice.randrange(1, at + 20), when=when)) == -9
        if (folder / "out.jsonl").exists():
            assert outcomes(folder) == whole, (at, when)
        finish(folder)
        check_end(folder, whole, kills)
        if not reached:
            break
    assert not reached, "the steps did not come to an end"
    assert step > 10


def _kill_at(folder: Path, items: int, at: int, when: When) -> bool:
    """Return True if the run reached that step."""
    make_job(folder, items)
    code = code_of(start(folder, die_at=at, when=when))
    assert code in {1, -9}, (at, when, code, said(folder))
    return code == -9
