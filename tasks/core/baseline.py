"""Honest rivals of a network: gradient-boosted trees on the same fit rows, and the last known value.

Their primary metric stands beside the network's in every verdict, so that nobody serves a network that trees beat
without knowing it.

The trees are fitted by a child process, `python -m tasks.core.baseline spec.json`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.core.metrics import Floats
from tasks.core.records import Inputs, Record, RowRange
from tasks.core.score_files import write_scores

Kind = Literal["binary", "multiclass", "regression"]
# scikit-learn takes at most 255 categories; the last one is for all that are rarer, or unseen.
MAX_CATEGORIES = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineSpec(Record):
    """All that the child process is told. It writes the scores of `score_rows` to `output`, whole or not at all."""

    training_set: str  # path of the Arrow file
    inputs: Inputs
    label_kind: Kind
    fit_rows: RowRange
    score_rows: RowRange
    iterations: int
    output: str


def main(path: str) -> None:
    spec = BaselineSpec.read(path)
    with pa.memory_map(spec.training_set) as file:
        table = pa.ipc.open_file(file).read_all()
        fit, score = (table.slice(rows.start, rows.stop - rows.start) for rows in (spec.fit_rows, spec.score_rows))
        scores, classes = fit_and_score(fit, score, spec.inputs, spec.label_kind, iterations=spec.iterations)
    write_scores(Path(spec.output), scores, classes)


def fit_and_score(
    fit: pa.Table, score: pa.Table, inputs: Inputs, kind: Kind, *, iterations: int, label: str = "label", seed: int = 0
) -> tuple[Floats, tuple[Any, ...]]:
    """Scores of trees fitted on `fit`: (n,), or (n, classes) with the classes in their order.

    HistGradientBoosting with scikit-learn's defaults and a fixed number of iterations; missing values are left
    missing, categories are native.
    Source: Ke et al. 2017, LightGBM; Friedman 2001, Greedy Function Approximation.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    tables = [category_values(fit[name]) for name in inputs.categorical]
    make = HistGradientBoostingRegressor if kind == "regression" else HistGradientBoostingClassifier
    trees = make(
        max_iter=iterations,
        early_stopping=False,
        categorical_features=np.arange(len(inputs.numeric), len(inputs.numeric) + len(tables)),
        random_state=seed,
    )
    answers = np.asarray(fit[label].to_pylist() if kind == "multiclass" else fit[label].cast(pa.float64()))
    trees.fit(design_matrix(fit, inputs, tables), answers)
    questions = design_matrix(score, inputs, tables)
    if kind == "regression":
        return trees.predict(questions), ()
    chances = trees.predict_proba(questions)
    return (chances[:, 1], ()) if kind == "binary" else (chances, tuple(trees.classes_.tolist()))


def category_values(column: pa.ChunkedArray) -> pa.Array:
    """The most frequent values of a categorical column, at most one fewer than there may be categories."""
    counts = pc.value_counts(_as_text(column).drop_null())
    # Sorted by value too: value_counts is in order of appearance, and equal counts must not depend on it.
    order = pc.sort_indices(
        pa.table({"values": counts.field(0), "counts": counts.field(1)}),
        sort_keys=[("counts", "descending"), ("values", "ascending")],
    )
    return counts.field(0).take(order[: MAX_CATEGORIES - 1])


def design_matrix(table: pa.Table, inputs: Inputs, tables: Sequence[pa.Array]) -> Floats:
    """(n, numeric + categorical), column-major; nan where missing, categories as codes."""
    matrix = np.empty((table.num_rows, len(inputs.numeric) + len(tables)), order="F")
    for place, name in enumerate(inputs.numeric):
        matrix[:, place] = table[name].cast(pa.float64(), safe=False).to_numpy()
    for place, (name, values) in enumerate(zip(inputs.categorical, tables, strict=True), start=len(inputs.numeric)):
        text = _as_text(table[name])
        codes = pc.fill_null(pc.index_in(text, value_set=values), len(values)).cast(pa.float64())
        matrix[:, place] = pc.if_else(pc.is_null(text), None, codes).to_numpy()
    return matrix


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string())


def last_known_value(
    fit: pa.Table, score: pa.Table, column: str, kind: Kind, *, label: str = "label"
) -> tuple[Floats, tuple[Any, ...]]:
    """The persistence forecast: what was last seen, and where nothing was, the mean (or most frequent) fitted label.

    Source: Hyndman and Athanasopoulos, Forecasting: Principles and Practice, 5.2 (the naive method).
    """
    seen = score[column]
    if kind == "multiclass":
        counts = pc.value_counts(fit[label])
        usual = counts.field(0)[int(np.argmax(counts.field(1).to_numpy()))]
        filled = pc.fill_null(seen.cast(fit[label].type), usual)
        classes = tuple(sorted({*pc.unique(filled).to_pylist(), *pc.unique(fit[label]).to_pylist()}))
        places: NDArray[np.int64] = pc.index_in(filled, value_set=pa.array(classes, filled.type)).to_numpy()
        return np.eye(len(classes))[places], classes
    usual_value = pc.mean(fit[label].cast(pa.float64()))
    return pc.fill_null(seen.cast(pa.float64()), usual_value).to_numpy(), ()


if __name__ == "__main__":
    main(sys.argv[1])
