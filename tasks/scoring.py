"""Scoring: a registered model's predictions for the entity rows of a window, appended to the prediction log."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task

from configs.settings import load_settings
from tasks import home, joins
from tasks.account import Step, logger, step
from tasks.core.arrow_files import appearing
from tasks.core.errors import FeatureError, ModelError
from tasks.core.predictions import log_key, log_lines
from tasks.core.records import Contender, Inputs, ModelRef, PredictionsRef, TableRef, Window, digest
from tasks.events import announce_slow
from tasks.leftovers import discard, unfinished_folder

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.core.latency import Latency
    from tasks.stores.served_model import ServedModel

PREDICTIONS = "predictions"


@task(task_run_name="score window")
def score_window(
    project: str, model: ModelRef, window: Window, as_of: datetime, tables: tuple[TableRef, ...]
) -> PredictionsRef:
    """Predict every entity row whose prediction time is in the window, with features as known at that time.

    Rows, inputs and feature service are those of the recipe that the model was trained by. `tables` are the versions
    to read: entity rows, and the feature tables of that service. What is in the log stays as it is: again, or with an
    overlapping window, only what is missing is added.

    Raises:
        FeatureError: the window reaches beyond `as_of`, or a feature table is missing.
        ModelError: the model reads inputs that its recipe does not make, or gives scores that are not finite.
    """
    if window.end > as_of:
        raise FeatureError(
            "a window that is not over cannot be scored", got=window.end, expected=f"an end until as_of {as_of}"
        )
    folder = load_settings().folder("staging", project) / PREDICTIONS / digest([model, window, as_of, tables])
    with step("score", f"{project} v{model.version}") as line, unfinished_folder(folder):
        staged = folder / "rows.parquet"
        key, rows, speed = _predict(project, model, window, as_of, tables, staged, line)
        properties = {"model_version": str(model.version), "window_end": window.end.isoformat(), **speed}
        table, inserted = home.open_lake(project).insert(PREDICTIONS, str(staged), key=key, properties=properties)
        discard(folder)  # what is in the log needs no staging
        line.note(f"{rows:,} rows")
        line.note(f"{inserted:,} new predictions")
    return PredictionsRef(table=table, window=window, rows=rows, inserted_rows=inserted, model=model)


def unscored_window(project: str, model: Contender, as_of: datetime) -> Window:
    """From where the model's predictions end, or from its own moment, until `as_of`."""
    lake, ends = home.open_lake(project), [model.as_of]
    if lake.exists(PREDICTIONS) and model.ref is not None:
        said = [commit.properties for commit in lake.commits(PREDICTIONS)]
        mine = [one for one in said if one.get("model_version") == str(model.ref.version)]
        ends += [datetime.fromisoformat(one["window_end"]) for one in mine]
    return Window(start=min(max(ends), as_of), end=as_of)


def _predict(
    project: str, model: ModelRef, window: Window, as_of: datetime, tables: tuple[TableRef, ...], path: Path, line: Step
) -> tuple[tuple[str, ...], int, dict[str, str]]:
    """Stage the predictions as one Parquet file; the log's key, the number of entity rows, and how fast it was."""
    own, served = joins.read_model_rows(project, model), home.open_registry(project).load(model)
    with joins.join_model_rows(project, model, own, window, as_of, tables) as joined:
        inputs = _inputs(served, joined.made, joined.plan.reader)
        rows, latency = _write(joined.read(inputs), served, inputs, own.table.key, model.version, path, line)
    return (
        log_key(own.table.key, _classes(served)),
        rows,
        _tell_speed(project, model, latency, own.max_latency_ms, line),
    )


def _write(
    reader: "pa.RecordBatchReader", served: "ServedModel", inputs: Inputs, key: tuple[str, ...], version: int,
    path: Path, line: Step,
) -> "tuple[int, Latency | None]":  # fmt: skip
    """Predict batch by batch into a Parquet file; the number of entity rows, and the latency on some of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def lines(rows: pa.Table) -> pa.Table:
        scores = served.predict(rows)
        return log_lines(rows, scores, key=key, inputs=inputs, classes=_classes(served), version=version)

    from tasks.core.latency import measure_latency

    done, latency = 0, None
    with appearing(path) as unfinished, pq.ParquetWriter(unfinished, lines(reader.schema.empty_table()).schema) as log:
        for batch in reader:
            rows = pa.Table.from_batches([batch])
            log.write_table(lines(rows))
            latency = latency or (measure_latency(served.predict, rows) if rows.num_rows else None)
            done += batch.num_rows
            line.progress(f"{done:,} rows")
    return done, latency


def _tell_speed(
    project: str, model: ModelRef, latency: "Latency | None", limit_ms: float | None, line: Step
) -> dict[str, str]:
    """What the log keeps of how fast the model was; slower than its gate allowed, that is told too."""
    if latency is None:
        return {}
    line.note(latency.told)
    if latency.is_over(limit_ms):
        told = f"too slow: {latency.told}, where its gate allows {limit_ms:g} ms"
        logger.warning("%-10s %-22s %s", "score", f"{project} v{model.version}", told)
        announce_slow(project, model.version, told)
    return {"latency_one_ms": f"{latency.one_ms:.4g}", "latency_one_p99_ms": f"{latency.one_p99_ms:.4g}"}


def _classes(served: "ServedModel") -> tuple[str, ...]:
    return tuple(map(str, served.classes)) if served.label_kind == "multiclass" else ()


def _inputs(served: "ServedModel", made: Inputs, reader: str) -> Inputs:
    """The model's own inputs.

    Raises:
        ModelError: one that is not made, or is made as another kind.
    """
    inputs = Inputs(numeric=tuple(served.inputs.numeric), categorical=tuple(served.inputs.categorical))
    wrong = sorted({*inputs.numeric} - {*made.numeric} | {*inputs.categorical} - {*made.categorical})
    if wrong:
        raise ModelError(f"{reader} reads inputs that its recipe does not make", got=wrong, expected=made.to_dict())
    return inputs
