"""A scratch home: in a block, the settings of this process are those of an empty home that borrows tables of a lake."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tasks.core.errors import PerennialError
from tasks.core.records import TableRef

# Where a home keeps its parts when not under its folder: those of the real home are not for a scratch home to write to.
ELSEWHERE = ("LAKE_URI", "TRACKING_URI", "ARTIFACTS_URI", "FEAST_REGISTRY", "ONLINE_STORE")


@contextmanager
def borrowing_home(home: Path, tables: Iterable[TableRef]) -> Iterator[None]:
    """The home is `home`, empty at first and gone in the end; `tables` are read where they lie.

    Raises:
        PerennialError: another process works in it.
    """
    with _alone(home):
        shutil.rmtree(home, ignore_errors=True)  # of a process that was killed
        borrowed = json.dumps({ref.name: ref.uri for ref in tables})
        try:
            with _environment({"PERENNIAL_HOME": str(home), "PERENNIAL_BORROWED_TABLES": borrowed}):
                yield
        finally:
            shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_name(f".{home.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PerennialError(
                f"another process works in {home}", expected="one at a time", fix="wait until that has ended, or end it"
            ) from None
        yield


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    names = [*changes, *(f"PERENNIAL_{name}" for name in ELSEWHERE)]
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in changes:
            os.environ.pop(name, None)
        os.environ.update(before)
