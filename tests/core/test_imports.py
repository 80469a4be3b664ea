"""Imports without the collector: off within, on after, and what was made is no longer looked at."""

import gc

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
