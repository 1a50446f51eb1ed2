"""`python -m dashboards` writes the generated files; with `--check` it only says which ones differ, and fails."""

from __future__ import annotations

import sys

from dashboards.files import FOLDER, generate, write


def main(arguments: list[str]) -> int:
    """Write or check.

    Args:
        arguments: Of the command.

    Returns:
        The exit code.
    """
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m dashboards [--check]\n")
        return 2
    if not arguments:
        for name in write():
            sys.stdout.write(f"written: {FOLDER.name}/{name}\n")
        return 0
    files = generate()
    present = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    differing = [name for name, text in files.items() if name not in present or (FOLDER / name).read_text() != text]
    for name in sorted({*differing, *present - set(files)}):
        sys.stderr.write(f"{FOLDER.name}/{name} differs from what the code says: run `make dashboards`\n")
    return 1 if differing or present - set(files) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
