"""The list of safeguards fits the code; `make ablation` removes each."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowrt.engine.instrument import Dispatch
from tests.ablation.__main__ import ROOT, main, run_tests
from tests.ablation.edits import edit
from tests.ablation.safeguards import SAFEGUARDS, Safeguard


@pytest.mark.parametrize("safeguard", SAFEGUARDS, ids=lambda safeguard: safeguard.name)
def test_safeguard_can_be_removed_and_has_its_test(safeguard: Safeguard) -> None:
    undo = safeguard.remove()
    undo()
    safeguard.remove()()
    file, _, test = safeguard.test.partition("::")
    assert f"def {test}(" in (ROOT / file).read_text(), "the test has another name now: change the list"


def test_edit_of_code_that_is_absent_is_refused() -> None:
    with pytest.raises(LookupError, match=r"Dispatch.disable has this code 0 times"):
        edit(Dispatch, "disable", ("return None", "pass"))


def test_edit_replaces_a_function_wherever_it_was_imported() -> None:
    from flowrt.batch import build
    from flowrt.engine import attempt

    before = build.make_direct
    undo = edit(attempt, "make_direct", ("data = isolate(data)", "pass"))
    try:
        assert build.make_direct is attempt.make_direct is not before
    finally:
        undo()
    assert build.make_direct is attempt.make_direct is before


@pytest.mark.parts
def test_test_fails_without_its_safeguard(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["the retry budget"]) == 0
    assert "1 safeguards, 0 survive" in capsys.readouterr().out


def test_unknown_name_is_an_error() -> None:
    assert main(["no such thing"]) == 2


@pytest.mark.parts
def test_missing_test_does_not_count_as_a_failure(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_something() -> None:\n    pass\n")
    assert run_tests(tmp_path, ["test_it.py::test_something"])[0] == 0
    code, _ = run_tests(tmp_path, ["test_it.py::test_nothing"])
    assert code not in (0, 1)
