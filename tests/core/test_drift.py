"""Drift: statistics with known values, bins with null and unseen, and a false-alarm rate that is as stated."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.signal import lfilter

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


def test_numbers_fall_where_a_search_of_the_edges_puts_them():
    generator = np.random.default_rng(9)
    values = generator.choice([-1.0, 0.1, 0.25, 0.5, 3.0, np.nan, np.inf, -np.inf], 500).astype(np.float32)
    edges = (0.1, 0.25, float(np.float32(0.1)), 0.5, 7.0)
    binning = Binning(column="x", kind="numeric", edges=tuple(sorted(edges)))
    expected = np.searchsorted(binning.edges, values.astype(float), side="right")
    expected[np.isnan(values)] = binning.num_bins - 1
    assert bin_codes(binning, pa.array(values)).tolist() == expected.tolist()
    assert bin_codes(Binning(column="x", kind="numeric"), pa.array(values[:2])).tolist() == [0, 0]


def wandering_days(seed: int, days: int, rows_a_day: int = 100, rho: float = 0.6) -> dict[str, np.ndarray]:
    """Counts (days, bins) of three columns whose daily levels follow an AR(1)."""
    generator = np.random.default_rng(seed)
    level = lfilter([np.sqrt(1 - rho**2)], [1, -rho], generator.normal(size=(days + 30, 3)), axis=0)[30:]
    rows = 0.3 * np.repeat(level, rows_a_day, axis=0) + generator.normal(size=(days * rows_a_day, 3))
    batch = pa.RecordBatch.from_pydict(
        {"amount": rows[:, 0], "other": rows[:, 1], "place": np.where(rows[:, 2] < 0.5, "JFK", "LGA")}
    )
    counted = count_bins(BINNINGS, [(np.repeat(np.arange(days), rows_a_day), batch)])
    return {name: np.stack([by_day[day] for day in range(days)]) for name, by_day in counted.items()}


BINNINGS = [
    *(Binning(column=name, kind="numeric", edges=(-1.5, -0.7, -0.2, 0.2, 0.7, 1.5)) for name in ("amount", "other")),
    Binning(column="place", kind="categorical", categories=("JFK", "LGA")),
]


def limits_of(reference: dict[str, np.ndarray], rate: float, window_days: int = 7) -> dict[str, dict[str, float]]:
    return thresholds(BINNINGS, reference, window_days=window_days, false_alarm_rate=rate, resamples=500, seed=0)


def is_alarm(reference: dict[str, np.ndarray], window: dict[str, np.ndarray], limits: dict[str, dict[str, float]]):
    return any(
        column_drift(b, reference[b.column].sum(0), window[b.column].sum(0), limits[b.column]).is_drifted
        for b in BINNINGS
    )


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_new_quiet_weeks_raise_any_alarm_at_the_stated_rate(monkeypatch, rate):
    """Weeks that the reference has not seen, of the same kind, each day like the one before it."""
    for name in FLOORS:
        monkeypatch.setitem(FLOORS, name, 0.0)  # the floors only lower the rate; here the resampling is on trial
    shares = []
    for seed in range(40):
        days = wandering_days(seed, 91 + 20 * 7)
        reference = {name: counts[:91] for name, counts in days.items()}
        limits = limits_of(reference, rate)
        weeks = [{name: counts[first : first + 7] for name, counts in days.items()} for first in range(91, 231, 7)]
        shares.append(np.mean([is_alarm(reference, week, limits) for week in weeks]))
    error = np.std(shares) / np.sqrt(len(shares))
    assert abs(np.mean(shares) - rate) < 3 * error
    assert error < rate / 3


def test_four_weeks_to_go_by_raise_no_more_alarms_and_still_tell_a_large_shift():
    days = wandering_days(1, 28 + 7)
    reference, week = ({name: counts[part] for name, counts in days.items()} for part in (slice(28), slice(28, 35)))
    limits = limits_of(reference, 0.05)
    assert not is_alarm(reference, week, limits)
    week["amount"] = week["amount"].copy()
    week["amount"][:, :4], week["amount"][:, 6] = 0, 100
    assert is_alarm(reference, week, limits)


def test_one_day_leaves_the_classic_values_and_days_without_rows_say_nothing():
    days = wandering_days(2, 60)
    alone = limits_of({name: counts[:1] for name, counts in days.items()}, 0.05)
    assert alone["amount"] == {name: FLOORS[name] for name in ("psi", "js", "ks")}
    workdays = {name: counts * (np.arange(60) % 7 < 5)[:, None] for name, counts in days.items()}
    gaps, whole = limits_of(workdays, 0.05, window_days=1), limits_of(days, 0.05, window_days=1)
    assert gaps["amount"]["ks"] == pytest.approx(whole["amount"]["ks"], rel=0.3)


def test_a_shift_and_a_vanished_column_are_drift_and_a_quiet_week_is_not():
    reference = wandering_days(4, DAYS)
    limits, amount = limits_of(reference, 0.01), BINNINGS[0]
    totals = reference["amount"].sum(0)
    quiet = column_drift(amount, totals, reference["amount"][20:27].sum(0), limits["amount"])
    assert not quiet.is_drifted
    shifted = reference["amount"][20:27].sum(0)
    shifted[:4] = 0  # the lower half is gone
    assert column_drift(amount, totals, shifted, limits["amount"]).is_drifted
    nulls = np.zeros_like(totals)
    nulls[-1] = 700
    gone = column_drift(amount, totals, nulls, limits["amount"])
    assert gone.is_drifted
    assert gone.null_fraction == 1.0
