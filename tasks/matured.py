"""The prediction log, and its rows whose labels have matured."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from configs.sections.gate import GateSection
from configs.sections.loop import MonitorSection
from tasks import home, joins
from tasks.core import model_rows
from tasks.core.predictions import CLASS, SCORE, VERSION
from tasks.core.records import TableRef, Window
from tasks.scoring import PREDICTIONS

if TYPE_CHECKING:
    import duckdb
    import numpy as np
    import pyarrow as pa

    from tasks.core.scorecards import GateRows, ScoredModel

CLASSES = "__classes"


def read_log(project: str, key: Sequence[str], version: int, window: Window) -> "pa.Table":
    """`event_timestamp` and `score` of each predicted row; of several classes a list, and their names."""
    with home.open_lake(project).connect({PREDICTIONS: None}) as connection:
        return connection.sql(
            _logged(key, version, window, SCORE, is_multiclass=_has_classes(connection))
        ).to_arrow_table()


def log_scores(log: "pa.Table") -> tuple["np.ndarray", tuple[str, ...]]:
    """Scores of `read_log`, (n,) or (n, classes), and the classes."""
    names = tuple(log[CLASSES][0].as_py()) if CLASSES in log.column_names and log.num_rows else ()
    return _matrix(log[SCORE], bool(names)), names


def read_matured(
    project: str, own: joins.ModelRows, versions: Sequence[int], window: Window, as_of: datetime, labels: TableRef
) -> "pa.Table":
    """Rows that every one of the versions predicted, with `prediction_time`, `label` as known at `as_of`, `score_<v>`.

    Rows are chosen by their prediction time, never by whether a label has arrived; the caller's window ends where
    labels have matured.
    """
    key, plan = own.table.key, joins.label_plan(own.label)
    keys = ", ".join(map(model_rows.quote, key))
    with home.open_lake(project).connect({PREDICTIONS: None, plan.table: labels.version}) as connection:
        several = _has_classes(connection)
        logs = [_logged(key, version, window, f"score_{version}", is_multiclass=several) for version in versions]
        joined = logs[0]
        for log, version in zip(logs[1:], versions[1:], strict=True):
            joined = f"select * from ({joined}) join (select {keys}, score_{version} from ({log})) using ({keys})"
        rows = model_rows.labelled_query(joined, key, plan, as_of)
        kind = model_rows.LABEL_TYPES[plan.kind]
        missing = "null" if plan.missing is None else f"'{plan.missing.replace(chr(39), chr(39) * 2)}'::{kind}"
        query = (
            f"select * replace (coalesce({model_rows.LABEL}::{kind}, {missing}) as {model_rows.LABEL})"
            f" rename ({model_rows.EVENT} as {model_rows.TIME}) from ({rows}) order by {model_rows.EVENT}, {keys}"
        )
        return connection.sql(f"from ({query}) where {model_rows.LABEL} is not null").to_arrow_table()


def scored_models(
    rows: "pa.Table", own: joins.ModelRows, gate: GateSection, versions: Sequence[int], window: Window
) -> list["ScoredModel"]:
    """The versions on the rows of `read_matured`."""
    from tasks.core.quality import plain
    from tasks.core.scorecards import ScoredModel

    names = rows[CLASSES][0].as_py() if CLASSES in rows.column_names and rows.num_rows else []
    on = plain(matured_rows(rows, own, gate, window, names))
    return [ScoredModel(f"version {v}", on, _matrix(rows[f"score_{v}"], bool(names)), v) for v in versions]


def matured_rows(
    rows: "pa.Table", own: joins.ModelRows, gate: GateSection, window: Window, classes: Sequence[str]
) -> "GateRows":
    """The rows as the gate's engine takes them, clustered as in the gate where the entity is at hand."""
    from tasks.core.gate_rows import gate_rows

    has_entity = gate.entity in own.table.key
    clusters = gate.clusters if has_entity or "entity" not in gate.clusters else "day"
    return gate_rows(
        rows, own.label.kind, window, clusters=clusters, entity=gate.entity if has_entity else None,
        serial=gate.serial, classes=classes,
    )  # fmt: skip


def effect_window(monitor: MonitorSection, made_at: datetime) -> Window:
    """The rows on which a champion and the one before it are compared."""
    return Window(start=made_at, end=made_at + monitor.effect_after)


def _logged(key: Sequence[str], version: int, window: Window, score: str, *, is_multiclass: bool) -> str:
    keys = ", ".join(map(model_rows.quote, key))
    where = (
        f"{VERSION} = {version} and {model_rows.EVENT} >= {model_rows.literal(window.start)}"
        f" and {model_rows.EVENT} < {model_rows.literal(window.end)}"
    )
    if not is_multiclass:
        return f"select {keys}, {model_rows.EVENT}, {SCORE} as {score} from {PREDICTIONS} where {where}"
    lists = f"list({SCORE} order by {CLASS}) as {score}, list({CLASS} order by {CLASS}) as {CLASSES}"
    by = f"{keys}, {model_rows.EVENT}"
    return f"select {by}, {lists} from {PREDICTIONS} where {where} group by {by}"


def _has_classes(connection: "duckdb.DuckDBPyConnection") -> bool:
    return CLASS in joins.column_types(connection, f"select * from {PREDICTIONS}")


def _matrix(column: "pa.ChunkedArray", is_multiclass: bool) -> "np.ndarray":
    import numpy as np

    return np.asarray(column.to_pylist()) if is_multiclass else column.to_numpy()
