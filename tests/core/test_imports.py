"""Imports without the collector: off within, on after, and what was made is no longer looked at."""

import gc
import subprocess
import sys

import pytest

from tasks.core.imports import importing


def test_nothing_is_collected_within_nor_looked_at_afterwards():
    assert gc.isenabled()
    before = gc.get_freeze_count()
    try:
        with importing():
            assert not gc.isenabled()
            made = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() - before >= len(made)
        gc.disable()
        with importing():
            pass
        assert not gc.isenabled()  # whoever had it off keeps it off
    finally:
        gc.enable()
        gc.unfreeze()


def test_a_failure_turns_it_on_again():
    try:
        with pytest.raises(ZeroDivisionError), importing():
            _ = 1 / gc.isenabled()  # it is off within
        assert gc.isenabled()
    finally:
        gc.unfreeze()


def test_a_process_ends_with_its_own_last_words():
    program = (
        "from tasks.core.imports import importing\nwith importing():\n    import duckdb\nraise SystemExit('the end')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "the end\n")
