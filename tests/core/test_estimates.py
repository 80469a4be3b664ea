"""Quality before labels: right while the calibration holds, and blind to a world that changed."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tasks.core.estimates import Calibration, calibrate, estimate_quality

GENERATOR = np.random.default_rng(1)


def world(rows: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores that rank well and are not calibrated."""
    logit = GENERATOR.normal(shift - 1, 1.2, rows)
    label = (GENERATOR.random(rows) < 1 / (1 + np.exp(-logit))).astype(float)
    return label, 1 / (1 + np.exp(-0.5 * logit))


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_inputs_that_moved_are_seen_in_the_estimate(shift):
    calibration = calibrate(*world(40_000))
    label, scores = world(40_000, shift)
    assert estimate_quality("auc", calibration, scores) == pytest.approx(roc_auc_score(label, scores), abs=0.012)
    right = float(((scores >= 0.5) == label).mean())
    assert estimate_quality("accuracy", calibration, scores) == pytest.approx(right, abs=0.012)
    brier = float(((scores - label) ** 2).mean())
    assert estimate_quality("brier", calibration, scores) == pytest.approx(brier, abs=0.01)
    loss = float(-np.log(np.where(label > 0.5, scores, 1 - scores)).mean())
    assert estimate_quality("log_loss", calibration, scores) == pytest.approx(loss, abs=0.015)


def test_a_refit_on_another_scale_is_worth_what_the_judged_one_was():
    label, scores = world(40_000)
    twisted = calibrate(label, scores, scores**3)
    label, scores = world(40_000, 1.0)
    assert estimate_quality("auc", twisted, scores**3) == pytest.approx(roc_auc_score(label, scores), abs=0.012)


def test_expected_auc_by_hand():
    """Two rows: the higher is positive with .8, the lower with .4; of the pairs .48 are right, .08 are wrong."""
    calibration = Calibration(scores=(0.0, 1.0), rates=(0.4, 0.8))
    got = estimate_quality("auc", calibration, np.array([0.0, 1.0]))
    # Each row also pairs with itself, and that counts half.
    right, wrong, own = 0.8 * 0.6, 0.4 * 0.2, 0.8 * 0.2 + 0.4 * 0.6
    assert got == pytest.approx((right + own / 2) / (right + wrong + own))


def test_nothing_to_tell():
    calibration = Calibration(scores=(0.0, 1.0), rates=(0.0, 1.0))
    assert estimate_quality("auc", calibration, np.empty(0)) is None
    assert estimate_quality("f1", calibration, np.array([0.5])) is None
