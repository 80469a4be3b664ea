"""A run that says where it is, and is killed at a named boundary. What it does is the real thing; this only watches."""

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tasks import account

HALF_WRITTEN = Path(__file__).with_name("half_written")


class Boundary(NamedTuple):
    """A call of the code: the n-th one, or the one for an entry of a kind; the process dies before or after it."""

    module: str
    name: str
    call: int = 1
    kind: str | None = None
    is_before: bool = False


# In the order of the path. The second table, the second feature table and the second view are the middle ones of three.
BOUNDARIES = {
    "staged": Boundary("tasks.ingestion", "_stage", 2),
    "audited": Boundary("tasks.validation", "write_quarantine", 2),
    "committed": Boundary("tasks.stores.lake", "Lake.insert", 2),
    "features written": Boundary("tasks.stores.lake", "Lake.replace", 2),
    "half of materialization": Boundary("tasks.stores.feature_store", "FeatureStore._write_online", 2),
    "checkpoint half-written": Boundary("", ""),  # in the training process, see half_written/
    "before register": Boundary("tasks.stores.registry", "Registry.register", is_before=True),
    "amid register": Boundary("tasks.stores.registry", "Registry._ensure_registered_model"),
    "after register": Boundary("tasks.stores.registry", "Registry.register"),
    "ledger before the intent": Boundary("tasks.stores.ledger", "Ledger.append", kind="intent", is_before=True),
    "ledger after the intent": Boundary("tasks.stores.ledger", "Ledger.append", kind="intent"),
    "between the two alias writes": Boundary("tasks.stores.registry", "Registry.set_alias"),
    "ledger before the end": Boundary("tasks.stores.ledger", "Ledger.append", kind="promoted", is_before=True),
    "ledger after the end": Boundary("tasks.stores.ledger", "Ledger.append", kind="promoted"),
}


def arm(marks: Path, boundary: str | None) -> None:
    """Write each step's begin and end into `marks`; die at `boundary`."""
    watched = _watching(marks)
    for name, module in list(sys.modules.items()):
        if name.startswith("tasks.") and getattr(module, "step", None) is account.step and module is not account:
            module.step = watched
    if boundary is not None:
        _die_at(BOUNDARIES[boundary])


def mark_steps(marks: Path) -> None:
    """Write each step's begin and end into `marks`, where no module has asked for `step` yet."""
    account.step = _watching(marks)


def _watching(marks: Path) -> Callable[..., Any]:
    file = os.open(marks, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    step = account.step

    def mark(when: str, stage: str, subject: str) -> None:
        os.write(file, f"{time.monotonic()} {when} {stage} {subject}\n".encode())

    @contextmanager
    def watched(stage: str, subject: str = "") -> Iterator[account.Step]:
        mark("in", stage, subject)
        with step(stage, subject) as line:
            yield line
        mark("after", stage, subject)

    return watched


def _die_at(boundary: Boundary) -> None:
    if not boundary.module:
        sys.path.insert(0, str(HALF_WRITTEN))  # the training process is given this path, and imports what lies there
        return
    holder = importlib.import_module(boundary.module)
    *owners, name = boundary.name.split(".")
    for owner in owners:
        holder = getattr(holder, owner)
    original, calls = getattr(holder, name), 0

    def dying(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        if boundary.kind is None or any(getattr(one, "kind", None) == boundary.kind for one in arguments):
            calls += 1
        is_it = calls == boundary.call
        if is_it and boundary.is_before:
            os.kill(os.getpid(), signal.SIGKILL)
        made = original(*arguments, **named)
        if is_it:
            os.kill(os.getpid(), signal.SIGKILL)
        return made

    setattr(holder, name, dying)
