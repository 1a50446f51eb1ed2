"""Entry of a worker process, run as a script: `bootstrap.py SOCKET MEMORY PARENT`.

It makes `import flowrt` cheap: the package's `__init__`, which loads the whole engine, runs only when one of its names
is first used, for instance by a user's module. A worker of a plain function needs only the model.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


class _LazyPackage(ModuleType):
    """The package `flowrt` before its `__init__` was executed."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec = self.__spec__
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module(self)
        return getattr(self, name)


def _import_lazily() -> None:
    package = Path(__file__).parent.parent
    spec = importlib.util.spec_from_file_location(
        "flowrt", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    if spec is not None:
        module = importlib.util.module_from_spec(spec)
        module.__class__ = _LazyPackage
        sys.modules["flowrt"] = module


if __name__ == "__main__":
    _import_lazily()
    from flowrt.remote.process import main

    main(*map(int, sys.argv[1:4]))
