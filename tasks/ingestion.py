"""Ingestion: new rows of a source are staged as Parquet; what validation lets through is published to the lake."""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from prefect import task

from configs.sections.data import TableSection
from configs.settings import load_settings
from tasks.account import step
from tasks.core.errors import LakeError, PerennialError, SourceError
from tasks.core.expressions import refuse_statements
from tasks.core.records import BatchRef, PublishedBatch, ValidatedBatch, Window, digest
from tasks.home import open_lake
from tasks.leftovers import discard, unfinished_folder
from tasks.unpacking import shared_places

if TYPE_CHECKING:
    import duckdb

    from tasks.stores.lake import Lake

POLL_SECONDS = 0.1


@contextmanager
def ingesting(project: str, name: str, wait_seconds: float = 600) -> Iterator[None]:
    """Be the only run that stages, validates and publishes a table: two of one moment would share what is staged.

    The kernel ties it to the process, so that a dead run keeps nobody waiting.

    Raises:
        LakeError: another run is at it, still after `wait_seconds`.
    """
    path, deadline = load_settings().folder("locks", project) / f"{name}.lock", time.monotonic() + wait_seconds
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        while not _is_locked(file):
            if time.monotonic() > deadline:
                raise LakeError(
                    f"another run is ingesting table {name!r} of {project!r}", got=f"{path} is held",
                    expected=f"it to be free within {wait_seconds:g} s", fix="wait until that run has ended, or end it",
                )  # fmt: skip
            time.sleep(POLL_SECONDS)
        yield


def _is_locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _may_pass(task: object, run: object, state: object) -> bool:
    """Whether trying again may help: not where the error says what to mend."""
    from tasks.stores.source_files import UnreachableError

    error = getattr(state, "data", None)
    return isinstance(error, UnreachableError) or not isinstance(error, PerennialError)


@task(task_run_name="ingest {name}", retries=2, retry_delay_seconds=[2, 10], retry_condition_fn=_may_pass)
def stage_table(project: str, name: str, table: TableSection, start: datetime, as_of: datetime) -> BatchRef:
    """Read the rows of a table that became known since the last ingest, and stage them as one Parquet file.

    Raises:
        SourceError: the source cannot be read, or lacks what the recipe's expressions need.
    """
    with step("ingest", name) as line:
        lake = open_lake(project)
        window = ingest_window(lake, name, table, start, as_of)
        batch_id = digest([project, name, table.model_dump(mode="json"), window, as_of])
        folder = load_settings().folder("staging", project) / name / batch_id
        with unfinished_folder(folder), lake.session(own=True) as connection:
            rows = _stage(connection, name, table, window, as_of, folder)
        line.note(f"{rows:,} rows read")
    uri = str(folder / "rows.parquet")
    return BatchRef(project=project, table=name, batch_id=batch_id, uri=uri, rows=rows, window=window, as_of=as_of)


@task(task_run_name="publish {validated.batch.table}")
def publish_batch(validated: ValidatedBatch, table: TableSection) -> PublishedBatch:
    """Insert a validated batch into its lake table in one commit. Again, it inserts nothing."""
    batch = validated.batch
    with step("publish", batch.table) as line:
        properties = {"batch_id": batch.batch_id, "as_of": batch.as_of.isoformat()}
        ref, inserted = open_lake(batch.project).insert(
            batch.table, validated.uri, key=table.key, properties=properties
        )
        discard(Path(batch.uri).parent)
        line.note(f"{inserted:,} new rows")
        line.note(f"{ref.rows:,} in version {ref.version}")
    return PublishedBatch(table=ref, inserted_rows=inserted, quarantined_rows=validated.quarantined_rows)


def ingest_window(lake: "Lake", name: str, table: TableSection, start: datetime, as_of: datetime) -> Window:
    """From where the last ingest ended, less the lookback for late rows, to as far ahead as is known.

    The last ingest ended at its newest event where the source was behind, at its `as_of` where the table reaches ahead.
    """
    moments = [as_of]
    if lake.exists(name):
        newest = lake.commits(name, after=lake.latest(name).version - 1)[-1].properties
        moments += [datetime.fromisoformat(newest[mark]) for mark in ("max_event", "as_of") if mark in newest]
    since = start if len(moments) == 1 else max(start, min(moments) - table.lookback)
    return Window(start=since, end=as_of + table.ahead)


def _stage(
    connection: "duckdb.DuckDBPyConnection",
    name: str,
    table: TableSection,
    window: Window,
    as_of: datetime,
    folder: Path,
) -> int:
    """Stream the table's SELECT over its sources into `folder/rows.parquet`; returns the number of rows."""
    import duckdb

    from tasks.stores.confined import confine
    from tasks.stores.sources import register_source

    refuse_statements(_sql_parts(name, table))
    unpacked, staged, unfinished = folder / "source", folder / "rows.parquet", folder / ".rows.parquet"
    query = select_rows(table)
    moments = {"start": window.start, "end": window.end, "as_of": as_of}
    asked = {moment: value for moment, value in moments.items() if f"${moment}" in query}
    bounds = {"start": window.start, "end": window.end, "roots": load_settings().source_folders}
    places = {"scratch": unpacked, "shared": shared_places()}
    try:
        files = [
            file
            for relation, source in {"source": table.source, **table.lookups}.items()
            for file in register_source(connection, relation, source, **places, **bounds)
        ]
        confine(connection, files=files, folders=[str(folder)])
        try:
            counted = connection.execute(f"copy ({query}) to '{_quoted(unfinished)}' (format parquet)", asked)
            rows = int(counted.fetchall()[0][0])
        except duckdb.Error as error:
            raise _explain(connection, name, table, error) from error
        unfinished.replace(staged)
        return rows
    finally:
        unfinished.unlink(missing_ok=True)
        shutil.rmtree(unpacked, ignore_errors=True)


def select_rows(table: TableSection) -> str:
    """The table as one SELECT, with $start, $end and $as_of.

    Rows without a time, and rows that are known before they happen, are kept: validation quarantines them with a
    reason, rather than that they vanish here.
    """
    columns = ",\n  ".join(f'({expression}) as "{column}"' for column, expression in _expressions(table).items())
    # A timetable reaches ahead, and as far as it is asked for; anything else that lies in the future is a fault.
    until = "and event_timestamp < $end" if table.ahead else ""
    return f"""
select * from (
  select {columns}
  from {table.relation} where {table.where}
) where (event_timestamp is null or (event_timestamp >= $start {until}))
  and (created_timestamp is null or created_timestamp <= $as_of)
order by event_timestamp"""


def _sql_parts(name: str, table: TableSection) -> dict[str, str]:
    """Everything in the section that becomes a part of its SELECT, by its place in the recipe."""
    parts = {f"tables.{name}.columns.{column}": text for column, text in table.columns.items()}
    times = {"event_timestamp": table.event_timestamp, "created_timestamp": table.created_timestamp}
    parts |= {f"tables.{name}.{part}": text for part, text in (times | {"where": table.where}).items()}
    return parts | {f"tables.{name}.relation": f"from {table.relation}"}


def _expressions(table: TableSection) -> dict[str, str]:
    times = {"event_timestamp": table.event_timestamp, "created_timestamp": table.created_timestamp}
    return {**table.columns, **{name: f"({expression})::timestamptz" for name, expression in times.items()}}


def _explain(connection: "duckdb.DuckDBPyConnection", name: str, table: TableSection, error: Exception) -> SourceError:
    """Say in the recipe's words what DuckDB found."""
    import duckdb

    from tasks.stores.source_files import describe, explain

    said, fix = explain(error), f"correct tables.{name} in the recipe, or the source"
    try:
        found = {relation: list(describe(connection, relation)) for relation in ("source", *table.lookups)}
        if connection.sql("select count(*) from source").fetchall()[0][0] == 0:
            return SourceError(f"the source of table {name!r} has no rows", got=said, expected="at least one row")
    except duckdb.Error:
        return SourceError(f"the source of table {name!r} cannot be read", got=said, expected="whole files", fix=fix)
    if isinstance(error, duckdb.BinderException) and "not found" in said:
        listed = "; ".join(f"{relation} has {columns}" for relation, columns in found.items())
        return SourceError(f"table {name!r} asks for a column that is not there", got=said, expected=listed, fix=fix)
    where, wrong = _culprit(connection, table) or ("an expression", said)
    what = f"{where} of table {name!r} does not fit the source"
    return SourceError(what, got=wrong, expected="values of the type that the recipe asks for", fix=fix)


def _culprit(connection: "duckdb.DuckDBPyConnection", table: TableSection) -> tuple[str, str] | None:
    """The expression that fails by itself, and what DuckDB says of it."""
    import duckdb

    from tasks.stores.source_files import explain

    parts = {f"column {name!r} = {text}": text for name, text in _expressions(table).items()}
    for part, text in ({f"where = {table.where}": table.where} | parts).items():
        rows = f"from {table.relation} where {table.where}" if part[:5] != "where" else f"from {table.relation}"
        try:
            connection.execute(f"select count(({text})) {rows}").fetchall()
        except duckdb.Error as error:
            return part, explain(error)
    return None


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
