"""Feast, imported nine times quicker: `from tasks.stores.light_feast import feast`, wherever it may be the first.

Feast marks its classes with typeguard's `typechecked`, which parses their module anew for each of their methods and
rewrites it: 2.7 of the 3.3 seconds that its import takes. What people write are the arguments of its constructors;
these are checked here too, by typeguard's own `check_type`, when they are called.

It also imports torch, a second, for the one conversion of online values that gives tensors; here that imports it.
"""

import functools
import importlib
import inspect
import sys
import typing
from collections.abc import Callable
from types import ModuleType
from typing import Any

import typeguard


def _checked_when_made(target: Any = None, **options: Any) -> Any:
    """In the place of `typeguard.typechecked`: a class whose constructor checks its arguments."""
    if target is None:
        return functools.partial(_checked_when_made, **options)
    if "__init__" in vars(target):
        target.__init__ = _checked(target.__init__)
    return target


def _checked(function: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(function)
    hints = functools.cache(lambda: typing.get_type_hints(function))  # some name what is defined further below

    @functools.wraps(function)
    def checked(*arguments: Any, **named: Any) -> None:
        for name, value in signature.bind(*arguments, **named).arguments.items():
            if (hint := hints().get(name)) is not None:
                try:
                    typeguard.check_type(value, hint)
                except typeguard.TypeCheckError as error:
                    raise typeguard.TypeCheckError(f"argument {name!r}: {error}") from None
        function(*arguments, **named)

    return checked


def _torch_when_asked() -> ModuleType:
    """In the place of `feast.torch_wrapper`, which imports torch when it is itself imported."""
    module = ModuleType("feast.torch_wrapper")
    module.get_torch = functools.partial(importlib.import_module, "torch")  # type: ignore[attr-defined]
    return module


sys.modules.setdefault("feast.torch_wrapper", _torch_when_asked())
_rewriting, typeguard.typechecked = typeguard.typechecked, _checked_when_made
try:
    import feast
    import feast.infra.offline_stores.file_source
    import feast.infra.online_stores.sqlite
finally:
    typeguard.typechecked = _rewriting

__all__ = ["feast"]
