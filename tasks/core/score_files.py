"""Scores on disk, as Arrow: what was predicted for each judged row, and the baseline's scores to be used again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.core.metrics import Floats
from tasks.core.owners import unfinished
from tasks.core.scorecards import ScoredModel


def write_scores(path: Path, scores: Floats, classes: tuple[Any, ...]) -> None:
    schema_metadata = {"classes": json.dumps(classes)}
    write_arrow(path, pa.table({"scores": score_column(scores)}).replace_schema_metadata(schema_metadata))


def read_scores(path: Path) -> tuple[Floats, tuple[Any, ...]]:
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
        column, classes = table["scores"].combine_chunks(), tuple(json.loads(table.schema.metadata[b"classes"]))
        scores = column.flatten().to_numpy().reshape(-1, len(classes)) if classes else column.to_numpy()
        return scores.copy(), classes


def write_predictions(path: Path, table: pa.Table, models: Mapping[str, ScoredModel]) -> None:
    """prediction_time, label, the columns of the slices, and a column of scores for each model."""
    slices = [name for name in next(iter(models.values())).rows.slices if name not in ("prediction_time", "label")]
    kept = table.select(["prediction_time", "label", *slices])
    for name, model in models.items():
        kept = kept.append_column(f"score_{name}", score_column(model.scores))
    write_arrow(path, kept)


def score_column(scores: Floats) -> pa.Array:
    """(n,) as numbers, (n, classes) as lists of a fixed size."""
    if scores.ndim == 1:
        return pa.array(scores)
    return pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), scores.shape[1])


def write_arrow(path: Path, table: pa.Table) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    temporary.replace(path)
