"""The list of safeguards is of the code as it is; `make ablation` takes them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ablation.__main__ import ROOT, main, run_tests
from tests.ablation.safeguards import SAFEGUARDS, Safeguard


@pytest.mark.parametrize("safeguard", SAFEGUARDS, ids=lambda safeguard: safeguard.name)
def test_a_safeguard_is_where_it_is_said_to_be_and_has_its_test(safeguard: Safeguard) -> None:
    assert (ROOT / safeguard.file).read_text().count(safeguard.there) == 1, "the code moved on: change the list"
    assert safeguard.gone != safeguard.there
    file, _, test = safeguard.test.partition("::")
    assert f"def {test}(" in (ROOT / file).read_text(), "the test moved on: change the list"


@pytest.mark.parts
def test_taking_one_out_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["the retry budget"]) == 0
    assert "1 safeguards, 0 survive" in capsys.readouterr().out


def test_a_name_that_is_none_is_told() -> None:
    assert main(["no such thing"]) == 2


@pytest.mark.parts
def test_a_test_that_cannot_be_found_counts_as_no_failure(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_something() -> None:\n    pass\n")
    assert run_tests(tmp_path, ["test_it.py::test_something"])[0] == 0
    code, _ = run_tests(tmp_path, ["test_it.py::test_nothing"])
    assert code not in (0, 1)
