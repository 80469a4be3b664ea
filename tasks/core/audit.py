"""The audit of a training set: is there a row, or a column, in which the future or the answer shows?

What it proves is about the rows it is given. That a feature's SQL itself reads nothing later than the time it writes
into a feature row cannot be seen from joined rows; the feature build holds that.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.errors import LeakageError
from tasks.core.feature_scores import evenly, single_feature_scores
from tasks.core.label_health import LEVEL, AdditiveScores, inverted_segments
from tasks.core.records import Inputs, Record, RowRange
from tasks.core.splits import PARTS

# Of a day's labels; the snow storm of February 2013 left .70 of a day's flights without one.
MAX_MISSING, MIN_NEWEST_ROWS = 0.95, 20
Check = Literal[
    "split times", "row keys", "entities", "known time", "single feature", "label maturity", "early labels",
    "missing labels", "segment labels",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak(Record):
    """One way in which the training set knows too much, or its labels say something else than they should."""

    check: Check
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class LabelDelays:
    """How long after the prediction time labels became known, over rows whose labels had twice the maturity; and how
    many of the rows of the last day before the cut have none."""

    maturity: timedelta
    labels: int
    late: int  # known only after the maturity
    longest: timedelta | None
    early: int = 0  # known before the prediction time
    newest_rows: int = 0
    newest_missing: int = 0


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
        *single_feature_leaks(scores, max_single_feature_score),
        *missing_label_leaks(label_delays),
        *(segment_label_leaks(rows, inputs, splits) if label_kind == "binary" else ()),
    ]
    leaks = [
        *split_time_leaks(rows["prediction_time"], splits, embargo),
        *row_key_leaks(rows.select(list(key)), splits),
        *entity_leaks(rows, splits, disjoint_entities),
        *known_time_leaks(known_times),
        *label_maturity_leaks(label_delays, max_late_labels),
        *early_label_leaks(label_delays, max_late_labels),
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
            f"the training set has {len(report.leaks)} fault{'s' if len(report.leaks) > 1 else ''}",
            got="\n            ".join(f"{leak.check}: {leak.subject} {leak.detail}" for leak in report.leaks),
            expected="nothing in a row that could not be known at its prediction time, no row in two splits, and labels"
            " that mean the same in every row",
            fix="correct the feature, the split, the labels or label.maturity; what may be so is allowed with a reason,"
            " under audit.allow: an input's name, a segment's `input=value`, or `label` where its newest are missing",
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


def early_label_leaks(delays: LabelDelays, max_early: float) -> Iterator[Leak]:
    """Labels that are known before their prediction time: nothing is predicted, or a clock of another zone tells it."""
    if delays.early > max_early * delays.labels:
        yield Leak(
            check="early labels",
            subject="label",
            detail=f"was known before the prediction time in {delays.early:,} of {delays.labels:,} rows: is"
            " created_timestamp in another time zone?",
        )


def missing_label_leaks(delays: LabelDelays) -> Iterator[Leak]:
    """A last day without labels: they have stopped coming, and what stands for a missing one would be the label."""
    if delays.newest_rows >= MIN_NEWEST_ROWS and delays.newest_missing > MAX_MISSING * delays.newest_rows:
        yield Leak(
            check="missing labels",
            subject="label",
            detail=f"is not there for {delays.newest_missing:,} of {delays.newest_rows:,} rows of the last matured day:"
            " the tail has not matured, or the labels have stopped coming",
        )


def segment_label_leaks(rows: pa.Table, inputs: Inputs, splits: Mapping[str, RowRange]) -> Iterator[Leak]:
    """Labels that are flipped in one segment: there the inputs say the opposite of what they say elsewhere."""
    parts = {name: evenly(rows.slice(splits[name].start, splits[name].stop - splits[name].start)) for name in PARTS}
    scores = AdditiveScores(parts["fit"], inputs)
    for name, part in parts.items():
        for found in inverted_segments(part, scores.of(part), inputs):
            low, high = found.auc.lower(LEVEL), found.auc.upper(LEVEL)
            yield Leak(
                check="segment labels",
                subject=found.segment,
                detail=f"has labels that look inverted in {found.rows:,} rows of {name}: AUC {found.auc.value:.3f}"
                f" ({low:.3f} to {high:.3f}), of all rows {found.auc_of_all:.3f}",
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


def single_feature_leaks(scores: Mapping[str, float], max_score: float) -> Iterator[Leak]:
    for name, score in scores.items():
        if score > max_score:
            yield Leak(
                check="single feature",
                subject=name,
                detail=f"predicts the label by itself with a score of {score:.3f}",
            )
