"""A reference of a few days: what it keeps, and that a window counted into it says the same however it comes."""

import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.observation import input_faults
from tasks.core.reference import ColumnReference, build_columns, count_window, measure_drift

START = np.datetime64("2013-01-01")


def made_up(days: int, seed: int = 0, a_day: int = 100) -> pa.Table:
    generator = np.random.default_rng(seed)
    times = START + np.repeat(np.arange(days), a_day).astype("timedelta64[D]")
    rows = len(times)
    miles = np.where(generator.random(rows) < 0.05, np.nan, generator.gamma(2.0, 300.0, rows))
    return pa.table(
        {
            "prediction_time": pa.array(times.astype("datetime64[us]"), pa.timestamp("us", "UTC")),
            "miles": pa.array(miles, pa.float32(), from_pandas=True),
            "place": pa.array(generator.choice(["JFK", "LGA", "EWR"], rows, p=[0.5, 0.3, 0.2])),
        }
    )


@pytest.fixture(scope="module")
def columns() -> dict[str, ColumnReference]:
    return build_columns(made_up(56), ["miles", "place"])


def test_every_row_is_in_one_bin_of_its_day(columns):
    for column in columns.values():
        assert column.matrix.shape == (56, column.binning.num_bins)
        assert (column.matrix.sum(axis=1) == 100).all()
    assert columns["miles"].largest_null_fraction == pytest.approx(0.05, abs=0.03)
    assert ColumnReference.from_json(columns["miles"].to_json()) == columns["miles"]


def test_days_without_rows_are_days():
    rows = made_up(20)
    days = (rows["prediction_time"].to_numpy() - START).astype("timedelta64[D]").astype(int)
    kept = rows.filter(pa.array((days < 5) | (days >= 12)))
    found = build_columns(kept, ["miles"])["miles"]
    assert found.matrix.sum(axis=1).tolist() == [100] * 5 + [0] * 7 + [100] * 8


def test_a_window_counts_the_same_in_one_batch_and_in_many(columns):
    rows = made_up(7, seed=1)
    whole, parts = (count_window(columns, rows.to_batches(max_chunksize=size)) for size in (10_000, 37))
    assert whole.rows == parts.rows == 700
    for name in columns:
        assert whole.counts[name].tolist() == parts.counts[name].tolist()
    assert whole.quantiles["miles"] == pytest.approx(parts.quantiles["miles"])


def test_quantiles_of_many_batches_are_of_all_of_them_in_bounded_memory(columns, monkeypatch):
    monkeypatch.setattr("tasks.core.reference.MAX_SAMPLES", 16)
    rows = pa.table({"miles": np.arange(10_000.0), "place": pa.array(["JFK"] * 10_000)})
    few = count_window(columns, rows.to_batches(max_chunksize=10)).quantiles["miles"]
    assert few == pytest.approx(np.linspace(500, 9500, 19), abs=700)


def test_a_window_of_many_rows_is_counted_by_vectors(columns):
    rows = made_up(7, seed=6, a_day=30_000)
    wide = {f"{name}{place}": column for name, column in columns.items() for place in range(15)}
    wide = {name: replace(column, binning=replace(column.binning, column=name)) for name, column in wide.items()}
    batches = pa.table({name: rows[name[:5]] for name in wide}).to_batches(max_chunksize=65_536)
    count_window(wide, batches[:1])  # once before, so that what is made at a first call is not counted
    began = time.process_time()
    assert count_window(wide, batches).rows == 210_000
    assert time.process_time() - began < 1.0, "6.3 million values; one by one they would take several seconds"


def drifted(columns, rows: pa.Table) -> list[str]:
    counted = count_window(columns, rows.to_batches())
    found = measure_drift(columns, counted.counts, window_days=7, false_alarm_rate=0.05)
    return [drift.column for drift in found if drift.is_drifted]


def test_a_quiet_week_is_quiet_and_a_shift_is_drift(columns):
    quiet = made_up(7, seed=2)
    assert drifted(columns, quiet) == []
    moved = quiet.set_column(1, "miles", pa.array(quiet["miles"].to_numpy() * 1.5 + 100))
    assert drifted(columns, moved) == ["miles"]


def faults(columns, rows: pa.Table, before=()) -> tuple[str, ...]:
    counted = count_window(columns, rows.to_batches())
    found = measure_drift(columns, counted.counts, window_days=7, false_alarm_rate=0.05)
    return input_faults(found, columns, counted.quantiles, before, max_null_increase=0.2)


def test_units_are_measured_by_the_last_whole_window_and_then_it_is_usual(columns):
    kilometres = made_up(7, seed=3)
    kilometres = kilometres.set_column(1, "miles", pa.array(kilometres["miles"].to_numpy() * 1.609344))
    (fault,) = faults(columns, kilometres)
    assert "miles and kilometres" in fault
    assert faults(columns, made_up(7, seed=4)) == ()
    counted = count_window(columns, kilometres.to_batches())
    assert faults(columns, kilometres, [counted.quantiles]) == ()


def test_values_that_went_missing_are_named(columns):
    rows = made_up(7, seed=5)
    half = [None if n % 2 else v for n, v in enumerate(rows["place"].to_pylist())]
    thinned = rows.set_column(2, "place", pa.array(half))
    (fault,) = faults(columns, thinned)
    assert fault.startswith("place: 50% of its values are missing")
