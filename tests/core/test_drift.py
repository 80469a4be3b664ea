"""Drift: statistics with known values, bins with null and unseen, and a false-alarm rate that is as stated."""

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.drift import (
    FLOORS,
    MAX_CATEGORIES,
    MAX_RARE,
    Binning,
    bin_codes,
    column_drift,
    count_bins,
    make_binning,
    statistics,
    thresholds,
)

DAYS, ROWS_A_DAY = 120, 200


def quiet_days(seed: int, days: int = DAYS) -> tuple[np.ndarray, pa.RecordBatch]:
    """Rows of days whose level wanders from day to day: dependent within a day, the same in the long run."""
    generator = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), ROWS_A_DAY)
    level = generator.normal(0, 0.3, days)[day]
    amount = level + generator.normal(size=len(day))
    other = generator.normal(size=len(day)) + generator.normal(0, 0.2, days)[day]
    place = np.where(generator.random(len(day)) < 0.3 + 0.1 * level, "JFK", "LGA")
    return day, pa.RecordBatch.from_pydict({"amount": amount, "other": other, "place": place})


def test_bins_keep_null_and_unseen_apart():
    numeric = make_binning("x", pa.array([float(i) for i in range(100)]))
    codes = bin_codes(numeric, pa.array([-5.0, 99.0, None, float("nan")]))
    assert codes.tolist() == [0, numeric.num_bins - 2, numeric.num_bins - 1, numeric.num_bins - 1]
    named = make_binning("x", pa.array(["a", "b", "a", None]))
    assert bin_codes(named, pa.array(["b", "z", None])).tolist() == [1, 3, 4]
    assert Binning.from_json(named.to_json()) == named


def test_a_rare_category_is_not_a_new_one():
    common = [f"c{i:02}" for i in range(MAX_CATEGORIES)]
    binning = make_binning("x", pa.array(common * 3 + ["rare", "rarer"]))
    assert bin_codes(binning, pa.array(["c01", "rare", "rarer", "new"])).tolist() == [
        1, MAX_CATEGORIES, MAX_CATEGORIES, MAX_CATEGORIES + 1,
    ]  # fmt: skip
    many = make_binning("x", pa.array([f"{i}" for i in range(MAX_CATEGORIES + MAX_RARE + 1)]))
    assert bin_codes(many, pa.array(["new"])).tolist() == [MAX_CATEGORIES], "it cannot be told from the unnamed ones"


def test_statistics_have_their_textbook_values():
    binning = Binning(column="x", kind="numeric", edges=(0.5,))
    p, q = np.array([5e6, 5e6, 0.0]), np.array([9e6, 1e6, 0.0])
    got = statistics(binning, p, q)
    assert got["psi"] == pytest.approx(0.4 * np.log(0.9 / 0.5) - 0.4 * np.log(0.1 / 0.5), rel=1e-4)
    assert got["ks"] == pytest.approx(0.4, rel=1e-4)
    middle = np.array([0.7, 0.3])
    divergence = (0.5 * np.log2(0.5 / middle) + np.array([0.9, 0.1]) * np.log2(np.array([0.9, 0.1]) / middle)).sum() / 2
    assert got["js"] == pytest.approx(np.sqrt(divergence), rel=1e-4)
    named = statistics(
        Binning(column="x", kind="categorical", categories=("a",)), np.array([1e9, 0, 0]), np.array([0, 1e9, 0])
    )
    assert named["cramer_v"] == pytest.approx(1, abs=1e-3)
    assert all(value == pytest.approx(0, abs=1e-9) for value in statistics(binning, p, p).values())


def test_one_pass_over_batches_equals_one_batch():
    days, batch = quiet_days(1, days=3)
    binnings = [make_binning(name, batch.column(name)) for name in batch.schema.names]
    whole = count_bins(binnings, [(days, batch)])
    parts = count_bins(binnings, [(days[i : i + 170], batch.slice(i, 170)) for i in range(0, len(days), 170)])
    for name in whole:
        assert sum(counts.sum() for counts in whole[name].values()) == len(days)
        assert {day: counts.tolist() for day, counts in whole[name].items()} == {
            day: counts.tolist() for day, counts in parts[name].items()
        }


def reference_and_limits(seed: int, rate: float):
    days, batch = quiet_days(seed)
    binnings = [make_binning(name, batch.column(name)) for name in batch.schema.names]
    counted = count_bins(binnings, [(days, batch)])
    reference = {name: np.stack([by_day[day] for day in range(DAYS)]) for name, by_day in counted.items()}
    limits = thresholds(
        binnings, reference, window_days=7, block_days=3, false_alarm_rate=rate, resamples=2000, seed=seed
    )
    return binnings, reference, limits


def test_a_quiet_window_raises_any_alarm_at_the_stated_rate(monkeypatch):
    for name in FLOORS:
        monkeypatch.setitem(FLOORS, name, 0.0)  # the floors only lower the rate; here the resampling is on trial
    rate, alarms, windows = 0.05, 0, 1000
    binnings, reference, limits = reference_and_limits(2, rate)
    generator = np.random.default_rng(3)
    for _ in range(windows):
        starts = generator.integers(0, DAYS - 3 + 1, size=3)
        drawn = (starts[:, None] + np.arange(3)).ravel()[:7]
        alarms += any(
            column_drift(b, reference[b.column].sum(0), reference[b.column][drawn].sum(0), limits[b.column]).is_drifted
            for b in binnings
        )
    assert abs(alarms / windows - rate) < 4 * np.sqrt(rate * (1 - rate) / windows)


def test_few_different_blocks_make_ties_and_no_more_alarms_than_stated(monkeypatch):
    for name in FLOORS:
        monkeypatch.setitem(FLOORS, name, 0.0)
    days, batch = quiet_days(5, days=20)
    binnings = [make_binning(name, batch.column(name)) for name in batch.schema.names]
    counted = count_bins(binnings, [(days, batch)])
    reference = {name: np.stack([by_day[day] for day in range(20)]) for name, by_day in counted.items()}
    asked = {"window_days": 7, "block_days": 7, "resamples": 1000, "seed": 1}
    limits = thresholds(binnings, reference, false_alarm_rate=0.1, **asked)
    alarms = [
        any(
            column_drift(
                b, reference[b.column].sum(0), reference[b.column][d : d + 7].sum(0), limits[b.column]
            ).is_drifted
            for b in binnings
        )
        for d in range(14)
    ]
    assert sum(alarms) <= 1, "14 blocks are all there are: one of them is 7%, two would be 14%"
    assert sum(alarms) == 1, "and none would be an alarm that never rings"


def test_a_shift_and_a_vanished_column_are_drift_and_a_quiet_week_is_not():
    binnings, reference, limits = reference_and_limits(4, 0.01)
    amount = next(b for b in binnings if b.column == "amount")
    totals = reference["amount"].sum(0)
    quiet = column_drift(amount, totals, reference["amount"][20:27].sum(0), limits["amount"])
    assert not quiet.is_drifted
    shifted = reference["amount"][20:27].sum(0)
    shifted[:5] = 0  # the lowest quarter is gone
    assert column_drift(amount, totals, shifted, limits["amount"]).is_drifted
    nulls = np.zeros_like(totals)
    nulls[-1] = 1400
    gone = column_drift(amount, totals, nulls, limits["amount"])
    assert gone.is_drifted
    assert gone.null_fraction == 1.0
