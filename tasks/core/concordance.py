"""AUC under cluster weights: counts of concordant pairs between clusters, out of one sort."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.core.metrics import Floats, Ints

Bools = NDArray[np.bool_]

# The bootstrap wants the whole (G, G) matrix of pairs; beyond this many clusters it goes by influence sums.
MAX_PAIRED_CLUSTERS = 2_000


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rows in order of their scores, with each row's pairs of the other class in right order, ties one half."""

    is_positive: Bools
    ranks: Ints  # equal scores have equal ranks
    codes: Ints  # cluster numbers
    pairs: Floats  # with all rows of the other class
    pairs_within: Floats  # with those of the row's own cluster


def rank(is_positive: Bools, scores: Floats, codes: Ints) -> Ranking:
    order = np.argsort(scores, kind="stable")
    is_positive, codes, scores = is_positive[order], codes[order], scores[order]
    ranks = np.concatenate([[0], np.cumsum(np.diff(scores) > 0)])
    by_code = np.argsort(codes, kind="stable")
    within = np.empty(len(ranks))
    within[by_code] = _pairs(is_positive[by_code], ranks[by_code], codes[by_code])
    return Ranking(is_positive, ranks, codes, _pairs(is_positive, ranks, np.zeros_like(codes)), within)


def _pairs(is_positive: Bools, ranks: Ints, groups: Ints) -> Floats:
    """For each row the pairs in right order with the other class in its group; rows come sorted by (group, rank)."""
    starts = np.concatenate([[True], (np.diff(ranks) != 0) | (np.diff(groups) != 0)])
    tie = np.cumsum(starts) - 1
    positive, negative = np.bincount(tie, weights=is_positive), np.bincount(tie, weights=~is_positive)
    is_first = np.concatenate([[True], np.diff(groups[starts]) != 0])
    group = np.cumsum(is_first) - 1
    positive_below, negative_below = (counts.cumsum() - counts for counts in (positive, negative))
    positive_below -= positive_below[is_first][group]
    negative_below -= negative_below[is_first][group]
    positive_above = np.bincount(group, weights=positive)[group] - positive_below - positive
    return np.asarray(np.where(is_positive, (negative_below + negative / 2)[tie], (positive_above + positive / 2)[tie]))


def replicate_auc(is_positive: Bools, scores: Floats, codes: Ints, weights: Floats) -> tuple[float, Floats, Floats]:
    """AUC, with each of G clusters left out (G,), and under the `weights` (B, G) of clusters (B,).

    The first two are exact in O(n log n) whatever G: leaving out g takes away the pairs of its positives with all
    negatives and of its negatives with all positives, and gives back the pairs within g, which were taken twice.
    Source: Hanley and McNeil 1982 (AUC as the share of concordant pairs).
    """
    ranking, clusters = rank(is_positive, scores, codes), weights.shape[1]
    positive, codes = ranking.is_positive, ranking.codes

    def by_cluster(values: Floats | Bools) -> Floats:
        return np.bincount(codes, weights=values, minlength=clusters).astype(np.float64)

    positives, negatives = by_cluster(positive), by_cluster(~positive)
    num_positive, num_negative = positives.sum(), negatives.sum()
    total = ranking.pairs[positive].sum()
    taken, inside = by_cluster(ranking.pairs), by_cluster(np.where(positive, ranking.pairs_within, 0.0))
    value = float(total / (num_positive * num_negative))
    left_out = (total - taken + inside) / ((num_positive - positives) * (num_negative - negatives))
    if len(weights) == 0:
        return value, left_out, np.empty(0)
    if clusters > MAX_PAIRED_CLUSTERS:
        influence = (ranking.pairs / np.where(positive, num_negative, num_positive) - value) / np.where(
            positive, num_positive, num_negative
        )
        return value, left_out, value + weights @ by_cluster(influence)
    matrix = pair_matrix(ranking, clusters)
    concordant = ((weights @ matrix) * weights).sum(axis=1)
    return value, left_out, concordant / ((weights @ positives) * (weights @ negatives))


def pair_matrix(ranking: Ranking, clusters: int) -> Floats:
    """(G, G): pairs in right order of positives of cluster g (row) with negatives of cluster h (column).

    With weights w, AUC is w'Cw / ((w'p)(w'n)).
    Source: Obuchowski 1997, Nonparametric Analysis of Clustered ROC Curve Data (also the influence sums);
    LeDell, Petersen and van der Laan 2015.
    """
    positive, negative = ranking.is_positive, ~ranking.is_positive
    by_code = np.argsort(ranking.codes[negative], kind="stable")
    negative_ranks, negative_codes = ranking.ranks[negative][by_code], ranking.codes[negative][by_code]
    bounds = np.searchsorted(negative_codes, np.arange(clusters + 1))
    matrix = np.empty((clusters, clusters))
    for h in range(clusters):
        counts = np.bincount(negative_ranks[bounds[h] : bounds[h + 1]], minlength=int(ranking.ranks[-1]) + 1)
        below = np.cumsum(counts) - counts / 2
        matrix[:, h] = np.bincount(ranking.codes[positive], weights=below[ranking.ranks[positive]], minlength=clusters)
    return matrix
