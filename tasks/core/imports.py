"""Imports of the stack make a million objects that stay: the collector need not look through them again and again."""

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def importing() -> Iterator[None]:
    """Collect nothing in here, nor ever after what was made in here: a fifth of what the imports would take.

    In the middle of a run that is also what others hold by then. It still goes when nobody does, cycles aside.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@atexit.register
def _say_no_more() -> None:
    """As an interpreter is taken apart, DuckDB's binding prints a page about each object that is frozen, or held by
    Great Expectations. What a process has to say, a traceback too, it has said by now."""
    with suppress(ValueError, OSError):  # closed by now
        sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
