"""Quality before labels are known: what a calibrated score says of itself. An estimate, and called one."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.core.metrics import SMALLEST_PROBABILITY, THRESHOLD, Floats
from tasks.core.records import Record

MAX_KNOTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration(Record):
    """A monotone map from score to the rate at which the label was 1; between the knots it is straight."""

    scores: tuple[float, ...]
    rates: tuple[float, ...]

    def __call__(self, scores: Floats) -> Floats:
        return np.asarray(np.interp(scores, self.scores, self.rates), dtype=np.float64)


def calibrate(label: Floats, scores: Floats, served: Floats | None = None) -> Calibration:
    """Isotonic fit, thinned to MAX_KNOTS. Source: Zadrozny and Elkan 2002, Transforming Classifier Scores.

    `served` are another model's scores of the same rows, which it was fitted on: the map is then one of its scores, by
    equal ranks, and what they are worth stays what was seen on rows that were not fitted on.
    """
    from sklearn.isotonic import IsotonicRegression

    fitted: Any = IsotonicRegression(out_of_bounds="clip").fit(scores, label)
    ranks = np.linspace(0, 1, MAX_KNOTS)
    rates = fitted.predict(np.quantile(scores, ranks))
    knots, first = np.unique(np.quantile(scores if served is None else served, ranks), return_index=True)
    return Calibration(scores=tuple(knots.tolist()), rates=tuple(rates[first].tolist()))


def estimate_quality(metric: str, calibration: Calibration, scores: Floats) -> float | None:
    """The metric that is expected if the calibration still holds: it sees inputs that moved, and not a world that did.

    None for a metric that cannot be told so, or without scores.
    Source: NannyML's CBPE, confidence-based performance estimation (2021).
    """
    if not len(scores):
        return None
    chance = np.clip(calibration(scores), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    told = np.clip(scores, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    match metric:
        case "auc":
            return _expected_auc(chance, scores)
        case "accuracy":
            return float(np.where(scores >= THRESHOLD, chance, 1 - chance).mean())
        case "brier":
            return float((chance * (1 - scores) ** 2 + (1 - chance) * scores**2).mean())
        case "log_loss":
            return float(-(chance * np.log(told) + (1 - chance) * np.log(1 - told)).mean())
        case _:
            return None


def _expected_auc(chance: Floats, scores: Floats) -> float:
    """Pairs weighted by how likely the one is positive and the other negative; ties count half."""
    _, place = np.unique(scores, return_inverse=True)
    positive, negative = np.bincount(place, weights=chance), np.bincount(place, weights=1 - chance)
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))
