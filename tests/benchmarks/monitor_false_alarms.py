"""How often the drift monitor alarms on quiet data, by simulation: any alarm at all in a window, over 30 columns.

Days have levels that follow an AR(1), half of it shared by all columns, so that a day is like the one before it and
columns move together. A history is quiet: all its days come from one process. The reference is one stretch of it, and
windows are others, which the reference has not seen.

Run: python -m tests.benchmarks monitor_false_alarms [--share .1]
"""

import argparse
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
from scipy.signal import lfilter
from scipy.special import ndtr, ndtri

from tasks.core import drift
from tasks.core.drift import Binning, column_drift, thresholds
from tasks.core.reference import RESAMPLES
from tests.benchmarks.gate_simulation import Row, show

REFERENCES, WINDOWS, WEEK = 100, 20, 7
ROWS_A_DAY, WOBBLE, SHARED, MISSING = 1_000, 0.3, 0.5, 0.02
EDGES = ndtri(np.linspace(0, 1, drift.NUM_BINS + 1)[1:-1])
BINNINGS = [
    *(Binning(column=f"number{i}", kind="numeric", edges=tuple(EDGES.tolist())) for i in range(20)),
    *(Binning(column=f"name{i}", kind="categorical", categories=tuple("abcdefgh"[: 3 + i % 6])) for i in range(10)),
]
NO_FLOORS = dict.fromkeys(drift.FLOORS, 0.0)
Days = dict[str, np.ndarray]  # counts (days, bins) of each column


# --- made-up days -----------------------------------------------------------------------------------


def make_days(random: np.random.Generator, days: int, rho: float) -> Days:
    """A quiet history."""
    own, common = (_wander(random, days, columns, rho) for columns in (len(BINNINGS), 1))
    levels = WOBBLE * (np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * own)
    shares = [_shares(binning, levels[:, [place]]) for place, binning in enumerate(BINNINGS)]
    return {
        binning.column: random.multinomial(ROWS_A_DAY, share).astype(float)
        for binning, share in zip(BINNINGS, shares, strict=True)
    }


def _wander(random: np.random.Generator, days: int, columns: int, rho: float) -> np.ndarray:
    steps = random.normal(size=(days + 50, columns))
    return lfilter([np.sqrt(1 - rho**2)], [1, -rho], steps, axis=0)[50:]


def _shares(binning: Binning, level: np.ndarray) -> np.ndarray:
    """(days, bins) from levels (days, 1): a normal number moved by it, or names of which it prefers the last."""
    if binning.kind == "numeric":
        below = np.concatenate([0 * level, ndtr(EDGES - level), 0 * level + 1], axis=1)
        present = np.diff(below, axis=1)
    else:
        count = len(binning.categories)
        weights = np.exp(level * np.linspace(-1, 1, count)) / np.arange(1, count + 1)
        present = np.concatenate([weights / weights.sum(1, keepdims=True), 0 * level, 0 * level], axis=1)
    shares = np.concatenate([present * (1 - MISSING), 0 * level + MISSING], axis=1)
    return shares / shares.sum(1, keepdims=True)


def pick(days: Days, places: np.ndarray) -> Days:
    return {name: counts[places] for name, counts in days.items()}


def draw_blocks(random: np.random.Generator, days: int, block: int, length: int) -> np.ndarray:
    """Places (length,) of moving blocks of a history, one after the other."""
    starts = random.integers(0, days - block + 1, -(-length // block))
    return (starts[:, None] + np.arange(block)).ravel()[:length]


# --- what it must show ------------------------------------------------------------------------------


def alarm_rate(references: int, *, days: int, rate: float, rho=0.6, window=WEEK, resampled=False, floors=NO_FLOORS):
    """The share of quiet windows with an alarm, and its standard error over references."""
    shares = []
    for seed in range(references):
        random = np.random.default_rng([seed, days])
        if resampled:  # one year, of which blocks are drawn for the reference, and others for the windows
            year = make_days(random, 365, rho)
            reference = pick(year, draw_blocks(random, 365, 2 * window, days))
            later = [pick(year, draw_blocks(random, 365, window, window)) for _ in range(WINDOWS)]
        else:
            history = make_days(random, days + WINDOWS * window, rho)
            reference = pick(history, np.arange(days))
            later = [pick(history, days + place * window + np.arange(window)) for place in range(WINDOWS)]
        shares.append(np.mean(_alarms(reference, later, window, rate, floors)))
    return float(np.mean(shares)), float(np.std(shares) / np.sqrt(references))


def _alarms(
    reference: Days, windows: list[Days], window_days: int, rate: float, floors: dict[str, float]
) -> list[bool]:
    with patch.object(drift, "FLOORS", floors):
        limits = thresholds(
            BINNINGS, reference, window_days=window_days, false_alarm_rate=rate, resamples=RESAMPLES, seed=0
        )
    totals = {name: counts.sum(0) for name, counts in reference.items()}
    return [
        any(column_drift(b, totals[b.column], window[b.column].sum(0), limits[b.column]).is_drifted for b in BINNINGS)
        for window in windows
    ]


def false_alarms(share: float) -> Iterator[Row]:
    references = max(10, int(REFERENCES * share))
    cases = [
        ("13 weeks, block-resampled", {"days": 91, "resampled": True}, (0.05, 0.2)),
        ("39 weeks, block-resampled", {"days": 273, "resampled": True}, (0.05,)),
        ("13 weeks and the weeks after them", {"days": 91}, (0.05, 0.2)),
        ("39 weeks and the weeks after them", {"days": 273}, (0.05,)),
    ]
    for told, case, rates in cases:
        for rate in rates:
            found, error = alarm_rate(references, rate=rate, **case)
            what = f"{told}: windows with any alarm, asked for {rate:.0%}"
            said = f"{found:.1%} +- {error:.1%} of {references * WINDOWS:,}"
            yield what, said, "within 3 errors", abs(found - rate) <= 3 * error
    found, error = alarm_rate(references, days=91, rate=0.05, resampled=True, floors=drift.FLOORS)
    said = f"{found:.1%} +- {error:.1%} of {references * WINDOWS:,}"
    yield "13 weeks, block-resampled, with the classic values as floor", said, "at most 5%", found <= 0.05 + 3 * error
    for told, case in (
        ("4 weeks", {"days": 28}),
        ("13 weeks, each day very like the last (.8)", {"days": 91, "rho": 0.8}),
    ):
        found, error = alarm_rate(references, rate=0.05, **case)
        yield f"{told}: windows with any alarm, asked for 5%", f"{found:.1%} +- {error:.1%}", "no target", True


def power(share: float) -> Iterator[Row]:
    """One of 20 numbers is a standard deviation higher than it was, all week."""
    references, seen = max(10, int(REFERENCES * share)), []
    for seed in range(references):
        random = np.random.default_rng([seed, 1])
        history = make_days(random, 91 + WEEK, 0.6)
        reference, week = pick(history, np.arange(91)), pick(history, 91 + np.arange(WEEK))
        moved = random.multinomial(ROWS_A_DAY, _shares(BINNINGS[0], np.ones((WEEK, 1)))).astype(float)
        seen.append(_alarms(reference, [week | {"number0": moved}], WEEK, 0.05, drift.FLOORS)[0])
    yield (
        "13 weeks: a shift of one of 30 columns by a standard deviation is told",
        f"{np.mean(seen):.0%}",
        "at least 80%",
        (np.mean(seen) >= 0.8),
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--share", type=float, default=1.0, help="of the full number of references")
    chosen = options.parse_args()
    for part in (false_alarms, power):
        for row in part(chosen.share):
            show(row)


if __name__ == "__main__":
    main()
