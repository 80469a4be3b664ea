"""Great Expectations, imported a third quicker: `from tasks.stores.light_gx import gx`, wherever it may be the first.

Of its gallery one expectation draws with Altair, and that and two metrics count with SciPy's distributions: half a
second of imports, here when one of them is asked.
"""

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

WHEN_ASKED = ("altair", "scipy.stats")
_NOISE = (  # on import and in use
    r"module 'sre_\w+' is deprecated",
    "duckdb-engine doesn't yet support reflection on indices",
)


class _WhenAsked(ModuleType):
    """In the place of a module, which is imported when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks, which wants nothing of it
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def _importing_when_asked(*names: str) -> Iterator[None]:
    put = {name: _WhenAsked(name) for name in names if name not in sys.modules}
    sys.modules.update(put)
    try:
        yield
    finally:
        for name, module in put.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in _NOISE:
            warnings.filterwarnings("ignore", message=message)
        yield


with quiet(), _importing_when_asked(*WHEN_ASKED):
    import great_expectations as gx

__all__ = ["gx"]
