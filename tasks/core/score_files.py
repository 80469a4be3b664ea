"""Scores on disk, as Arrow: what was predicted for each judged row, and the baseline's scores to be used again."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.core.gate_rows import encode_label
from tasks.core.metrics import Floats
from tasks.core.owners import unfinished
from tasks.core.scorecards import ScoredModel

SCORE = "score_"  # before a model's name, a column of its scores


def write_scores(path: Path, scores: Floats, classes: tuple[Any, ...]) -> None:
    schema_metadata = {"classes": json.dumps(classes)}
    write_arrow(path, pa.table({"scores": score_column(scores)}).replace_schema_metadata(schema_metadata))


def read_scores(path: Path) -> tuple[Floats, tuple[Any, ...]]:
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
        classes = tuple(json.loads(table.schema.metadata[b"classes"]))
        return _scores(table["scores"], len(classes)).copy(), classes


def write_predictions(path: Path, table: pa.Table, models: Mapping[str, ScoredModel]) -> None:
    """prediction_time, label, the columns of the slices, and a column of scores for each model."""
    rows = next(iter(models.values())).rows
    slices = [name for name in rows.slices if name not in ("prediction_time", "label")]
    kept = table.select(["prediction_time", "label", *slices])
    for name, model in models.items():
        kept = kept.append_column(SCORE + name, score_column(model.scores))
    write_arrow(path, kept.replace_schema_metadata({"classes": json.dumps(rows.classes)}))


def read_predictions(path: Path, kind: str, models: Iterable[str]) -> tuple[Floats, dict[str, Floats]]:
    """The label (n,), see `encode_label`, and the models' scores, (n,) or (n, classes), by their names."""
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
        classes = json.loads(table.schema.metadata[b"classes"])
        scores = {name: _scores(table[SCORE + name], len(classes)).copy() for name in models}
        return encode_label(table["label"], kind, classes), scores


def score_column(scores: Floats) -> pa.Array:
    """(n,) as numbers, (n, classes) as lists of a fixed size."""
    if scores.ndim == 1:
        return pa.array(scores)
    return pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), scores.shape[1])


def _scores(column: pa.ChunkedArray, num_classes: int) -> Floats:
    """The inverse of `score_column`."""
    whole = column.combine_chunks()
    flat: Floats = (whole.flatten() if num_classes else whole).to_numpy()
    return flat.reshape(-1, num_classes) if num_classes else flat


def write_arrow(path: Path, table: pa.Table) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    temporary.replace(path)
