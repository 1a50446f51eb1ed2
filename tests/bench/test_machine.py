"""What is told of the place and the code that were measured."""

from __future__ import annotations

import pytest

from bench import machine


@pytest.mark.parametrize(("changes", "told"), [("", "abc1234"), (" M flowrt/batch/processor.py", "abc1234+")])
def test_a_commit_whose_code_was_changed_is_marked(changes: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_git", lambda *words: "abc1234" if words[0] == "rev-parse" else changes)
    assert machine.about()["commit"] == told


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: str) -> str:
        raise FileNotFoundError("git")

    monkeypatch.setattr(machine, "_git", absent)
    assert machine.about()["commit"] == "unknown"


def test_a_package_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_PACKAGES", ("uvloop", "no-such-package"))
    packages = machine.about()["packages"]
    assert isinstance(packages, dict)
    assert packages["no-such-package"] == "not installed"
    assert packages["uvloop"][0].isdigit()
