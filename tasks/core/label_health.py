"""Do labels mean the same everywhere? Segments in which what speaks for a positive label elsewhere speaks against it.

The score that segments are tried with is additive: each input adds the log-odds of its own value. It cannot learn that
an input means something else in one segment, so that flipped labels show whether they begin late or were always so;
and an input that names the segment adds the same to all of its rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.clusters import MIN_CLUSTERS, Estimate, Replicates, days_since_epoch, estimate, number_clusters
from tasks.core.concordance import replicate_auc
from tasks.core.metrics import Floats, Ints
from tasks.core.records import Inputs

CHANCE = 0.5  # the AUC of scores that know nothing
LEVEL = 0.01  # of any false finding in one part of a training set, over all of its segments
MIN_CLASS_ROWS = 50  # of a segment, of each label; with fewer, and on fewer than MIN_CLUSTERS days, it is not tried
NUM_BINS = 10
PRIOR_ROWS = 50.0  # of the mean rate, added to each value's rows
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Inverted:
    """Rows on which the score ranks the labels the wrong way round."""

    segment: str  # `input=value`, or `all rows`
    rows: int
    auc: Estimate
    auc_of_all: float


def inverted_segments(part: pa.Table, scores: Floats, inputs: Inputs) -> list[Inverted]:
    """Segments of `part`, each a value of a categorical input, whose AUC is shown below one half. Binary labels.

    `scores` (N,) are those of `AdditiveScores`.
    Where all rows together are so, they are the one finding. Days are the clusters, `LEVEL` holds over all segments.
    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    label = part["label"].to_numpy() == 1
    days = days_since_epoch(part["prediction_time"].to_numpy())
    everything = _try(np.ones(len(label), dtype=bool), label, scores, days)
    if everything is None or everything.value <= CHANCE:
        is_shown = everything is not None and everything.p_below(CHANCE) <= LEVEL
        return [Inverted("all rows", len(label), everything, everything.value)] if everything and is_shown else []
    tried = [
        Inverted(f"{name}={value}", int(chosen.sum()), found, everything.value)
        for name in inputs.categorical
        for value, chosen in _values(part[name])
        if (found := _try(chosen, label, scores, days)) is not None
    ]
    tried.sort(key=lambda one: one.auc.p_below(CHANCE))
    for number, one in enumerate(tried):
        if one.auc.p_below(CHANCE) > LEVEL / (len(tried) - number):
            return tried[:number]
    return tried


class AdditiveScores:
    """Sums of each input's log-odds against the mean, as counted on the fit rows.

    Numbers go by bins of equal counts, missing ones by a bin of their own.
    Source: Good 1950, Probability and the Weighing of Evidence (naive Bayes as a sum of weights of evidence).
    """

    def __init__(self, fit: pa.Table, inputs: Inputs) -> None:
        label = fit["label"].to_numpy() == 1
        self.numeric, self.categorical = {}, {}
        for name in inputs.numeric:
            edges = _edges(known := _numbers(fit[name]))
            self.numeric[name] = edges, _evidence(_bins(known, edges), label, len(edges) + 2)
        for name in inputs.categorical:
            values = pc.unique(fit[name]).drop_null()
            self.categorical[name] = values, _evidence(_codes(fit[name], values), label, len(values) + 1)

    def of(self, rows: pa.Table) -> Floats:
        """(N,)"""
        total = np.zeros(rows.num_rows)
        for name, (edges, evidence) in self.numeric.items():
            total += evidence[_bins(_numbers(rows[name]), edges)]
        for name, (values, evidence) in self.categorical.items():
            total += evidence[_codes(rows[name], values)]
        return total


def _numbers(column: pa.ChunkedArray) -> Floats:
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _edges(values: Floats) -> Floats:
    present = values[~np.isnan(values)]
    return np.unique(np.quantile(present, np.linspace(0, 1, NUM_BINS + 1)[1:-1])) if len(present) else present


def _codes(column: pa.ChunkedArray, values: pa.Array) -> Ints:
    return np.asarray(pc.fill_null(pc.index_in(column, value_set=values), len(values)).to_numpy())


def _bins(values: Floats, edges: Floats) -> Ints:
    return np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="right"))


def _evidence(codes: Ints, label: Bools, num_codes: int) -> Floats:
    """(num_codes,) log-odds of each code against the mean; a code that was not seen says nothing."""
    rate = label.mean()
    if not 0 < rate < 1:
        return np.zeros(num_codes)
    counts = np.bincount(codes, minlength=num_codes)
    rates = (np.bincount(codes, weights=label, minlength=num_codes) + PRIOR_ROWS * rate) / (counts + PRIOR_ROWS)
    return np.asarray(np.log(rates / (1 - rates)) - np.log(rate / (1 - rate)))


def _values(column: pa.ChunkedArray) -> Iterator[tuple[str, Bools]]:
    """The values with rows enough to be tried, and their rows."""
    encoded = column.combine_chunks().dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy()
    counts = np.bincount(codes + 1, minlength=len(encoded.dictionary) + 1)[1:]
    for code in np.flatnonzero(counts >= 2 * MIN_CLASS_ROWS):
        yield str(encoded.dictionary[code]), codes == code


def _try(chosen: Bools, label: Bools, scores: Floats, days: Ints) -> Estimate | None:
    """AUC of the chosen rows; None where there are too few to tell."""
    label, codes = label[chosen], number_clusters(days[chosen])
    clusters = int(codes.max(initial=-1)) + 1
    if clusters < MIN_CLUSTERS or min(label.sum(), (~label).sum()) < MIN_CLASS_ROWS:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        found = estimate((Replicates(*replicate_auc(label, scores[chosen], codes, np.empty((0, clusters)))),), False)
    return found if np.isfinite(found.standard_error) else None
