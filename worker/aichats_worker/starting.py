"""A short start: what a process can do without until it is asked to work, or for good.

A command is a process, and most of its time was imports that it had no use for; a worker is started anew by whoever
waits for it.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

# Objects that are made before any of them is looked at. Python's own 700 are those of two requests, which are at work
# still, so that each is looked at for nothing.
YOUNG_MAX: Final = 5000


class _Later(ModuleType):
    """Stands for a module until something of it is wanted. importlib's LazyLoader is asked at the second `import`."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        module = import_module(self.__name__)
        vars(self).update(vars(module))  # whoever holds this has no detour from now on
        return getattr(module, name)


def import_when_used(name: str) -> None:
    """Have `import name` cost nothing until something of it is used, for libraries that import it in any case."""
    if name not in sys.modules and (spec := find_spec(name)) is not None:
        later = _Later(name)
        later.__spec__ = spec
        sys.modules[name] = later


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """Within the block, a module that is not yet imported is not installed, for libraries that do without it too."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # as Python documents it
    try:
        yield
    finally:
        del sys.modules[name]


def begin() -> None:
    """Collect no garbage: what is imported stays, and would be looked through again and again."""
    gc.disable()


def begun() -> None:
    """Collect garbage from now on, among what is made from now on."""
    if not gc.isenabled():
        gc.freeze()
        gc.set_threshold(YOUNG_MAX)
        gc.enable()
