"""How good a model is on matured rows: with an interval, beside its promise, its predecessor and a probe.

Intervals are t on clusters in time, as in the gate; a window has few of them, so they are wide, and say so.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from tasks.core.clusters import estimate
from tasks.core.comparisons import Difference, difference
from tasks.core.governor import Probe
from tasks.core.metrics import Floats, Metric
from tasks.core.records import Interval, Record, Window
from tasks.core.scorecards import TWO_SIDED, GateRows, ScoredModel

MIN_CLUSTERS = 5
CHANCE = 0.5  # the AUC of scores that know nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality(Record):
    """The champion on matured rows, and what it promised. `estimated` is of rows whose labels are not known yet."""

    metric: str
    window: Window
    rows: int
    value: Interval | None  # of the trailing window; None without rows enough
    newest: Interval | None  # of the rows that matured since the last monitor
    promised: Interval
    is_lost: bool = False  # the trailing window's, or the newest rows'
    is_newest_lost: bool = False
    estimated: float | None = None  # an estimate from calibrated scores, not a measurement
    estimated_rows: int = 0

    @property
    def telling(self) -> Interval | None:
        """What shows the loss, if there is one: the newest rows where they do, else the trailing window."""
        return self.newest if self.is_newest_lost else self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect(Record):
    """What a promotion changed: the champion against the one before it on the same rows; positive is better."""

    version: int
    previous: int
    metric: str
    window: Window
    rows: int
    difference: Interval
    worse: tuple[str, ...] = ()  # what the gate, its guards too, shows to be worse than with the one before it

    @property
    def told(self) -> str:
        found = self.difference
        bounds = f"({found.low:+.4f} to {found.high:+.4f})"
        said = "helped" if found.low > 0 else "did harm" if found.high < 0 else "made no clear difference"
        told = f"version {self.version} {said}: {self.metric} {found.value:+.4f} {bounds}"
        by_gate = f"; the gate shows it worse: {'; '.join(self.worse)}" if self.worse else ""
        return f"{told} against version {self.previous} on {self.rows:,} matured rows{by_gate}"


def plain(rows: GateRows) -> GateRows:
    """Without the resamples that are for display."""
    return replace(rows, resamples=0)


def measure(model: ScoredModel, metric: str) -> Interval | None:
    """With its two-sided 95% interval; None where there are too few clusters, or the metric is not defined."""
    if not len(model.rows.label) or model.rows.num_clusters < MIN_CLUSTERS:
        return None
    found = estimate(model.replicates(metric), model.rows.serial)
    if not math.isfinite(found.value) or not math.isfinite(found.standard_error):
        return None
    low, high = model.rows.metric(metric).bounds
    bounds = np.clip([found.lower(TWO_SIDED), found.upper(TWO_SIDED)], low, high)
    return Interval(value=found.value, low=float(bounds[0]), high=float(bounds[1]))


def is_lost(model: ScoredModel, metric: str, promised: float, *, tolerance: float, level: float) -> bool:
    """Worse than promised by more than `tolerance`, one-sided at `level`; the promise is taken at its word."""
    if measure(model, metric) is None:
        return False
    found, sign = estimate(model.replicates(metric), model.rows.serial), model.rows.metric(metric).sign
    best = found.value * sign + found.quantile(level) * found.standard_error
    return best < sign * promised - tolerance


def compare(one: ScoredModel, other: ScoredModel, metric: str) -> Interval | None:
    """One minus other, paired, positive is better; None with too few clusters."""
    if not len(one.rows.label) or one.rows.num_clusters < MIN_CLUSTERS:
        return None
    found: Difference = difference(one, other, metric)
    return found.interval if math.isfinite(found.interval.low) else None


def make_probe(
    now: ScoredModel,
    then: ScoredModel,
    newest: tuple[ScoredModel, ScoredModel],
    metric: str,
    *,
    margin: float,
    level: float,
) -> Probe | None:
    """Trees on the rows of now and of then, over the test; `newest` are those of now and the champion on the newest
    rows alone, where a fault in the labels shows first.

    The same learner stands on both sides, so that what is between them is what the rows between are worth, whichever
    kind of model the champion is.
    """
    gain, found = difference(now, then, metric), [measure(model, metric) for model in newest]
    if gain.estimate.clusters < MIN_CLUSTERS or found[0] is None or found[1] is None:
        return None
    measured = now.rows.metric(metric)
    return Probe(
        score=_oriented(found[0], measured),
        champion=_oriented(found[1], measured),
        gain=gain.interval,
        is_worth_it=bool(gain.estimate.lower(level) > margin),
        no_skill=measured.sign * no_skill(measured, newest[0].rows),
    )


def label_faults(champion: ScoredModel) -> tuple[str, ...]:
    """A champion that is right the wrong way round means labels that are."""
    if champion.rows.kind != "binary" or (area := measure(champion, "auc")) is None or area.high >= CHANCE:
        return ()
    return (
        f"label fault: the champion is worse than chance on the newest labels (auc {area.value:.3f}, {area.low:.3f} to "
        f"{area.high:.3f}): they look inverted",
    )


def no_skill(metric: Metric, rows: GateRows) -> float:
    """What the best constant prediction reaches on these rows."""
    label = rows.label
    if metric.statistics is None:
        return CHANCE
    if metric.name == "mae":
        constant: Floats = np.full(len(label), np.median(label))
    elif rows.kind == "multiclass":
        shares = np.bincount(label.astype(np.int64)) / len(label)
        constant = np.tile(shares, (len(label), 1))
    else:
        constant = np.full(len(label), label.mean())
    if metric.name == "f1":
        constant = np.ones(len(label))
    assert metric.value is not None
    return float(metric.value(metric.statistics(label, constant).sum(axis=0)))


def _oriented(interval: Interval, metric: Metric) -> Interval:
    """Higher is better."""
    if metric.is_higher_better:
        return interval
    return Interval(value=-interval.value, low=-interval.high, high=-interval.low)
