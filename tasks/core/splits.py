"""Splits by time: which rows are fitted, selected and judged on follows from the recipe and `as_of` alone."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from tasks.core.errors import LeakageError, RecipeError
from tasks.core.records import RowRange, Window

PARTS = ("fit", "validation", "holdout")  # in order of time; never one row in two of them
ALL = "all"  # from the first fit row to the cut: what a refit is fitted on


def split_windows(
    *,
    start: datetime,
    as_of: datetime,
    maturity: timedelta,
    holdout: timedelta,
    validation: timedelta,
    embargo: timedelta,
    reach: timedelta | None = None,
) -> dict[str, Window]:
    """Windows of prediction time, backwards from `as_of - maturity`: holdout, embargo, validation, embargo, fit.

    `reach` is how long the fit window is; None lets it grow from `start`. A prediction time inside an embargo belongs
    to no part: the labels of the part before were still unknown then.

    Raises:
        RecipeError: a duration that cannot be, or no time left for the fit.
    """
    for name, length in (("holdout", holdout), ("validation", validation)):
        if length <= timedelta(0):
            raise RecipeError(f"split.{name} is empty", got=length, expected="a duration above zero")
    cut = as_of - maturity
    judged_from = cut - holdout
    selected_from = judged_from - embargo - validation
    fit_until = selected_from - embargo
    fit_from = start if reach is None else max(start, fit_until - reach)
    if fit_from >= fit_until:
        raise RecipeError(
            "the split leaves no time for the fit",
            got=f"fit from {fit_from} until {fit_until}: as_of {as_of} - maturity {maturity} - holdout {holdout}"
            f" - validation {validation} - 2 embargoes of {embargo}",
            expected=f"an end after the first day {start}",
            fix="shorten split.holdout, split.validation or split.embargo, or take a later as_of",
        )
    return {
        "fit": Window(start=fit_from, end=fit_until),
        "validation": Window(start=selected_from, end=judged_from - embargo),
        "holdout": Window(start=judged_from, end=cut),
        ALL: Window(start=fit_from, end=cut),
    }


def split_rows(times: npt.NDArray[np.datetime64], windows: Mapping[str, Window]) -> dict[str, RowRange]:
    """The rows of each window. `times` (N,) are prediction times in UTC, sorted.

    Raises:
        LeakageError: times out of order.
        RecipeError: a part without rows.
    """
    if (times[1:] < times[:-1]).any():
        raise LeakageError("rows are not sorted by prediction time", fix="sort them before they are split")
    ranges = {}
    for name, window in windows.items():
        ranges[name] = row_range(times, window)
    if empty := [name for name, part in ranges.items() if part.start == part.stop]:
        sizes = ", ".join(f"{name} {r.stop - r.start:,} rows in {_span(r.window)}" for name, r in ranges.items())
        raise RecipeError(
            f"the split leaves {', '.join(empty)} without rows",
            got=sizes,
            expected="rows in every part",
            fix="lengthen these windows under split, take a later as_of, or ingest the missing time",
        )
    return ranges


def row_range(times: npt.NDArray[np.datetime64], window: Window) -> RowRange:
    """The rows of a window, which may be none. `times` (N,) are sorted, in UTC."""
    low, high = np.searchsorted(times, np.array([_utc64(window.start), _utc64(window.end)]), side="left")
    return RowRange(start=int(low), stop=int(high), window=window)


def _utc64(moment: datetime) -> np.datetime64:
    # numpy takes no zone; an aware moment's own offset is removed first.
    offset = moment.utcoffset() or timedelta(0)
    return np.datetime64((moment - offset).replace(tzinfo=None), "us")


def _span(window: Window) -> str:
    return f"[{window.start:%Y-%m-%d %H:%M}, {window.end:%Y-%m-%d %H:%M})"
