"""Resume by what is already there: a step whose record stands on disk is finished and is not done twice."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tasks.core.records import Record

R = TypeVar("R", bound=Record)


def once(path: Path, kind: type[R], make: Callable[[], R]) -> R:
    """The record at `path`, or else what `make` returns, written there whole before anyone sees it."""
    if path.exists():
        return kind.read(path)
    record = make()
    record.write(path)
    return record
