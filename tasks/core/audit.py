"""The audit of a training set: is there a row, or a column, in which the future or the answer shows?

What it proves is about the rows it is given. That a feature's SQL itself reads nothing later than the time it writes
into a feature row cannot be seen from joined rows; the feature build holds that.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.errors import LeakageError
from tasks.core.records import Inputs, Record, RowRange
from tasks.core.splits import PARTS

Floats = npt.NDArray[np.float64]
Score = Callable[[Floats, Floats], float]  # (midranks of the values, target) -> score
MAX_SCORED_ROWS = 50_000  # evenly spaced: an AUC of .9 is then told to .003, and the audit's time is bounded
MIN_SCORED_ROWS = 50  # of each side of a comparison; below it a perfect score is chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak(Record):
    """One way in which the training set knows too much."""

    check: Literal["split times", "row keys", "entities", "known time", "single feature", "label maturity"]
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class LabelDelays:
    """How long after the prediction time labels became known, over rows whose labels had twice the maturity."""

    maturity: timedelta
    labels: int
    late: int  # known only after the maturity
    longest: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport(Record):
    """`scores` is how well each input predicts the label by itself: AUC, or absolute rank correlation."""

    leaks: tuple[Leak, ...]
    allowed: tuple[Leak, ...]  # what the recipe allows, with its reason
    scores: dict[str, float]


def audit_training_set(
    rows: pa.Table,
    *,
    key: Sequence[str],
    inputs: Inputs,
    label_kind: str,
    splits: Mapping[str, RowRange],
    embargo: timedelta,
    known_times: pa.Table,
    label_delays: LabelDelays,
    max_late_labels: float,
    max_single_feature_score: float,
    allow: Mapping[str, str],
    disjoint_entities: Sequence[str],
) -> AuditReport:
    """Look for leaks in rows sorted by `prediction_time`.

    `known_times` has a column for each feature view beside `prediction_time`: when the row that was joined could first
    be known, null where none was. Its rows may be in any order, and only the suspicious ones.
    """
    fit = splits["fit"]
    scores = single_feature_scores(rows.slice(fit.start, fit.stop - fit.start), inputs, label_kind)
    suspects = [
        Leak(check="single feature", subject=name, detail=f"predicts the label by itself with a score of {score:.3f}")
        for name, score in scores.items()
        if score > max_single_feature_score
    ]
    leaks = [
        *split_time_leaks(rows["prediction_time"], splits, embargo),
        *row_key_leaks(rows.select(list(key)), splits),
        *entity_leaks(rows, splits, disjoint_entities),
        *known_time_leaks(known_times),
        *label_maturity_leaks(label_delays, max_late_labels),
        *(leak for leak in suspects if leak.subject not in allow),
    ]
    allowed = [
        Leak(check=leak.check, subject=leak.subject, detail=f"{leak.detail}; allowed: {allow[leak.subject]}")
        for leak in suspects
        if leak.subject in allow
    ]
    return AuditReport(leaks=tuple(leaks), allowed=tuple(allowed), scores=scores)


def refuse_leaks(report: AuditReport) -> None:
    """Raises: LeakageError: with every leak of the report."""
    if report.leaks:
        raise LeakageError(
            f"the training set leaks in {len(report.leaks)} way{'s' if len(report.leaks) > 1 else ''}",
            got="\n            ".join(f"{leak.check}: {leak.subject} {leak.detail}" for leak in report.leaks),
            expected="nothing in a row that could not be known at its prediction time, and no row in two splits",
            fix="correct the feature, the split or label.maturity; a feature that may predict this well is allowed with"
            " a reason, under audit.allow",
        )


def split_time_leaks(times: pa.ChunkedArray, splits: Mapping[str, RowRange], embargo: timedelta) -> Iterator[Leak]:
    """Parts that overlap in time or rows, stand closer than the embargo, or hold rows from outside their window."""
    for earlier, later in itertools.pairwise(PARTS):
        before, after = splits[earlier], splits[later]
        if before.stop > after.start or before.window.end + embargo > after.window.start:
            yield Leak(
                check="split times",
                subject=f"{earlier} and {later}",
                detail=f"must be {embargo} apart, but {earlier} ends {before.window.end} (row {before.stop:,}),"
                f" {later} begins {after.window.start} (row {after.start:,})",
            )
    for name in PARTS:
        part = splits[name]
        span = pc.min_max(times.slice(part.start, part.stop - part.start)).as_py()
        if span["min"] is not None and not (part.window.start <= span["min"] and span["max"] < part.window.end):
            yield Leak(
                check="split times",
                subject=name,
                detail=f"holds rows from {span['min']} to {span['max']}, its window is {part.window.start} to"
                f" {part.window.end}",
            )


def row_key_leaks(keys: pa.Table, splits: Mapping[str, RowRange]) -> Iterator[Leak]:
    """The same row key in two parts."""
    parts = [
        keys.slice(splits[name].start, splits[name].stop - splits[name].start).append_column(
            "__part", pa.repeat(pa.scalar(number, pa.int8()), splits[name].stop - splits[name].start)
        )
        for number, name in enumerate(PARTS)
    ]
    spread = pa.concat_tables(parts).group_by(keys.column_names).aggregate([("__part", "min"), ("__part", "max")])
    shared = spread.filter(pc.not_equal(spread["__part_min"], spread["__part_max"]))
    if shared.num_rows:
        first = ", ".join(str(shared[name][0]) for name in keys.column_names)
        yield Leak(
            check="row keys",
            subject=", ".join(keys.column_names),
            detail=f"is in two parts for {shared.num_rows:,} keys, ({first}) among them",
        )


def label_maturity_leaks(delays: LabelDelays, max_late: float) -> Iterator[Leak]:
    """Labels that come later than the recipe says: near the cut, a row would have one or not by what it is."""
    if delays.longest is not None and delays.late > max_late * delays.labels:
        hours = [span / timedelta(hours=1) for span in (delays.maturity, delays.longest)]
        yield Leak(
            check="label maturity",
            subject="label",
            detail=f"became known later than label.maturity ({hours[0]:.4g} h after the prediction time) in"
            f" {delays.late:,} of {delays.labels:,} rows, the last after {hours[1]:.4g} h",
        )


def entity_leaks(rows: pa.Table, splits: Mapping[str, RowRange], columns: Sequence[str]) -> Iterator[Leak]:
    """Values of `columns` in both fit and holdout, which the recipe forbids."""
    for name in columns:
        fit, holdout = (
            pc.drop_null(pc.unique(rows[name].slice(part.start, part.stop - part.start)))
            for part in (splits["fit"], splits["holdout"])
        )
        shared = fit.filter(pc.is_in(fit, value_set=holdout))
        if len(shared):
            yield Leak(
                check="entities",
                subject=name,
                detail=f"has {len(shared):,} values in both fit and holdout, {shared[0].as_py()!r} among them",
            )


def known_time_leaks(known_times: pa.Table) -> Iterator[Leak]:
    """Joined feature rows that were known only after the prediction time."""
    times = known_times["prediction_time"]
    for view in known_times.column_names:
        late = pc.fill_null(pc.greater(known_times[view], times), False)
        if count := pc.sum(late).as_py():
            row = pc.index(late, pa.scalar(True)).as_py()
            yield Leak(
                check="known time",
                subject=view,
                detail=f"has {count:,} rows known after the prediction time, one at {known_times[view][row]} for"
                f" {times[row]}",
            )


# --- how well one input predicts by itself ---------------------------------------------------------------


def single_feature_scores(rows: pa.Table, inputs: Inputs, label_kind: str) -> dict[str, float]:
    """Score of each input alone: AUC of the class it tells best (0.5 to 1), or absolute rank correlation (0 to 1).

    A numeric input is ranked; that it is null is scored too. A categorical one is replaced by the mean label of its
    value in the other half of the rows, so that one with many values does not predict its own rows.

    Source: AUC as the Mann-Whitney U over midranks (Hanley and McNeil 1982); Spearman's rho as the correlation of them.
    """
    if rows.num_rows > MAX_SCORED_ROWS:
        rows = rows.take(np.linspace(0, rows.num_rows - 1, MAX_SCORED_ROWS).astype(np.int64))
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
