"""Replace a tail of a table of the lake, or all of it, in one commit, see `Lake.replace`."""

from collections.abc import Mapping
from contextlib import nullcontext
from datetime import datetime
from typing import TYPE_CHECKING

from tasks.core.errors import LakeError
from tasks.core.records import TableRef
from tasks.stores.lake_commit import CONFIGURATION, OvertakenError, committing, writing
from tasks.stores.month_files import MONTH, cut_off, delta_rows, put_in_order, write_months

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from deltalake import DeltaTable

    from tasks.stores.lake import Lake


def replace(
    lake: "Lake",
    name: str,
    source: "pa.RecordBatchReader | pa.Table | duckdb.DuckDBPyRelation",
    start: datetime | None,
    properties: Mapping[str, str],
    connection: "duckdb.DuckDBPyConnection | None",
) -> TableRef:
    import duckdb

    with writing(lake, name), nullcontext(connection) if connection else lake.session() as connection:
        rows = source if isinstance(source, duckdb.DuckDBPyRelation) else put_in_order(connection, source)
        try:
            _put_in_place(lake, name, connection, rows, start, properties)
        except OvertakenError as error:
            raise LakeError(
                f"table {name!r} was changed by another writer at the same moment", got=error,
                expected="one writer at a time", fix="run it again; nothing was written",
            ) from error  # fmt: skip
        return lake.latest(name)


def _put_in_place(
    lake: "Lake",
    name: str,
    connection: "duckdb.DuckDBPyConnection",
    rows: "duckdb.DuckDBPyRelation",
    start: datetime | None,
    said: Mapping[str, str],
) -> None:
    from deltalake.transaction import create_table_with_add_actions

    table = lake.open(name) if lake.exists(name) else None
    with committing(lake, name, table, said) as facts:
        schema, rows = delta_rows(connection, rows)
        _check_rows(lake, connection, name, rows, table if start else None, start)
        actions = write_months(rows, lake.at(name))
        if table is None:
            create_table_with_add_actions(
                lake.at(name), schema, actions, mode="error", partition_by=[MONTH], configuration=CONFIGURATION,
                commit_properties=facts,
            )  # fmt: skip
            return
        if start is not None:
            actions += cut_off(connection, table, lake.at(name), start, rows.columns)
        mode = "overwrite" if start is None else "append"
        table.create_write_transaction(actions, mode, schema, [MONTH], commit_properties=facts)


def _check_rows(
    lake: "Lake",
    connection: "duckdb.DuckDBPyConnection",
    name: str,
    rows: "duckdb.DuckDBPyRelation",
    table: "DeltaTable | None",
    start: datetime | None,
) -> None:
    """Refuse, into a table that keeps its earlier rows, rows without an event time and other columns than its."""
    number, timed, first = rows.aggregate("count(*), count(event_timestamp), min(event_timestamp)").fetchall()[0]
    if table is None:
        return
    if number > timed:
        raise LakeError(f"{number - timed:,} rows for table {name!r} have no event_timestamp")
    got, known = dict(zip(rows.columns, map(str, rows.types), strict=True)), dict(lake.columns(connection, table))
    if got != known:
        raise LakeError(f"table {name!r} cannot take these rows", got=got, expected=known)
    if first is not None and start is not None and first < start:
        raise LakeError(
            f"table {name!r} cannot take these rows", got=f"one of {first}", expected=f"none before {start}"
        )
