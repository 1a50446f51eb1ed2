"""docs/reference.md has every public name."""

from __future__ import annotations

import re

import flowrt
import flowrt.errors
from tests.docs.test_code_blocks import ROOT


def test_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference.md").read_text()
    named = set(re.findall(r"^::: flowrt\.(\w+)$", page, re.MULTILINE)) | set(flowrt.errors.__all__)
    assert {*flowrt.__all__, "map"} - named == {"__version__"}
