"""docs/reliability.md and the numbered tests of tests/test_reliability.py name each other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
NAMED = re.findall(r"\[`(test_\w+)`\]\(\.\./([\w/.]+)\)", PAGE)
FAULTS = {int(number): line for number, line in re.findall(r"^\| (\d+) \| (.+)$", PAGE, re.MULTILINE)}


def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_test_named_on_the_page_exists() -> None:
    missing = [f"{path}::{name}" for name, path in NAMED if name not in names_in(path)]
    assert not missing, "write the new names into docs/reliability.md"


def test_every_reliability_test_is_on_the_page_at_its_number() -> None:
    for name in names_in("tests/test_reliability.py"):
        number = re.match(r"test_(\d\d)_", name)
        assert f"[`{name}`]" in (PAGE if number is None else FAULTS[int(number[1])]), name


def test_every_fault_has_a_test_of_its_number() -> None:
    for number, line in FAULTS.items():
        assert f"[`test_{number:02}_" in line, line


def test_faults_are_numbered_without_gaps_and_link_to_tests() -> None:
    assert sorted(FAULTS) == list(range(1, len(FAULTS) + 1))
    untested = {number for number, line in FAULTS.items() if "](../tests/" not in line}
    assert all("Not in this version" in FAULTS[number] for number in untested), untested
