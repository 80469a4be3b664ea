"""Drift of a window against a reference: counts in bins, effect sizes over them, thresholds from the reference itself.

A reference is kept as counts per day and bin. Its sum is what a window is compared with; blocks of its days, as long
as the window and mixed again and again, tell how far new quiet data of that length strays by itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import rankdata

from tasks.core.records import Record

# The values in common use, below which nothing is called drift however quiet the reference was.
# Source: PSI: Siddiqi, Credit Risk Scorecards (2006), "0.10 to 0.25: some minor change". KS and JS at the same place.
FLOORS: dict[str, float] = {"psi": 0.1, "js": 0.1, "ks": 0.1, "cramer_v": 0.1}
MAX_CATEGORIES = 64  # that have a bin of their own
MAX_RARE = 5_000  # more that are known by name, so that a new one can be told; beyond it a new one counts as rare
NUM_BINS = 20
MIN_BLOCKS = 4  # of a reference; fewer say nothing of how far the next may stray
_SMOOTHING = 0.5  # added to each bin's count, so that an empty bin does not make a statistic infinite

Counts = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Binning(Record):
    """How one column falls into bins. The last bin is null.

    numeric: `edges` are the inner edges, bin i is edges[i-1] <= x < edges[i]; NaN counts as null.
    categorical: bin i is categories[i]; then all rare ones together, then the unseen ones.
    """

    column: str
    kind: Literal["numeric", "categorical"]
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    rare: tuple[str, ...] = ()
    knows_all: bool = True  # False: there were more than `rare` can name, and a new one cannot be told

    @property
    def num_bins(self) -> int:
        return len(self.edges) + 2 if self.kind == "numeric" else len(self.categories) + 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDrift(Record):
    """One column of a window against the reference. A statistic above its threshold is drift."""

    column: str
    kind: Literal["numeric", "categorical"]
    statistics: dict[str, float]
    thresholds: dict[str, float]
    null_fraction: float
    reference_null_fraction: float
    unseen_fraction: float
    is_drifted: bool


def make_binning(column: str, values: pa.ChunkedArray | pa.Array) -> Binning:
    """Bins from the reference's own values: quantiles of a number, the commonest categories of a string."""
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        counts = pc.value_counts(values.drop_null())
        names, numbers = counts.field("values").to_pylist(), counts.field("counts").to_numpy(zero_copy_only=False)
        ranked = [names[i] for i in np.lexsort((names, -numbers))]
        return Binning(
            column=column,
            kind="categorical",
            categories=tuple(sorted(ranked[:MAX_CATEGORIES])),
            rare=tuple(sorted(ranked[MAX_CATEGORIES : MAX_CATEGORIES + MAX_RARE])),
            knows_all=len(ranked) <= MAX_CATEGORIES + MAX_RARE,
        )
    numbers = _floats(values)
    present = numbers[~np.isnan(numbers)]
    edges = np.unique(np.quantile(present, np.linspace(0, 1, NUM_BINS + 1)[1:-1])) if len(present) else np.array([])
    return Binning(column=column, kind="numeric", edges=tuple(float(edge) for edge in edges))


def bin_codes(binning: Binning, values: pa.ChunkedArray | pa.Array) -> NDArray[np.int64]:
    """The bin of each value, shape (N,)."""
    if binning.kind == "categorical":
        own, named = len(binning.categories), (*binning.categories, *binning.rare)
        # By place among the named ones; the last stands for those that are not.
        bins = np.full(len(named) + 1, own)
        bins[:own], bins[-1] = np.arange(own), own + 1 if binning.knows_all else own
        places = pc.index_in(values, value_set=pa.array(named, type=values.type)).fill_null(len(named))
        codes: NDArray[np.int64] = bins[places.to_numpy()]
        if values.null_count:
            codes[values.is_null().to_numpy(zero_copy_only=False)] = binning.num_bins - 1
        return codes
    numbers = _floats(values)
    # One comparison an edge runs over vectors of numbers: a tenth of the time of a search for each of them.
    reached = np.zeros(len(numbers), np.min_scalar_type(binning.num_bins))
    for edge in binning.edges:
        reached += numbers >= edge
    reached[np.isnan(numbers)] = binning.num_bins - 1
    return reached.astype(np.int64)


def count_bins(
    binnings: Sequence[Binning], batches: Iterable[tuple[NDArray[np.int64], pa.RecordBatch]]
) -> dict[str, dict[int, Counts]]:
    """Counts by column and day, in one pass. Each batch comes with the day number of every row, shape (N,)."""
    totals: dict[str, dict[int, Counts]] = {binning.column: {} for binning in binnings}
    for days, batch in batches:
        numbers, row_days = np.unique(days, return_inverse=True)
        for binning in binnings:
            codes = row_days * binning.num_bins + bin_codes(binning, batch.column(binning.column))
            table = np.bincount(codes, minlength=len(numbers) * binning.num_bins).reshape(len(numbers), -1)
            by_day = totals[binning.column]
            for number, counts in zip(numbers.tolist(), table, strict=True):
                by_day[number] = by_day.get(number, 0.0) + counts.astype(np.float64)
    return totals


def statistics(binning: Binning, reference: Counts, current: Counts) -> dict[str, Counts]:
    """Effect sizes of `current` (..., bins) against `reference` (bins,), each of shape (...).

    psi: sum (q - p) ln(q / p). Source: Siddiqi (2006); symmetric Kullback-Leibler divergence.
    js: square root of the Jensen-Shannon divergence in bits, 0 to 1. Source: Endres & Schindelin (2003).
    ks: largest distance of the two cumulative distributions over the bins, nulls left out. numeric only.
    cramer_v: sqrt(chi2 / n) of the two-row table, 0 to 1. Source: Cramér (1946). categorical only.
    """
    p, q = _proportions(reference), _proportions(current)
    middle = (p + q) / 2
    divergence = (p * np.log2(p / middle) + q * np.log2(q / middle)).sum(-1) / 2
    result = {"psi": ((q - p) * np.log(q / p)).sum(-1), "js": np.sqrt(np.maximum(divergence, 0.0))}
    if binning.kind == "numeric":
        left, right = _proportions(reference[..., :-1]), _proportions(current[..., :-1])
        result["ks"] = np.abs(np.cumsum(left - right, axis=-1)).max(-1)
    else:
        # Both rows weigh the same, so that V does not shrink because the reference has more rows.
        result["cramer_v"] = np.sqrt(((p - q) ** 2 / (p + q)).sum(-1) / 2)
    return result


def thresholds(
    binnings: Sequence[Binning],
    reference: Mapping[str, Counts],
    *,
    window_days: int,
    false_alarm_rate: float,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Per column and statistic, so that a quiet window raises any alarm at all with probability `false_alarm_rate`.

    `reference` holds counts (days, bins) of the same rows, consecutive days. A quiet window is the reference's shares
    and a mixture of what its moving blocks of that length strayed from them by, all columns and bins together: blocks
    as they are would be windows that the reference has seen, none further out than the furthest of a dozen weeks. The
    level of each single test comes from the distribution of the smallest p-value over all of them.

    Source: moving blocks: Künsch (1989); normal weights, for maxima over many tests: Chernozhukov, Chetverikov and Kato
    (2013); smallest p-value: Westfall & Young (1993), algorithm 2.8.
    """
    rows_a_day = next(iter(reference.values())).sum(1, keepdims=True)
    num_days = len(rows_a_day)
    # So few days say little of windows as long as they are: shorter blocks, and the mean of more of them, say more.
    block = min(window_days, max(1, num_days // MIN_BLOCKS))
    rows = _moving_sums(rows_a_day, block)
    is_told = rows[:, 0] > 0
    generator, freedom = np.random.default_rng(seed), max(num_days / block - 1, 1.0)
    weights = generator.standard_normal((resamples, is_told.sum())) * _stretch(num_days, block, window_days)
    weights /= np.sqrt(is_told.sum())

    names, columns = [], []
    for binning in binnings:
        counts = reference[binning.column]
        shares = counts.sum(0) / counts.sum()
        strayed = (_moving_sums(counts, block) / np.maximum(rows, 1.0) - shares)[is_told]
        # How far a column strays is itself an estimate, from as few weeks as there are: Student's t, not the normal.
        student = np.sqrt(freedom / generator.chisquare(freedom, (resamples, 1)))
        quiet = np.maximum(shares + student * (weights @ strayed), 0.0) * rows[is_told].mean() * window_days / block
        for name, values in statistics(binning, counts.sum(0), quiet).items():
            names.append((binning.column, name))
            columns.append(values)
    drawn = np.stack(columns, axis=1)  # (resamples, tests)
    # How many draws are at least as large: a row's smallest such number is how extreme its most extreme statistic is.
    # A column that never changes makes ties, which all have the number of the last of them.
    smallest = np.sort(rankdata(-drawn, method="max", axis=0).min(axis=1))
    allowed = int(smallest[int(false_alarm_rate * resamples)])
    cut = -np.sort(-drawn, axis=0)[allowed - 1]
    result: dict[str, dict[str, float]] = {}
    for (column, name), value in zip(names, cut.tolist(), strict=True):
        result.setdefault(column, {})[name] = max(value, FLOORS[name])
    return result


def _stretch(num_days: int, block: int, window_days: int) -> float:
    """How much further than the blocks of a reference a new window of `window_days` strays.

    A block pulls the mean that it is compared with after it; a new window does not, and that mean errs too. The mean of
    more days strays less.
    """
    if num_days < 2:
        return 0.0
    return float(np.sqrt((1 + window_days / num_days) / (1 - block / num_days) * block / window_days))


def _moving_sums(counts: Counts, length: int) -> Counts:
    """(days, bins) to (days - length + 1, bins)."""
    summed = np.concatenate([np.zeros((1, counts.shape[1])), counts.cumsum(0)])
    sums: Counts = summed[length:] - summed[:-length]
    return sums


def column_drift(binning: Binning, reference: Counts, current: Counts, limits: Mapping[str, float]) -> ColumnDrift:
    """One column's verdict from its counts (bins,) in the reference and in the window."""
    values = {name: float(value) for name, value in statistics(binning, reference, current).items()}
    total, reference_total = max(current.sum(), 1.0), max(reference.sum(), 1.0)
    unseen = current[-2] / total if binning.kind == "categorical" else 0.0
    return ColumnDrift(
        column=binning.column,
        kind=binning.kind,
        statistics=values,
        thresholds=dict(limits),
        null_fraction=float(current[-1] / total),
        reference_null_fraction=float(reference[-1] / reference_total),
        unseen_fraction=float(unseen),
        is_drifted=any(values[name] > limits[name] for name in values),
    )


def _proportions(counts: Counts) -> Counts:
    smoothed = counts + _SMOOTHING
    proportions: Counts = smoothed / smoothed.sum(-1, keepdims=True)
    return proportions


def _floats(values: pa.ChunkedArray | pa.Array) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = np.asarray(pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False), dtype=float)
    return numbers
