"""Two models on the same rows: paired differences by metric and slice, what they show, and a sentence for each."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.core.clusters import MIN_CLUSTERS, Estimate, estimate
from tasks.core.metrics import Floats
from tasks.core.records import Comparison, Interval
from tasks.core.scorecards import MIN_SLICE_ROWS, TWO_SIDED, ScoredModel, Slice
from tasks.core.summary import format_number

POWER = 0.8
VETO_POWER = 0.9
Role = Literal["primary", "guard", "watched", "reported"]
Against = Literal["champion", "anchor", "baseline", "persistence"]
Outcome = Literal["superior", "non_inferior", "worse", "undecided"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Challenger minus other on one metric and one slice, paired; positive is better."""

    metric: str
    where: Slice | None
    rows: int
    values: tuple[float, float]
    estimate: Estimate
    resampled: Floats  # (B,) for display

    @property
    def can_tell(self) -> bool:
        """Enough clusters for a t interval, and enough rows of a slice for its metric to be near normal."""
        enough_rows = self.where is None or self.rows >= MIN_SLICE_ROWS
        return self.estimate.clusters >= MIN_CLUSTERS and enough_rows and math.isfinite(self.estimate.standard_error)

    @property
    def interval(self) -> Interval:
        found = self.estimate
        return Interval(value=found.value, low=found.lower(TWO_SIDED), high=found.upper(TWO_SIDED))


def difference(challenger: ScoredModel, other: ScoredModel, metric: str, where: Slice | None = None) -> Difference:
    rows = challenger.rows
    num_rows = len(rows.label[rows.rows_of(where)])
    if num_rows == 0:
        nothing = Estimate(math.nan, math.nan, 0, 0)
        return Difference(metric, where, 0, (math.nan, math.nan), nothing, np.empty(0))
    ours, theirs = challenger.replicates(metric, where), other.replicates(metric, where)
    sign = rows.metric(metric).sign
    paired = tuple(a.minus(b, sign) for a, b in zip(ours, theirs, strict=True))
    values = (ours[0].value, theirs[0].value)
    return Difference(metric, where, num_rows, values, estimate(paired, rows.serial), paired[0].resampled)


def compare(
    found: Difference,
    role: Role,
    *,
    margin: float,
    level: float,
    upper_level: float | None = None,
    against: Against = "champion",
) -> Comparison:
    """What a difference shows: `low` is a one-sided bound at `level`, `high` at `upper_level` (else the same).

    `superior`: low > 0; `non_inferior`: low > -margin; `worse`: high < 0 and not within the margin.
    """
    low = found.estimate.lower(level)
    high = found.estimate.upper(level if upper_level is None else upper_level)
    return Comparison(
        metric=found.metric,
        slice=None if found.where is None else "=".join(found.where),
        role=role,
        difference=found.estimate.value,
        low=low,
        high=high,
        standard_error=found.estimate.standard_error,
        clusters=found.estimate.clusters,
        rows=found.rows,
        margin=margin,
        outcome=_outcome(low, high, margin) if found.can_tell else "undecided",
        against=against,
        level=level,
        values=found.values,
        interval=found.interval,
        detectable=found.estimate.detectable(level, POWER),
    )


def _outcome(low: float, high: float, margin: float) -> Outcome:
    if low > 0:
        return "superior"
    if low > -margin:
        return "non_inferior"
    return "worse" if high < 0 else "undecided"


def watch(found: Sequence[Difference], *, margin: float, level: float) -> tuple[Comparison, ...]:
    """Slices that can only veto: `worse` where shown worse by more than the margin, at `level` over all of them.

    Those with too few rows or clusters are undecided and not tested. Both bounds are at the level that a slice was
    tested at; `detectable` is the loss for which its veto fires at 90% power, were it tested first.
    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    untold = (compare(item, "watched", margin=margin, level=level) for item in found)
    made = {
        item.where: dataclasses.replace(bounds, detectable=None) for item, bounds in zip(found, untold, strict=True)
    }
    tested = sorted((item for item in found if item.can_tell), key=lambda item: item.estimate.p_below(-margin))
    step, may_reject = level / max(1, len(tested)), True
    for number, item in enumerate(tested):
        step = level / (len(tested) - number) if may_reject else step
        may_reject = may_reject and item.estimate.p_below(-margin) <= step
        bounds = compare(item, "watched", margin=margin, level=step)
        # Only the step-down says `worse`: below zero but within the margin, or above the step, is no veto.
        otherwise: Outcome = "undecided" if bounds.outcome == "worse" else bounds.outcome
        made[item.where] = dataclasses.replace(
            bounds,
            outcome="worse" if may_reject else otherwise,
            detectable=margin + item.estimate.detectable(level / len(tested), VETO_POWER),
        )
    return tuple(made[item.where] for item in found)


def describe(found: Comparison, unit: str) -> str:
    """`auc .7612 against .7481: better by .0131 (.0092 to .0170), 27 days`; the interval is two-sided 95%."""
    name = found.metric if found.slice is None else f"{found.metric} where {found.slice}"
    if not math.isfinite(found.difference):
        return f"{name}: cannot be told on {found.rows:,} rows"
    ours, theirs = map(format_number, found.values)
    rival = "" if found.against == "champion" else f"the {found.against}'s "
    is_better = found.difference >= 0
    size, bounds = abs(found.difference), ""
    if found.interval is not None and math.isfinite(found.interval.low):
        ends = (found.interval.low, found.interval.high) if is_better else (-found.interval.high, -found.interval.low)
        bounds = f" ({format_number(ends[0])} to {format_number(ends[1])})"
    how = "better" if is_better else "worse"
    return f"{name} {ours} against {rival}{theirs}: {how} by {format_number(size)}{bounds}, {found.clusters} {unit}"
