"""What moved, in words that a person reads without the picture."""

import numpy as np

from tasks.core.drift import Binning
from tasks.core.drift_table import how_moved
from tasks.core.reference import ColumnReference

NUMBER = ColumnReference(
    binning=Binning(column="delay", kind="numeric", edges=(0.0, 10.0, 20.0)), first_day=0,
    counts=((5, 20, 5, 5, 3), (5, 20, 5, 5, 3)),
)  # fmt: skip
CATEGORY = ColumnReference(
    binning=Binning(column="origin", kind="categorical", categories=("EWR", "JFK")), first_day=0,
    counts=((50, 50, 0, 0, 0),),
)  # fmt: skip


def test_a_number_is_told_by_its_median_then_and_now():
    quantiles = tuple(np.linspace(5, 23, 19))
    assert how_moved(NUMBER, np.array([0, 1, 1, 30, 0.0]), quantiles) == "median 10 → 14"


def test_without_quantiles_the_bins_tell_and_missing_values_are_not_counted():
    assert how_moved(NUMBER, np.array([0, 1, 30, 1, 100.0]), ()) == "median 10 → 20"
    assert how_moved(NUMBER, np.array([0, 0, 0, 0, 100.0]), ()) == ""


def test_a_category_is_told_by_the_one_whose_share_changed_most():
    assert how_moved(CATEGORY, np.array([20, 45, 0, 35, 0.0]), ()) == "new ones 0.0% → 35.0%"
    assert how_moved(CATEGORY, np.array([80, 20, 0, 0, 0.0]), ()) == "EWR 50.0% → 80.0%"
