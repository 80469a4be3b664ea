"""The gate: may the challenger take the champion's place? A verdict with reasons, at a stated error rate.

Three modes. `first`: there is no champion yet, floors and servability decide. `change`: recipe, features or code
differ, so the challenger must be shown better. `refresh`: the same procedure on newer data, which must be shown to
lose less than the margin, against the champion and against the anchor (the last model promoted by superiority or by
a person): without the anchor many small losses add up.

Every guard and every guarded slice must be shown non-inferior, each at `level`: an intersection-union test, which
needs no correction (Berger 1982). Watched slices only veto, when shown worse by more than their margin (Holm).
`change` tests at rate / per_attempts, so that by Bonferroni's inequality any `per_attempts` consecutive attempts
promote by chance with probability `rate` at most.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tasks.core.comparisons import Against, Difference, compare, describe, difference, watch
from tasks.core.metrics import METRICS, Floats
from tasks.core.records import Comparison, Scorecard, Verdict
from tasks.core.scorecards import ScoredModel, Slice, all_slices
from tasks.core.summary import format_number
from tasks.core.verdicts import (
    Mode,
    Rules,
    days_that_would_do,
    decide,
    decide_first,
    find_failures,
    find_shortage,
    rejecting,
    spent_level,
)

BASELINES = ("baseline", "persistence")
Key = tuple[str, Slice | None]  # metric, slice


def mode_of(champion: Mapping[str, str] | None, challenger: Mapping[str, str]) -> Mode:
    """`refresh` when all digests of the procedure (recipe sections, feature service, code) are the champion's."""
    if champion is None:
        return "first"
    return "refresh" if all(champion.get(name) == value for name, value in challenger.items()) else "change"


def judge(
    rules: Rules,
    challenger: ScoredModel,
    champion: ScoredModel | None,
    anchor: ScoredModel | None = None,
    rivals: Sequence[ScoredModel] = (),
    *,
    card: Scorecard,
    mode: Mode,
    attempts: int = 0,
) -> Verdict:
    """The verdict over paired scores on the same rows.

    `card` is the challenger's: metrics for the floors, latency, size. `rivals` (baseline, persistence) are compared
    and reported, they do not decide. `attempts` made before this one are shown; they do not change the level.
    """
    rows = challenger.rows
    days = (rows.window.end - rows.window.start).total_seconds() / 86_400
    values = {name: (card.metrics[name].value, METRICS[rows.kind][name].is_higher_better) for name in card.metrics}
    failures = find_failures(rules, values, card.latency_one_ms, card.size_bytes)
    shortage, days_needed = find_shortage(rules, mode, len(rows.label), rows.num_clusters, days, rows.unit)
    differences = {} if champion is None else dict(_differences(rules, challenger, champion))
    against_anchor = None if anchor is None or mode != "refresh" else difference(challenger, anchor, rules.primary)
    comparisons = [] if champion is None else _compare_all(rules, mode, differences, against_anchor)
    if champion is None:
        outcome, reasons = decide_first(failures, shortage)
    else:
        outcome, reasons = decide(rules, mode, comparisons, failures, shortage, rows.unit)
    if outcome == "undecided" and days_needed is None:
        days_needed = days_that_would_do(rules, mode, comparisons, days)
    detectable = comparisons[0].detectable if comparisons else None
    reported = [_report(rules, challenger, rival) for rival in rivals]
    return Verdict(
        outcome=outcome,
        mode=mode,
        reasons=(
            *reasons,
            *(_what_would_do(detectable, days_needed, rows.num_clusters, rows.unit) if outcome == "undecided" else ()),
            *(describe(found, rows.unit) for found in reported),
        ),
        comparisons=(*comparisons, *reported),
        rows=len(rows.label),
        clusters=rows.num_clusters,
        smallest_detectable_effect=detectable if detectable is not None and math.isfinite(detectable) else None,
        days_that_would_do=days_needed if outcome == "undecided" else None,
        evidence={**_evidence(rules, mode, attempts, differences), "slices_left_out": list(rows.slices_left_out)},
    )


def judge_nothing(rules: Rules, mode: Mode, rows_per_day: float) -> Verdict:
    """There is no row that neither model has seen: undecided, and how long to wait."""
    reasons, _ = find_shortage(rules, mode, 0, 0, 0.0)
    days = max(rules.min_rows / rows_per_day, 10.0) if rows_per_day > 0 else None
    wait = [] if days is None else [f"some {days:.0f} days after the champion's own moment would do"]
    return Verdict(outcome="undecided", mode=mode, reasons=(*reasons[:1], *wait), days_that_would_do=days)


def shown_worse(rules: Rules, champion: ScoredModel, displaced: ScoredModel) -> tuple[str, ...]:
    """Why a champion should give its place back, on rows that came after: whatever would reject it, as a refresh."""
    comparisons = _compare_all(rules, "refresh", dict(_differences(rules, champion, displaced)), None)
    return rejecting(rules, "refresh", comparisons, champion.rows.unit)


def baseline_wins(verdict: Verdict) -> bool:
    """Whether a baseline's primary metric is the higher one on these rows, shown or not.

    A tie in the data goes to the simpler model: it is the network that has to earn its place. The verdict's reasons
    give the difference with its interval.
    """
    return any(found.against in BASELINES and found.difference < 0 for found in verdict.comparisons)


def refit_check(
    judged: Floats, refit: Floats, max_change: float, kind: Literal["binary", "multiclass", "regression"] = "binary"
) -> tuple[str, ...]:
    """Reasons not to serve a model refitted on all rows in place of the one that was judged; empty if there is none.

    Both score the same recent rows, (n,) or (n, classes). The change is the mean absolute difference of
    probabilities (of several classes, half the sum over classes: total variation), and for a regression that
    difference in standard deviations of the judged scores.
    """
    if not np.isfinite(refit).all():
        return (f"the refitted model gives {np.count_nonzero(~np.isfinite(refit)):,} scores that are not finite",)
    moved = np.abs(judged - refit)
    change = float((moved.sum(axis=1) / 2 if moved.ndim == 2 else moved).mean())
    if kind == "regression":
        change /= max(float(judged.std()), np.finfo(np.float64).tiny)
    if change <= max_change:
        return ()
    return (f"the refitted model's scores moved by {format_number(change)} on average, more than {max_change:g}",)


def _differences(rules: Rules, challenger: ScoredModel, champion: ScoredModel) -> Iterator[tuple[Key, Difference]]:
    """Each metric and slice that the rules name, once."""
    guarded = [_parse(text) for text in rules.guarded_slices]
    watched = [where for where in all_slices(challenger.rows) if where[0] in rules.slices and where not in guarded]
    metrics = [rules.primary, *(name for name in rules.guards if name != rules.primary)]
    for metric, where in [*((name, None) for name in metrics), *((rules.primary, s) for s in (*guarded, *watched))]:
        yield (metric, where), difference(challenger, champion, metric, where)


def _parse(text: str) -> Slice:
    column, _, value = text.partition("=")
    return column, value


def _compare_all(
    rules: Rules, mode: Mode, differences: Mapping[Key, Difference], anchor: Difference | None
) -> list[Comparison]:
    """Primary (champion, then anchor), guards, guarded slices, watched slices."""
    level, guarded = spent_level(rules, mode), [_parse(text) for text in rules.guarded_slices]

    def primary(item: Difference, against: Against) -> Comparison:
        return compare(item, "primary", margin=rules.margin, level=level, upper_level=rules.level, against=against)

    found = [primary(differences[rules.primary, None], "champion")]
    if anchor is not None:
        found.append(primary(anchor, "anchor"))
    for metric, margin in rules.guards.items():
        found.append(compare(differences[metric, None], "guard", margin=margin, level=rules.level))
    for where in guarded:
        item = differences[rules.primary, where]
        found.append(compare(item, "guard", margin=rules.slice_margin, level=rules.level))
    watched = [item for (_, where), item in differences.items() if where is not None and where not in guarded]
    return [*found, *watch(watched, margin=rules.slice_margin, level=rules.level)]


def _report(rules: Rules, challenger: ScoredModel, rival: ScoredModel) -> Comparison:
    against: Against = "persistence" if rival.name == "persistence" else "baseline"
    found = difference(challenger, rival, rules.primary)
    return compare(found, "reported", margin=rules.margin, level=rules.level, against=against)


def _what_would_do(detectable: float | None, days: float | None, clusters: int, unit: str) -> Iterator[str]:
    if detectable is not None and math.isfinite(detectable):
        yield f"on these {clusters} {unit} a difference of {format_number(detectable)} is shown four times in five"
    if days is not None:
        yield f"some {math.ceil(days):,} days of rows like these would do"
    elif detectable is not None:
        yield "more rows like these would not do: what they point to is no promotion"


def _evidence(rules: Rules, mode: Mode, attempts: int, differences: Mapping[Key, Difference]) -> dict[str, Any]:
    """The level spent, and for display the middle 95% of the bootstrap and the share of resamples that are better."""
    spending = rules.false_promotions
    shown = {
        metric if where is None else f"{metric} {'='.join(where)}": [
            *(float(bound) for bound in np.quantile(item.resampled, [0.025, 0.975])),
            float((item.resampled > 0).mean()),
        ]
        for (metric, where), item in differences.items()
        if len(item.resampled) and np.isfinite(item.resampled).all()
    }
    return {
        "level": spent_level(rules, mode),
        "attempt": attempts + 1,
        "false_promotions": f"at most {spending.rate:g} in any {spending.per_attempts} attempts at a change",
        "bootstrap": shown,
    }
