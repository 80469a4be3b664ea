"""What the policies of a backtest were worth: quality, regret against an oracle, time to recover, a recommendation.

The oracle serves, window by window, whichever of all models made until then is best on that window's own rows. Nobody
could know it, and where two models are equal chance makes the better of them look better: regret is an upper bound, the
same one for every policy.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from tasks.core.backtest import Path
from tasks.core.clusters import Estimate, days_since_epoch, number_clusters, replicate
from tasks.core.comparisons import difference
from tasks.core.metrics import Floats, Ints
from tasks.core.quality import measure
from tasks.core.records import Interval, Record, Window
from tasks.core.scorecards import TWO_SIDED, GateRows, ScoredModel
from tasks.core.summary import format_interval, format_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Record):
    """One policy's line of the table. Gains and regret are in the primary metric's units, positive gain is better."""

    name: str
    retrains: int
    promoted: int
    rejected: int
    undecided: int
    halts: int
    quality: float  # mean over calendar months
    guards: dict[str, float]  # the same of each guard metric
    by_month: dict[str, float]
    by_window: tuple[float, ...]  # nan where a window has too few rows to tell
    gain: Interval  # over the first champion kept for good: mean over windows
    regret: Interval  # the sum over windows
    cumulative: tuple[float, ...]  # regret until the end of each window
    recover_days: float | None  # mean of the episodes; None without any
    longest_days: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest(Record):
    """What a backtest found. `page` is the path of its HTML."""

    project: str
    recommendation: str
    results: tuple[Result, ...]
    page: str


class Arena:
    """Every model's scores on every window's rows, compared once each.

    `rows` are of the whole span, without slices; `scores(model)` gives (n,) or (n, classes), whatever it says of rows
    before the model was made is not looked at. `bounds` (H, 2) are the row ranges of the windows.
    """

    def __init__(self, rows: GateRows, times: Any, bounds: Ints, scores: Callable[[str], Floats], metric: str) -> None:
        self.rows, self.times, self.bounds, self.scores, self.metric = rows, times, bounds, scores, metric
        self._days = days_since_epoch(times)
        self._windows = [self._rows_of(start, stop) for start, stop in bounds.tolist()]
        self._scored: dict[tuple[str, int], ScoredModel] = {}

    def _rows_of(self, start: int, stop: int) -> GateRows:
        days = (number_clusters(self._days[start:stop]),)
        return GateRows(
            kind=self.rows.kind, label=self.rows.label[start:stop], ways=days, window=self.rows.window, resamples=0
        )

    def scored(self, model: str, window: int) -> ScoredModel:
        key = (model, window)
        if key not in self._scored:
            start, stop = self.bounds[window]
            self._scored[key] = ScoredModel(model, self._windows[window], self.scores(model)[start:stop])
        return self._scored[key]

    def value(self, model: str, window: int) -> float:
        """The metric where it has an interval, else nan."""
        if not len(self._windows[window].label):
            return math.nan
        found = measure(self.scored(model, window), self.metric)
        return math.nan if found is None else found.value

    def lead(self, ours: Sequence[str], theirs: Sequence[str]) -> list[Estimate]:
        """Window by window, one serving model minus the other, paired; positive is better. nan where none can tell."""
        told = []
        for window, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            if math.isnan(self.value(one, window)) or math.isnan(self.value(other, window)):
                told.append(Estimate(math.nan, math.nan, 0, 0))
            else:
                told.append(difference(self.scored(one, window), self.scored(other, window), self.metric).estimate)
        return told

    def oracle(self, made: Mapping[str, int]) -> tuple[str, ...]:
        """The best model of each window; `made` says from which window on a model was there."""
        sign = self.rows.metric(self.metric).sign

        def worth(model: str, window: int) -> float:
            value = sign * self.value(model, window)
            return -math.inf if math.isnan(value) else value

        return tuple(
            max((model for model, since in made.items() if since <= window), key=lambda model: worth(model, window))
            for window in range(len(self.bounds))
        )

    def by_month(self, served: Sequence[str], metric: str) -> dict[str, float]:
        """The metric of what was served, all rows of a calendar month (UTC) together. nan where it is not defined."""
        parts = [self.scores(model)[start:stop] for model, (start, stop) in zip(served, self.bounds, strict=True)]
        first, last = int(self.bounds[0, 0]), int(self.bounds[-1, 1])
        scores, months = np.concatenate(parts), np.asarray(self.times[first:last]).astype("datetime64[M]")
        label, days = self.rows.label[first:last], self._days[first:last]
        return {
            str(month): replicate(
                self.rows.metric(metric), label[chosen], scores[chosen], number_clusters(days[chosen])
            ).value
            for month in np.unique(months)
            for chosen in [np.flatnonzero(months == month)]
        }


def total(parts: Sequence[Estimate]) -> Estimate:
    """The sum over windows, as independent strata of days; windows that cannot tell count as nothing.

    SE^2 is the sum of the windows' jackknife variances, degrees of freedom are Satterthwaite's.
    Source: Rust and Rao 1996, Variance Estimation for Complex Surveys Using Replication (stratified jackknife);
    Satterthwaite 1946.
    """
    told = [part for part in parts if math.isfinite(part.value) and math.isfinite(part.standard_error)]
    variances = np.array([part.standard_error**2 for part in told])
    variance = float(variances.sum())
    freedom = sum(part.df for part in told)
    if variance > 0:
        freedom = int(variance**2 / sum(v**2 / part.df for v, part in zip(variances, told, strict=True)))
    clusters = sum(part.clusters for part in told)
    return Estimate(sum(part.value for part in told), math.sqrt(variance), max(freedom, 1), clusters)


def interval(found: Estimate, per: float = 1.0) -> Interval:
    """Two-sided 95%, divided by `per`."""
    bounds = (found.value, found.lower(TWO_SIDED), found.upper(TWO_SIDED))
    value, low, high = (bound / per for bound in bounds)
    return Interval(value=value, low=low, high=high)


def episodes(regrets: Sequence[float], windows: Sequence[Window], margin: float) -> list[timedelta]:
    """How long each time that a better model than the served one existed, by more than the margin, lasted.

    From the start of the first such window to the end of the last in a row; one that is open at the end counts as long
    as it was seen. Noise within the margin is no loss.
    """
    spans, since = [], None
    for regret, window in zip(regrets, windows, strict=True):
        if regret > margin and since is None:
            since = window.start
        elif not regret > margin and since is not None:
            spans.append(window.start - since)
            since = None
    return spans if since is None else [*spans, windows[-1].end - since]


def sum_up(paths: Sequence[Path], arena: Arena, guards: Sequence[str], margin: float) -> tuple[list[Result], list[str]]:
    """A line for each policy, and what the oracle served."""
    windows = [step.window for step in paths[0].steps]
    starts = [window.start for window in windows]
    made = {
        name: next((n for n, start in enumerate(starts) if start >= model.made_at), len(starts))
        for path in paths
        for name, model in path.models.items()
    }
    oracle = list(arena.oracle(made))
    frozen = [paths[0].steps[0].model] * len(windows)
    found = []
    for path in paths:
        served = [step.model for step in path.steps]
        regrets = arena.lead(oracle, served)
        told = sum(math.isfinite(part.value) for part in regrets)
        values = [0.0 if math.isnan(part.value) else part.value for part in regrets]
        lost = [span / timedelta(days=1) for span in episodes(values, windows, margin)]
        by_month = arena.by_month(served, arena.metric)
        found.append(
            Result(
                name=path.name, retrains=len(path.trials), promoted=path.count("promote"),
                rejected=path.count("reject"), undecided=path.count("undecided"), halts=path.halts,
                quality=_mean(by_month.values()),
                guards={name: _mean(arena.by_month(served, name).values()) for name in guards},
                by_month=by_month, by_window=tuple(arena.value(name, n) for n, name in enumerate(served)),
                gain=interval(total(arena.lead(served, frozen)), max(told, 1)), regret=interval(total(regrets)),
                cumulative=tuple(itertools.accumulate(values)),
                recover_days=sum(lost) / len(lost) if lost else None, longest_days=max(lost, default=0.0),
                seconds=path.seconds,
            )
        )  # fmt: skip
    return found, oracle


def recommend(paths: Sequence[Path], results: Sequence[Result], arena: Arena, margin: float) -> str:
    """The policy with the fewest retrains that is shown to lose less than the margin to the best; and how sure it is.

    The best is chosen by its regret on these very rows, so that its lead is told a little too high: the cheap policy
    has to do more to be recommended, not less.
    """
    served = [[step.model for step in path.steps] for path in paths]
    best = min(range(len(paths)), key=lambda n: (results[n].regret.value, results[n].retrains, results[n].seconds))
    leads = [total(arena.lead(served[best], own)) for own in served]
    count = max(sum(not math.isnan(value) for value in results[best].by_window), 1)
    lost = [interval(lead, count) for lead in leads]
    enough = [n for n in range(len(paths)) if n == best or lost[n].high < margin]
    chosen = min(enough, key=lambda n: (results[n].retrains, results[n].seconds, results[n].regret.value))
    days, name = leads[best].clusters, arena.metric
    said = f"Recommended: {_told(results[chosen], name)}."
    if chosen != best:
        return (
            f"{said} The best on these {days} days, {_told(results[best], name)}, is ahead of it by"
            f" {format_interval(lost[chosen])} a window (95%), which is shown to be less than the margin of {margin:g};"
            " one past is no proof of the next."
        )
    rivals = [n for n in range(len(paths)) if n != best and results[n].retrains < results[best].retrains]
    if not rivals:
        return f"{said} It is the best on these {days} days, and none retrains less; one past is no proof of the next."
    nearest = min(rivals, key=lambda n: lost[n].value)
    shown = "is shown to be" if lost[nearest].low > 0 else "may by chance be"
    return (
        f"{said} It {shown} ahead of the nearest policy that retrains less, {_told(results[nearest], name)}, by"
        f" {format_interval(lost[nearest])} a window (95%, {days} days), which is not shown to be less than the margin"
        f" of {margin:g}; one past is no proof of the next."
    )


def _told(result: Result, metric: str) -> str:
    many = "1 retrain" if result.retrains == 1 else f"{result.retrains} retrains"
    return f"{result.name} ({metric} {format_number(result.quality)}, {many})"


def _mean(values: Any) -> float:
    return float(np.nanmean(list(values)))
