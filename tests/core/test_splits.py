"""Splits follow from the recipe and as_of: disjoint, in order, an embargo apart."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import LeakageError, RecipeError
from tasks.core.splits import ALL, PARTS, split_rows, split_windows

START = datetime(2013, 1, 1, tzinfo=UTC)
FLIGHTS = {"maturity": timedelta(hours=36), "holdout": timedelta(28), "validation": timedelta(14)}
hours = st.integers(1, 390).map(lambda n: timedelta(hours=n))


def moments(*values: datetime) -> np.ndarray:
    return np.array([value.replace(tzinfo=None) for value in values], dtype="datetime64[us]")


def test_flights_first_champion() -> None:
    windows = split_windows(start=START, as_of=datetime(2013, 4, 1, tzinfo=UTC), embargo=timedelta(hours=36), **FLIGHTS)
    spans = {name: (f"{w.start:%m-%d %H}", f"{w.end:%m-%d %H}") for name, w in windows.items()}
    assert spans == {
        "holdout": ("03-02 12", "03-30 12"),
        "validation": ("02-15 00", "03-01 00"),
        "fit": ("01-01 00", "02-13 12"),
        "all": ("01-01 00", "03-30 12"),
    }


def test_rolling_window_is_as_long_as_the_recipe_says_and_never_before_the_start() -> None:
    def fit(as_of: datetime) -> tuple[datetime, timedelta]:
        window = split_windows(start=START, as_of=as_of, embargo=timedelta(0), reach=timedelta(90), **FLIGHTS)["fit"]
        return window.start, window.end - window.start

    assert fit(datetime(2013, 10, 1, tzinfo=UTC))[1] == timedelta(90)
    assert fit(datetime(2013, 4, 1, tzinfo=UTC))[0] == START


@given(maturity=hours, holdout=hours, validation=hours, embargo=hours, reach=st.none() | hours, seed=st.integers(0, 99))
def test_parts_are_disjoint_in_order_and_an_embargo_apart(
    maturity: timedelta,
    holdout: timedelta,
    validation: timedelta,
    embargo: timedelta,
    reach: timedelta | None,
    seed: int,
) -> None:
    as_of = START + timedelta(hours=2000)
    settings = {"start": START, "as_of": as_of, "maturity": maturity, "embargo": embargo, "reach": reach}
    windows = split_windows(holdout=holdout, validation=validation, **settings)
    grid = np.arange(0, 2000 * 60, 20) + np.random.default_rng(seed).integers(0, 20)
    times = np.datetime64("2013-01-01", "us") + grid.astype("timedelta64[m]")

    ranges = split_rows(times, windows)

    for before, after in (("fit", "validation"), ("validation", "holdout")):
        assert windows[before].end + embargo == windows[after].start
        assert ranges[before].stop <= ranges[after].start
    assert windows["holdout"].end == as_of - maturity == windows[ALL].end
    assert (ranges[ALL].start, ranges[ALL].stop) == (ranges["fit"].start, ranges["holdout"].stop)
    for name in PARTS:  # a row is in a part if and only if its time is in the part's window
        start, end = moments(windows[name].start, windows[name].end)
        inside = np.flatnonzero((times >= start) & (times < end))
        assert (ranges[name].start, ranges[name].stop) == (inside[0], inside[-1] + 1)


def test_windows_are_half_open() -> None:
    windows = split_windows(start=START, as_of=datetime(2013, 3, 1, tzinfo=UTC), embargo=timedelta(hours=1), **FLIGHTS)
    edges = sorted({edge for name in PARTS for edge in (windows[name].start, windows[name].end)})
    ranges = split_rows(moments(*edges), windows)
    assert [(ranges[name].start, ranges[name].stop) for name in PARTS] == [(0, 1), (2, 3), (4, 5)]


def test_no_time_for_the_fit_says_what_to_shorten() -> None:
    with pytest.raises(RecipeError, match=r"no time for the fit(.|\n)*shorten split\.holdout"):
        split_windows(start=START, as_of=datetime(2013, 2, 1, tzinfo=UTC), embargo=timedelta(0), **FLIGHTS)


def test_a_part_without_rows_names_it_with_all_sizes() -> None:
    windows = split_windows(start=START, as_of=datetime(2013, 4, 1, tzinfo=UTC), embargo=timedelta(0), **FLIGHTS)
    with pytest.raises(RecipeError, match=r"leaves validation without rows(.|\n)*fit 1 rows(.|\n)*holdout 1 rows"):
        split_rows(moments(START, datetime(2013, 3, 20, tzinfo=UTC)), windows)


def test_unsorted_rows_are_refused() -> None:
    windows = split_windows(start=START, as_of=datetime(2013, 4, 1, tzinfo=UTC), embargo=timedelta(0), **FLIGHTS)
    with pytest.raises(LeakageError, match="not sorted"):
        split_rows(moments(START + timedelta(1), START), windows)
