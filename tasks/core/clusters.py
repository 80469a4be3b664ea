"""Dependent rows: metrics as functions of cluster weights, and the errors that follow from them.

Rows of one day (week, entity) share their weather, so they are not independent evidence. One engine serves all: a
metric is computed with every cluster left out once (the jackknife, for tests and intervals) and with clusters drawn
with replacement (the bootstrap, for display).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import chdtri, stdtr, stdtrit

from tasks.core.concordance import replicate_auc
from tasks.core.metrics import THRESHOLD, Floats, Ints, Metric

MIN_CLUSTERS = 10


@dataclass(frozen=True, slots=True)
class Replicates:
    """A metric of one model on G clusters: as it is, with each left out (G,), and resampled (B,)."""

    value: float
    left_out: Floats
    resampled: Floats

    def minus(self, other: "Replicates", sign: float) -> "Replicates":
        """The paired difference, oriented by `sign` so that positive is better."""
        return Replicates(
            sign * (self.value - other.value),
            sign * (self.left_out - other.left_out),
            sign * (self.resampled - other.resampled),
        )


def replicate(metric: Metric, label: Floats, scores: Floats, codes: Ints, weights: Floats | None = None) -> Replicates:
    """All replicates of a metric. `codes` (n,) are cluster numbers 0..G-1; `weights` (B, G) are resampled ones."""
    weights = np.empty((0, int(codes.max()) + 1)) if weights is None else weights
    with np.errstate(divide="ignore", invalid="ignore"):  # one class, or no rows: nan, which nothing is shown by
        if metric.statistics is None:
            return Replicates(*replicate_auc(label > THRESHOLD, scores, codes, weights))
        return _replicate_additive(metric, metric.statistics(label, scores), codes, weights)


def _replicate_additive(metric: Metric, statistics: Floats, codes: Ints, weights: Floats) -> Replicates:
    sums = np.column_stack([np.bincount(codes, weights=column) for column in statistics.T])  # (G, K)
    total = sums.sum(axis=0)
    assert metric.value is not None
    return Replicates(float(metric.value(total)), metric.value(total - sums), metric.value(weights @ sums))


# --- from replicates to a standard error ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its standard error on `df` degrees of freedom; bounds are Student's t."""

    value: float
    standard_error: float
    df: int
    clusters: int

    def lower(self, level: float) -> float:
        """One-sided: the truth is above it, but for a share `level` of such statements."""
        return self.value - self.quantile(level) * self.standard_error

    def upper(self, level: float) -> float:
        return self.value + self.quantile(level) * self.standard_error

    def quantile(self, level: float) -> float:
        return float(stdtrit(self.df, 1 - level)) if self.df > 0 else float("nan")

    def p_below(self, threshold: float) -> float:
        """p-value of "the truth is at least `threshold`" against "below it"."""
        if not self.standard_error > 0:  # the same predictions in every cluster, or nothing to tell by
            return 0.0 if self.value < threshold and self.standard_error == 0 else 1.0
        return float(stdtr(self.df, (self.value - threshold) / self.standard_error))

    def detectable(self, level: float, power: float) -> float:
        """The effect that would be shown with probability `power`.

        The second factor is the upper bound, at `power`, of the standard error, which is itself an estimate.
        Source: the usual (t_{1-a} + t_{power}) SE; sigma's upper bound sqrt(df / chi2_{1-power, df}).
        """
        if self.df <= 0:
            return float("nan")
        inflation = float(np.sqrt(self.df / chdtri(self.df, power)))
        return (self.quantile(level) + float(stdtrit(self.df, power))) * self.standard_error * inflation


def estimate(ways: tuple[Replicates, ...], serial: bool) -> Estimate:
    """Standard error of a value whose rows depend within clusters.

    One way: delete-one-cluster jackknife, SE^2 = (G-1)/G sum (T_(g) - mean)^2, t on G-1. Two ways, given as (first,
    second, both): V_first + V_second - V_both, never below the larger one-way; t on the smaller G-1. `serial`: the
    first way is a series in time and its long-run variance is taken instead.
    Source: Efron and Stein 1981 (jackknife); Cameron, Gelbach and Miller 2011 (two-way clustering).
    """
    first, *others = ways
    variance, df = long_run_variance(first.left_out) if serial else jackknife_variance(first.left_out)
    if others:
        second, second_df = jackknife_variance(others[0].left_out)
        both, _ = jackknife_variance(others[1].left_out)
        variance, df = max(variance + second - both, variance, second), min(df, second_df)
    clusters = min(len(way.left_out) for way in ways[:2])
    return Estimate(first.value, float(np.sqrt(variance)), df, clusters)


def jackknife_variance(left_out: Floats) -> tuple[float, int]:
    """Variance and degrees of freedom from the values with each of G clusters left out."""
    clusters = len(left_out)
    if clusters < 2:
        return float("nan"), 0
    return float((clusters - 1) / clusters * np.square(left_out - left_out.mean()).sum()), clusters - 1


def long_run_variance(left_out: Floats) -> tuple[float, int]:
    """Equal-weighted cosine estimate over the series of pseudo-values, and its degrees of freedom B = .41 T^(2/3).

    Source: Lazarus, Lewis, Stock and Watson 2018, HAR Inference: Recommendations for Practice, eq. 7 and rule (4).
    """
    length = len(left_out)
    if length < 2:
        return float("nan"), 0
    series = (length - 1) * (left_out.mean() - left_out)
    terms = max(1, round(0.41 * length ** (2 / 3)))
    times = (np.arange(length) + 0.5) / length
    projections = np.sqrt(2 / length) * np.cos(np.pi * np.outer(np.arange(1, terms + 1), times)) @ series
    return float(np.square(projections).mean() / length), terms


# --- rows to clusters -----------------------------------------------------------------------------


def number_clusters(values: Any) -> Ints:
    """0..G-1 in the order of the values; of days and weeks that is the order in time."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def days_since_epoch(times: Any) -> Ints:
    """UTC days of datetime64 times."""
    return np.asarray(times).astype("datetime64[D]").astype(np.int64)


def cluster_ways(clusters: str, times: Any, entity: Any | None) -> tuple[Ints, ...]:
    """Cluster numbers of rows: one way (day, week from Monday, entity), or (day, entity, day and entity)."""
    days = days_since_epoch(times)
    match clusters:
        case "day":
            return (number_clusters(days),)
        case "week":
            return (number_clusters((days + 3) // 7),)  # 1970-01-01 was a Thursday
        case "entity":
            return (number_clusters(entity),)
        case _:
            first, second = number_clusters(days), number_clusters(entity)
            return first, second, number_clusters(first * (second.max() + 1) + second)


def resampling_weights(clusters: int, resamples: int, seed: int = 0) -> Floats:
    """(B, G): how often each cluster is drawn when G are drawn with replacement."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples).astype(np.float64)
