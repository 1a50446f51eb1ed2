"""Machine, versions and commit of a measurement."""

from __future__ import annotations

import pytest

from bench import machine


@pytest.mark.parametrize(("changes", "expected"), [("", "abc1234"), (" M flowrt/batch/processor.py", "abc1234+")])
def test_commit_with_changed_code_is_marked(changes: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_git", lambda *words: "abc1234" if words[0] == "rev-parse" else changes)
    assert machine.about()["commit"] == expected


def test_commit_is_unknown_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: str) -> str:
        raise FileNotFoundError("git")

    monkeypatch.setattr(machine, "_git", absent)
    assert machine.about()["commit"] == "unknown"


def test_missing_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_PACKAGES", ("uvloop", "no-such-package"))
    packages = machine.about()["packages"]
    assert isinstance(packages, dict)
    assert packages["no-such-package"] == "not installed"
    assert packages["uvloop"][0].isdigit()
