"""`python -m dashboards.generator` writes the generated files; `--check` lists those that differ and fails."""

from __future__ import annotations

import sys

from dashboards.generator.files import FOLDER, generate, write, written


def main(arguments: list[str]) -> int:
    """Write or check the generated files.

    Args:
        arguments: Arguments of the command.

    Returns:
        Exit code: 0 success, 1 a file differs, 2 wrong arguments.
    """
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m dashboards.generator [--check]\n")
        return 2
    if not arguments:
        for name in write():
            sys.stdout.write(f"written: {FOLDER.name}/{name}\n")
        return 0
    files = generate()
    present = written(FOLDER)
    differing = [name for name, text in files.items() if present.get(name) != text]
    for name in sorted({*differing, *set(present) - set(files)}):
        sys.stderr.write(f"{FOLDER.name}/{name} differs from what the generator writes: run `make dashboards`\n")
    return 1 if differing or set(present) - set(files) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
