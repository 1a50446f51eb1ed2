"""`python -m flowrt`: the command without its script."""

from __future__ import annotations

import sys
from pathlib import Path

from flowrt.cli.main import main

if __name__ == "__main__":
    # -m puts the working directory first, where any file in it would shadow what flowrt still has to import; the
    # command itself appends it at the end when it looks for the user's node
    if not sys.flags.safe_path and sys.path and sys.path[0] in ("", str(Path.cwd())):
        del sys.path[0]
    main(prog_name="flowrt")
