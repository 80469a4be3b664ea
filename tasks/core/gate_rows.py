"""From Arrow rows and raw scores to what the gate compares: labels, clusters, slices, one order of classes."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.clusters import cluster_ways
from tasks.core.errors import ModelError, RecipeError
from tasks.core.metrics import Floats
from tasks.core.records import TrainingSetRef, Window
from tasks.core.scorecards import GateRows, SliceColumn

MAX_SLICE_VALUES = 50  # of one column; only the most frequent ones are told apart
MISSING = "missing"


def read_rows(training_set: TrainingSetRef, part: str) -> pa.Table:
    """The rows of one split, memory-mapped."""
    rows = training_set.splits[part]
    return pa.ipc.open_file(pa.memory_map(training_set.uri)).read_all().slice(rows.start, rows.stop - rows.start)


def first_unseen(training_set: TrainingSetRef, holdout: pa.Table, moments: Sequence[datetime]) -> tuple[int, Window]:
    """Where the holdout rows begin that lie after every other model's own moment, and the window they span.

    An older model's holdout counts as seen by it: it was chosen on those rows, and a refit was fitted on them.
    """
    whole = training_set.splits["holdout"].window
    if not moments:
        return 0, whole
    moment = max(moments)
    times = holdout["prediction_time"].to_numpy()
    first = int(np.searchsorted(times, np.datetime64(moment.astimezone(UTC).replace(tzinfo=None)), side="right"))
    return first, Window(start=min(max(whole.start, moment), whole.end), end=whole.end)


def rows_per_day(training_set: TrainingSetRef) -> float:
    part = training_set.splits["holdout"]
    return (part.stop - part.start) / max((part.window.end - part.window.start).total_seconds() / 86_400, 1e-9)


def gate_rows(
    table: pa.Table,
    kind: Literal["binary", "multiclass", "regression"],
    window: Window,
    *,
    clusters: str,
    entity: str | None = None,
    slices: Sequence[str] = (),
    serial: bool = False,
    classes: Sequence[Any] = (),
    label: str = "label",
) -> GateRows:
    """`table` has the label, `prediction_time` and the columns named; `classes` are all classes in their order.

    Raises:
        RecipeError: a slice or entity column that the table lacks.
    """
    for key, name in (("gate.entity", entity), *(("gate.slices", name) for name in slices)):
        if name is not None and name not in table.column_names:
            raise RecipeError(
                f"{key} names a column that the training set lacks", got=name, expected=f"one of {table.column_names}"
            )
    columns = {name: slice_column(table[name]) for name in slices}
    codes = None if entity is None else _text(table[entity]).combine_chunks().dictionary_encode().indices.to_numpy()
    return GateRows(
        kind=kind,
        label=encode_label(table[label], kind, classes),
        ways=cluster_ways(clusters, table["prediction_time"].to_numpy(), codes),
        window=window,
        unit={"day": "days", "week": "weeks", "entity": f"values of {entity}"}.get(clusters, f"days or {entity}s"),
        slices=columns,
        slices_left_out=tuple(name for name in slices if (columns[name].codes < 0).any()),
        serial=serial,
        classes=tuple(classes),
    )


def slice_column(column: pa.ChunkedArray) -> SliceColumn:
    """The values of a column as text, the most frequent first; rows beyond MAX_SLICE_VALUES have code -1."""
    text = _text(column)
    counts = pc.value_counts(text)
    order = pc.sort_indices(
        pa.table({"values": counts.field(0), "counts": counts.field(1)}),
        sort_keys=[("counts", "descending"), ("values", "ascending")],
    )
    values = counts.field(0).take(order[:MAX_SLICE_VALUES])
    codes = pc.fill_null(pc.index_in(text, value_set=values), -1)
    return SliceColumn(codes.to_numpy().astype(np.int64), tuple(values.to_pylist()))


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(column.cast(pa.string()), MISSING)


def encode_label(column: pa.ChunkedArray, kind: str, classes: Sequence[Any] = ()) -> Floats:
    """(n,) 0 and 1, the number of the class, or the value."""
    if kind == "multiclass":
        return np.asarray(pc.index_in(column, value_set=pa.array(classes, column.type)), dtype=np.float64)
    return np.asarray(column.cast(pa.float64()), dtype=np.float64)


def all_classes(column: pa.ChunkedArray, of_models: Iterable[Sequence[Any]]) -> tuple[Any, ...]:
    """Every class that a model knows or a row has, sorted: models fitted on other rows may know other classes."""
    found = set(pc.unique(column).to_pylist())
    return tuple(sorted(found.union(*of_models)))


def check_scores(name: str, scores: Any, rows: int, of_model: Sequence[Any], classes: Sequence[Any]) -> Floats:
    """Scores as float64, with the columns of `classes` (empty unless there are several columns).

    A class that the model does not know has probability 0.

    Raises:
        ModelError: not one score for each row, or scores that are not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    expected = (rows, len(of_model)) if len(classes) else (rows,)
    if scores.shape != expected:
        raise ModelError(f"the {name} does not score each row once", got=scores.shape, expected=expected)
    if not np.isfinite(scores).all():
        count = np.count_nonzero(~np.isfinite(scores))
        raise ModelError(f"the {name} gives scores that are not finite", got=f"{count:,} of {scores.size:,}")
    if not len(classes) or tuple(of_model) == tuple(classes):
        return cast(Floats, scores)
    aligned = np.zeros((rows, len(classes)))
    aligned[:, [list(classes).index(value) for value in of_model]] = scores
    return aligned
