"""What docs/migrating.md says of nadoo-flow-core holds for the real package."""

from __future__ import annotations

import subprocess
import sys

from tests.docs.test_code_blocks import ROOT
from tools.tutorial import FENCE

FLOWRT = "from flowrt import"


def test_block_for_both_packages_runs_with_the_other() -> None:
    page = (ROOT / "docs" / "migrating.md").read_text()
    (code,) = (code for _, code in FENCE.findall(page) if "# was: from nadoo_flow" in code)
    assert code.count(FLOWRT) == 1
    code = code.replace(FLOWRT, "from nadoo_flow import")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
