"""What a score is worth: each metric as a function of sums over rows, so that rows can be weighted by cluster.

An additive metric is `value(weights @ sums)`, where `sums` (G, K) are per-cluster sums of its per-row `statistics`
(n, K). AUC is not additive: it is a ratio of weighted counts of pairs, see `core.clusters`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A float32 model says exactly 1.0 where it means "nearly": the loss of a wrong 1.0 is bounded by this.
SMALLEST_PROBABILITY = 1e-7
THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Metric:
    """`statistics(label, scores)` is (n, K); `value(sums)` maps (..., K) to (...). AUC has neither."""

    name: str
    is_higher_better: bool
    bounds: tuple[float, float]
    statistics: Callable[[Floats, Floats], Floats] | None = None
    value: Callable[[Floats], Floats] | None = None

    @property
    def sign(self) -> float:
        return 1.0 if self.is_higher_better else -1.0


def _mean(sums: Floats) -> Floats:
    return np.asarray(sums[..., 0] / sums[..., -1])


def _columns(*columns: Any) -> Floats:
    """Side by side as (n, K); the last column is a count of rows."""
    first = np.asarray(columns[0], dtype=np.float64)
    return np.column_stack([*(np.asarray(c, dtype=np.float64) for c in columns), np.ones(len(first))])


def _binary_log_loss(label: Floats, scores: Floats) -> Floats:
    chance = np.clip(np.where(label > THRESHOLD, scores, 1.0 - scores), SMALLEST_PROBABILITY, 1.0)
    return _columns(-np.log(chance))


def _binary_accuracy(label: Floats, scores: Floats) -> Floats:
    return _columns((scores >= THRESHOLD) == (label > THRESHOLD))


def _binary_f1(label: Floats, scores: Floats) -> Floats:
    said, true = scores >= THRESHOLD, label > THRESHOLD
    return np.column_stack([2.0 * (said & true), 1.0 * said + true])


def _multiclass_log_loss(label: Floats, scores: Floats) -> Floats:
    chance = scores[np.arange(len(label)), label.astype(np.int64)]
    return _columns(-np.log(np.clip(chance, SMALLEST_PROBABILITY, 1.0)))


def _multiclass_accuracy(label: Floats, scores: Floats) -> Floats:
    return _columns(scores.argmax(axis=1) == label)


def _macro_f1_statistics(label: Floats, scores: Floats) -> Floats:
    """(n, 2 C): for each class 2 x true positives, and predicted plus actual."""
    classes = np.arange(scores.shape[1])
    said, true = scores.argmax(axis=1)[:, None] == classes, label[:, None] == classes
    return np.concatenate([2.0 * (said & true), 1.0 * said + true], axis=1)


def _macro_f1(sums: Floats) -> Floats:
    """Mean over the classes that occur; a class neither predicted nor there says nothing."""
    hits, marked = np.split(sums, 2, axis=-1)
    occurs = marked > 0
    scores = np.divide(hits, marked, out=np.zeros_like(hits), where=occurs)
    return np.asarray(scores.sum(axis=-1) / occurs.sum(axis=-1))


def _absolute_error(label: Floats, scores: Floats) -> Floats:
    return _columns(np.abs(label - scores))


def _squared_error(label: Floats, scores: Floats) -> Floats:
    return _columns((label - scores) ** 2)


def _explained(label: Floats, scores: Floats) -> Floats:
    # Shifted by its mean: the variance would otherwise be a small difference of two large sums.
    shifted = label - label.mean()
    return _columns((label - scores) ** 2, shifted, shifted**2)


def _r2(sums: Floats) -> Floats:
    error, total, squares, count = (sums[..., k] for k in range(4))
    return np.asarray(1.0 - error / (squares - total**2 / count))


AUC = Metric("auc", True, (0.0, 1.0))
_UNIT, _LOSS = (0.0, 1.0), (0.0, np.inf)

METRICS: dict[str, dict[str, Metric]] = {
    "binary": {
        "auc": AUC,
        "log_loss": Metric("log_loss", False, _LOSS, _binary_log_loss, _mean),
        "accuracy": Metric("accuracy", True, _UNIT, _binary_accuracy, _mean),
        "f1": Metric("f1", True, _UNIT, _binary_f1, _mean),
        "brier": Metric("brier", False, _UNIT, lambda y, s: _columns((s - y) ** 2), _mean),
    },
    "multiclass": {
        "log_loss": Metric("log_loss", False, _LOSS, _multiclass_log_loss, _mean),
        "accuracy": Metric("accuracy", True, _UNIT, _multiclass_accuracy, _mean),
        "macro_f1": Metric("macro_f1", True, _UNIT, _macro_f1_statistics, _macro_f1),
    },
    "regression": {
        "mae": Metric("mae", False, _LOSS, _absolute_error, _mean),
        "rmse": Metric("rmse", False, _LOSS, _squared_error, lambda sums: np.sqrt(_mean(sums))),
        "r2": Metric("r2", True, (-np.inf, 1.0), _explained, _r2),
    },
}


# --- calibration and curves -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reliability:
    """Bins of predicted probability: mean prediction, observed rate and rows of each bin that has rows."""

    predicted: Floats
    observed: Floats
    rows: Ints

    @property
    def error(self) -> float:
        """Expected calibration error. Source: Guo et al. 2017, On Calibration of Modern Neural Networks, eq. 3."""
        return float(np.average(np.abs(self.predicted - self.observed), weights=self.rows))


def reliability(label: Floats, scores: Floats, num_bins: int = 15) -> Reliability:
    """Equal-width bins; for several classes of the most likely class: how sure, and how often right."""
    if scores.ndim == 2:
        label, scores = (scores.argmax(axis=1) == label).astype(np.float64), scores.max(axis=1)
    bins = np.clip((scores * num_bins).astype(np.int64), 0, num_bins - 1)
    rows = np.bincount(bins, minlength=num_bins)
    filled = rows > 0
    predicted = np.bincount(bins, weights=scores, minlength=num_bins)[filled] / rows[filled]
    observed = np.bincount(bins, weights=label, minlength=num_bins)[filled] / rows[filled]
    return Reliability(predicted, observed, rows[filled])


def roc_curve(label: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """False and true positive rates from (0, 0) to (1, 1), one point per distinct score."""
    order = np.argsort(-scores, kind="stable")
    positive = label[order] > THRESHOLD
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    true, false = np.cumsum(positive)[last_of_tie], np.cumsum(~positive)[last_of_tie]
    return np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1])
