"""How well each input predicts the label by itself: better than a feature should, it may be the answer."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.records import Inputs

Floats = npt.NDArray[np.float64]
Score = Callable[[Floats, Floats], float]  # (midranks of the values, target) -> score
MAX_SCORED_ROWS = 50_000  # evenly spaced: an AUC of .9 is then told to .003, and the audit's time is bounded
MIN_SCORED_ROWS = 50  # of each side of a comparison; below it a perfect score is chance


def evenly(rows: pa.Table) -> pa.Table:
    """No more than MAX_SCORED_ROWS of them."""
    if rows.num_rows <= MAX_SCORED_ROWS:
        return rows
    return rows.take(np.linspace(0, rows.num_rows - 1, MAX_SCORED_ROWS).astype(np.int64))


def single_feature_scores(rows: pa.Table, inputs: Inputs, label_kind: str) -> dict[str, float]:
    """Score of each input alone: AUC of the class it tells best (0.5 to 1), or absolute rank correlation (0 to 1).

    A numeric input is ranked; that it is null is scored too. A categorical one is replaced by the mean label of its
    value in the other half of the rows, so that one with many values does not predict its own rows.

    Source: AUC as the Mann-Whitney U over midranks (Hanley and McNeil 1982); Spearman's rho as the correlation of them.
    """
    rows = evenly(rows)
    targets = _targets(rows["label"], label_kind)
    score = _rank_correlation if label_kind == "regression" else _auc
    scores = {}
    for name in inputs.numeric:
        values = rows[name].to_numpy().astype(np.float64)
        present = ~np.isnan(values)
        scores[name] = max(
            _best(score, values[present], [target[present] for target in targets]),
            _best(score, present, targets),
        )
    for name in inputs.categorical:
        indices = rows[name].combine_chunks().dictionary_encode().indices
        codes = pc.fill_null(indices, -1).to_numpy().astype(np.int64) + 1
        scores[name] = max((_half_by_half(score, codes, target) for target in targets), default=0.0)
    return {name: round(value, 6) for name, value in scores.items()}


def _targets(label: pa.ChunkedArray, label_kind: str) -> list[Floats]:
    """The label's ranks, or for classes one indicator each; the two of a binary label mirror each other."""
    if label_kind == "regression":
        return [midranks(label.to_numpy().astype(np.float64))]
    encoded = label.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    num_indicators = 1 if label_kind == "binary" else len(encoded.dictionary)
    return [(codes == code).astype(np.float64) for code in range(num_indicators)]


def _best(score: Score, values: Floats | npt.NDArray[np.bool_], targets: Sequence[Floats]) -> float:
    if len(values) < MIN_SCORED_ROWS:
        return 0.0
    ranks = midranks(values)
    return max((score(ranks, target) for target in targets), default=0.0)


def _half_by_half(score: Score, codes: npt.NDArray[np.int64], target: Floats) -> float:
    """Each half's rows scored by the other half's mean target per value; the mean of both scores."""
    half, scores = np.arange(len(codes)) % 2 == 0, []
    for judged in (half, ~half):
        told = ~judged
        counts = np.bincount(codes[told], minlength=codes.max(initial=0) + 1)
        sums = np.bincount(codes[told], weights=target[told], minlength=len(counts))
        overall = target[told].mean() if told.any() else 0.0
        means = np.where(counts > 0, sums / np.maximum(counts, 1), overall)
        scores.append(_best(score, means[codes[judged]], [target[judged]]))
    return float(np.mean(scores))


def midranks(values: Floats | npt.NDArray[np.bool_]) -> Floats:
    """Ranks from 1, ties sharing their mean. (N,) -> (N,)"""
    if values.dtype == np.bool_:  # no need to sort
        low = len(values) - np.count_nonzero(values)
        return np.where(values, (low + 1 + len(values)) / 2, (1 + low) / 2)
    order = np.argsort(values)
    ordered = values[order]
    starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    ends = np.concatenate([np.flatnonzero(starts)[1:], [len(values)]])
    counts = np.diff(ends, prepend=0)
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(ends - (counts - 1) / 2, counts)
    return ranks


def _auc(ranks: Floats, target: Floats) -> float:
    positives = target.sum()
    negatives = len(target) - positives
    if min(positives, negatives) < MIN_SCORED_ROWS:
        return 0.0
    # Not a dot product: BLAS would start threads for it, which costs more than the sum.
    auc = ((ranks * target).sum() - positives * (positives + 1) / 2) / (positives * negatives)
    return float(max(auc, 1 - auc))


def _rank_correlation(ranks: Floats, target: Floats) -> float:
    ranks, others = ranks - ranks.mean(), target - target.mean()
    scale = float(np.sqrt(np.square(ranks).sum() * np.square(others).sum()))
    return abs(float((ranks * others).sum())) / scale if scale > 0 else 0.0
