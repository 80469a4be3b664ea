"""Metrics and their replicates against scikit-learn and against doing it again without the cluster."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from tasks.core import concordance
from tasks.core.clusters import (
    Estimate,
    Replicates,
    cluster_ways,
    estimate,
    jackknife_variance,
    long_run_variance,
    number_clusters,
    replicate,
    resampling_weights,
)
from tasks.core.metrics import METRICS, reliability, roc_curve

REFERENCE = {
    ("binary", "auc"): lambda y, s, w: sk.roc_auc_score(y, s, sample_weight=w),
    ("binary", "log_loss"): lambda y, s, w: sk.log_loss(y, s, sample_weight=w, labels=[0, 1]),
    ("binary", "accuracy"): lambda y, s, w: sk.accuracy_score(y, s >= 0.5, sample_weight=w),
    ("binary", "f1"): lambda y, s, w: sk.f1_score(y, s >= 0.5, sample_weight=w),
    ("binary", "brier"): lambda y, s, w: sk.brier_score_loss(y, s, sample_weight=w),
    ("multiclass", "log_loss"): lambda y, s, w: sk.log_loss(y, s, sample_weight=w, labels=[0, 1, 2]),
    ("multiclass", "accuracy"): lambda y, s, w: sk.accuracy_score(y, s.argmax(1), sample_weight=w),
    ("multiclass", "macro_f1"): lambda y, s, w: sk.f1_score(y, s.argmax(1), sample_weight=w, average="macro"),
    ("regression", "mae"): lambda y, s, w: sk.mean_absolute_error(y, s, sample_weight=w),
    ("regression", "rmse"): lambda y, s, w: sk.root_mean_squared_error(y, s, sample_weight=w),
    ("regression", "r2"): lambda y, s, w: sk.r2_score(y, s, sample_weight=w),
}


def made_up(kind: str, seed: int, rows: int = 240, clusters: int = 8):
    """Labels, scores with ties, clusters of unequal size."""
    random = np.random.default_rng(seed)
    codes = number_clusters((random.random(rows) ** 2 * clusters).astype(int))
    if kind == "regression":
        label = random.normal(1000.0, 3.0, rows)
        return label, label + np.round(random.normal(size=rows), 1), codes
    if kind == "multiclass":
        label = random.integers(0, 3, rows).astype(float)
        return label, random.dirichlet(np.ones(3), rows) * 0.5 + 0.5 * np.eye(3)[random.integers(0, 3, rows)], codes
    label = (random.random(rows) < 0.4).astype(float)
    return label, np.clip(np.round(0.4 * random.random(rows) + 0.4 * label * random.random(rows) + 0.1, 2), 0, 1), codes


@pytest.mark.parametrize(("kind", "name"), REFERENCE)
@pytest.mark.parametrize("seed", [0, 1])
def test_replicates_equal_the_metric_on_the_weighted_rows(kind, name, seed):
    label, scores, codes = made_up(kind, seed)
    weights = resampling_weights(codes.max() + 1, 20, seed)
    reference = REFERENCE[kind, name]
    made = replicate(METRICS[kind][name], label, scores, codes, weights)
    assert made.value == pytest.approx(reference(label, scores, None), abs=1e-9)
    left_out = [reference(label, scores, (codes != g).astype(float)) for g in range(codes.max() + 1)]
    np.testing.assert_allclose(made.left_out, left_out, atol=1e-9)
    np.testing.assert_allclose(made.resampled, [reference(label, scores, w[codes]) for w in weights], atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 5)), min_size=4, max_size=40).filter(
        lambda rows: len({row[0] for row in rows}) == 2
    )
)
def test_auc_by_pairs_equals_counting_them(rows):
    positive, scores, codes = (np.array(column) for column in zip(*rows, strict=True))
    codes = number_clusters(codes)
    weights = resampling_weights(codes.max() + 1, 3)
    with np.errstate(all="ignore"):
        made = concordance.replicate_auc(positive, scores.astype(float), codes, weights)
    ones = np.ones((1, codes.max() + 1))
    for found, chosen in zip((*made[1], *made[2]), (*(ones - np.eye(len(ones[0]))), *weights), strict=True):
        row = chosen[codes]
        pairs = row[positive][:, None] * row[~positive]
        above = np.sign(scores[positive][:, None] - scores[~positive]) / 2 + 0.5
        if pairs.sum() == 0:
            assert np.isnan(found)
        else:
            assert found == pytest.approx((pairs * above).sum() / pairs.sum())


def test_influence_sums_stand_in_for_the_pairs_of_many_clusters(monkeypatch):
    label, scores, codes = made_up("binary", 3, rows=6_000, clusters=200)
    weights = resampling_weights(codes.max() + 1, 500)
    exact = replicate(METRICS["binary"]["auc"], label, scores, codes, weights).resampled
    monkeypatch.setattr(concordance, "MAX_PAIRED_CLUSTERS", 10)
    by_influence = replicate(METRICS["binary"]["auc"], label, scores, codes, weights).resampled
    assert by_influence.std() == pytest.approx(exact.std(), rel=0.03)
    assert np.corrcoef(exact, by_influence)[0, 1] > 0.99


def test_one_class_only_is_nan_and_nothing_is_shown_by_it():
    made = replicate(METRICS["binary"]["auc"], np.ones(40), np.linspace(0, 1, 40), np.arange(40) // 4)
    assert np.isnan(made.value)
    assert not estimate((made,), serial=False).lower(0.05) > -1


def test_a_certain_mistake_costs_a_bounded_loss():
    loss = replicate(METRICS["binary"]["log_loss"], np.array([1.0, 0.0]), np.array([0.0, 0.0]), np.array([0, 1])).value
    assert loss == pytest.approx(-np.log(1e-7) / 2)


def test_jackknife_of_a_mean_is_the_textbook_standard_error():
    values = np.random.default_rng(0).normal(size=30)
    left_out = (values.sum() - values) / 29
    variance, df = jackknife_variance(left_out)
    assert (np.sqrt(variance), df) == (pytest.approx(values.std(ddof=1) / np.sqrt(30)), 29)


def test_two_ways_add_up_and_never_fall_below_the_larger():
    one, two, both = (
        Replicates(0.5, 0.5 + np.array(d), np.empty(0)) for d in ([0.1, -0.1], [0.2, -0.2], [0.05, -0.05])
    )
    v = [jackknife_variance(way.left_out)[0] for way in (one, two, both)]
    assert estimate((one, two, both), serial=False).standard_error ** 2 == pytest.approx(v[0] + v[1] - v[2])
    assert estimate((one, one, two), serial=False).standard_error ** 2 == pytest.approx(v[0])


def test_long_run_variance_sees_what_neighbours_share():
    random = np.random.default_rng(1)
    ratios = []
    for _ in range(300):
        noise = random.normal(size=80)
        for t in range(1, 80):
            noise[t] += 0.5 * noise[t - 1]
        left_out = (noise.sum() - noise) / 79
        (serial, df), (plain, _) = long_run_variance(left_out), jackknife_variance(left_out)
        ratios.append(serial / plain)
    assert df == round(0.41 * 80 ** (2 / 3))
    assert 2.0 < np.mean(ratios) < 3.2  # (1 + r) / (1 - r) = 3 in the long run


def test_detectable_effect_and_bounds_are_the_stated_quantiles():
    found = Estimate(0.01, 0.004, 26, 27)
    inflation = np.sqrt(26 / stats.chi2.ppf(0.2, 26))
    assert found.detectable(0.05, 0.8) == pytest.approx(
        (stats.t.ppf(0.95, 26) + stats.t.ppf(0.8, 26)) * 0.004 * inflation
    )
    assert found.lower(0.0025) == pytest.approx(0.01 - stats.t.ppf(0.9975, 26) * 0.004)
    assert found.p_below(0.0) == pytest.approx(stats.t.cdf(2.5, 26))


def test_days_and_weeks_and_both_ways():
    times = np.array(["2013-06-02T23:59", "2013-06-03T00:00", "2013-06-03T12:00", "2013-06-10T00:00"], "datetime64[us]")
    assert [way.tolist() for way in cluster_ways("day", times, None)] == [[0, 1, 1, 2]]
    assert [way.tolist() for way in cluster_ways("week", times, None)] == [[0, 1, 1, 2]]  # 2 June 2013 was a Sunday
    ways = cluster_ways("day+entity", times, np.array([7, 7, 9, 9]))
    assert [way.tolist() for way in ways] == [[0, 1, 1, 2], [0, 0, 1, 1], [0, 1, 2, 3]]


def test_reliability_and_roc_agree_with_counting():
    label, scores, _ = made_up("binary", 5)
    bins = reliability(label, scores)
    places = np.minimum((scores * 15).astype(int), 14)
    gaps = [
        abs(label[places == b].mean() - scores[places == b].mean()) * (places == b).mean() for b in np.unique(places)
    ]
    assert bins.error == pytest.approx(sum(gaps))
    false, true, _ = sk.roc_curve(label, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc_curve(label, scores), (false, true))
