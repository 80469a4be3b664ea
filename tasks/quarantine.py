"""Quarantine: rows that were put aside, tried again once they or the suite have been mended."""

import shutil
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task

from configs.sections.data import TableSection
from configs.settings import load_settings
from tasks.account import step
from tasks.core.errors import ValidationError
from tasks.core.records import BatchRef, PublishedBatch, ValidatedBatch, Window
from tasks.home import open_lake
from tasks.ingestion import publish_batch
from tasks.stores.row_rules import judge_rows, row_rules, write_clean, write_quarantine
from tasks.stores.suite_sql import parquet_rows
from tasks.validation import contradictions, standing_rules, table_suite

if TYPE_CHECKING:
    import duckdb

    from tasks.stores.lake import Lake


@task
def replay_quarantine(project: str, name: str, table: TableSection, as_of: datetime) -> list[PublishedBatch]:
    """Try quarantined rows again, after they or the suite were mended, and publish those that pass now.

    Rows that still fail stay where they are, with their reasons. Only rules for rows are tried: what a suite says of a
    whole batch means nothing for the few rows that were put aside. Running it again changes nothing.

    Raises:
        ValidationError: a file that was mended into something that cannot be read, or into contradicting rows.
    """
    folder = load_settings().folder("quarantine", project) / name
    files = sorted(file for file in folder.glob("*.parquet") if not file.name.startswith("."))
    published = [_replay(project, name, table, as_of, file) for file in files]
    return [batch for batch in published if batch is not None]


def _replay(project: str, name: str, table: TableSection, as_of: datetime, file: Path) -> PublishedBatch | None:
    lake, clean = open_lake(project), _staged(project, name, file)
    with step("replay", name) as line, lake.session() as connection:
        rows = _read(connection, lake, name, table, file)
        if doubled := contradictions(connection, rows, table):
            raise ValidationError(f"{doubled:,} keys in {file} come with different rows", fix="keep one row of each")
        suite = table_suite(project, name)
        judged = judge_rows(connection, rows, [*standing_rules(table, as_of), *row_rules(suite)])
        line.note(f"{judged.rows:,} of {judged.rows + judged.failing_rows:,} rows pass now")
        published = None
        if judged.rows:
            write_clean(connection, clean, judged)
            batch = BatchRef(
                project=project, table=name, batch_id=file.stem, uri=str(clean), rows=judged.rows,
                window=Window(start=as_of, end=as_of), as_of=as_of,
            )  # fmt: skip
            validated = ValidatedBatch(
                batch=batch, uri=str(clean), rows=judged.rows, quarantined_rows=judged.failing_rows,
                quarantine_uri=str(file), docs_uri="", num_expectations=len(suite.expectations), findings=(),
            )  # fmt: skip
            published = publish_batch.fn(validated, table)
        # Last: what a kill leaves here is only tried once more.
        write_quarantine(connection, file, judged)
    return published


def _staged(project: str, name: str, file: Path) -> Path:
    folder = load_settings().folder("staging", project) / name / f"{file.stem}-replay"
    shutil.rmtree(folder, ignore_errors=True)
    return folder / "clean.parquet"


def _read(connection: "duckdb.DuckDBPyConnection", lake: "Lake", name: str, table: TableSection, file: Path) -> str:
    """The file's rows as a relation, in the table's types, which a mended file may have lost."""
    import duckdb

    columns = (*table.columns, "event_timestamp", "created_timestamp")
    types: dict[str, str] = {}
    if lake.exists(name):
        described = connection.execute(f"describe from {lake.scan(name)}").fetchall()
        types = {column: f"::{kind}" for column, kind, *_ in described}
    typed = ", ".join(f'"{column}"{types.get(column, "")} as "{column}"' for column in columns)
    source = parquet_rows(str(file))
    try:
        connection.execute(f"create or replace temp table mended as select {typed} from {source}")
    except duckdb.Error as error:
        raise ValidationError(
            f"quarantined rows {file} cannot be read", got=str(error).splitlines()[0], expected=f"columns {columns}"
        ) from error
    return "mended"
