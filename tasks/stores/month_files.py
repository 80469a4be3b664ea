"""The data files of a table that is written anew: one Parquet file a month, by DuckDB itself.

By way of Arrow and Delta's own writer the same rows cost twice the CPU (docs/benchmarks.md, "Features"). Nobody reads
a file before it is committed. Relations have their rows in order of event_timestamp, and keep it.
"""

import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tasks.core.errors import LakeError
from tasks.stores.lake_sql import read_parquet

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from deltalake import DeltaTable, Schema
    from deltalake.transaction import AddAction, RemoveAction

MONTH = "event_month"  # the partition, derived from event_timestamp and not shown to readers
TIMES = ("event_timestamp", "created_timestamp")
STATISTICS_STEP = timedelta(milliseconds=1)  # Delta cuts the timestamps in its statistics to whole milliseconds


def put_in_order(
    connection: "duckdb.DuckDBPyConnection", rows: "pa.RecordBatchReader | pa.Table"
) -> "duckdb.DuckDBPyRelation":
    connection.register("incoming", rows)
    connection.execute("create temp table ordered as from incoming order by event_timestamp")
    return connection.table("ordered")


def delta_rows(
    connection: "duckdb.DuckDBPyConnection", rows: "duckdb.DuckDBPyRelation"
) -> "tuple[Schema, duckdb.DuckDBPyRelation]":
    """The schema of a table that takes the rows, and the rows as it has them: Delta knows no unsigned numbers, say.

    Raises:
        LakeError: a type that Delta has nothing like.
    """
    import pyarrow as pa
    from deltalake import Schema

    try:
        schema = Schema.from_arrow(rows.limit(0).to_arrow_table().schema)
    except Exception as error:  # deltalake names no class
        got = dict(zip(rows.columns, map(str, rows.types), strict=True))
        said = str(error).splitlines()[0]
        raise LakeError(f"the lake has no type like one of these: {said}", got=got, fix="cast it") from error
    kinds = connection.from_arrow(pa.schema(schema.to_arrow()).empty_table()).types
    if kinds != rows.types:
        casts = [f'"{name}"::{kind} as "{name}"' for name, kind in zip(rows.columns, kinds, strict=True)]
        rows = rows.project(", ".join(casts))
    return _with_month(schema), rows


def _with_month(schema: "Schema") -> "Schema":
    from deltalake import Field, Schema

    return Schema([*schema.fields, Field(MONTH, "string", nullable=True)])


# --- writing ----------------------------------------------------------------------------------------


def write_months(rows: "duckdb.DuckDBPyRelation", folder: str) -> "list[AddAction]":
    """Write the rows under the table's folder; what the commit has to say of each file."""
    files = [_write_month(rows, folder, month, following) for month, following in _months(rows)]
    if rows.filter("event_timestamp is null").limit(1).fetchall():
        files.append(_write(rows.filter("event_timestamp is null"), folder, None))
    return files


def cut_off(
    connection: "duckdb.DuckDBPyConnection", table: "DeltaTable", folder: str, start: datetime, columns: list[str]
) -> "list[AddAction | RemoveAction]":
    """Remove the files that reach `start`, and write again what they hold before it."""
    import pyarrow as pa

    files = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    first, last = "min.event_timestamp", "max.event_timestamp"
    reaching = [file for file in files if file.get(last) is None or file[last] + STATISTICS_STEP > start]
    kept = [f"{folder}/{unquote(file['path'])}" for file in reaching if file.get(first) is None or file[first] < start]
    actions: list[Any] = [_removal(file) for file in reaching]
    if kept:
        chosen = ", ".join(f'"{column}"' for column in columns)
        before = f"from {read_parquet(kept)} where event_timestamp < timestamptz '{start.isoformat()}'"
        connection.execute(f"create or replace temp table kept as select {chosen} {before} order by event_timestamp")
        actions += write_months(connection.table("kept"), folder)
    return actions


def _removal(file: dict[str, Any]) -> "RemoveAction":
    from deltalake.transaction import RemoveAction

    month = {MONTH: file[f"partition.{MONTH}"]}
    return RemoveAction(file["path"], True, _milliseconds(), size=file["size_bytes"], partition_values=month)


def _months(rows: "duckdb.DuckDBPyRelation") -> Iterator[tuple[datetime, datetime]]:
    """The months that have rows, each with the one after it. Of a table in order this reads next to nothing."""
    ((first,),) = rows.aggregate("min(event_timestamp)").fetchall()
    while first is not None:
        month = first.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        following = (month + timedelta(days=31)).replace(day=1)
        yield month, following
        later = f"event_timestamp >= timestamptz '{following.isoformat()}'"
        ((first,),) = rows.filter(later).aggregate("min(event_timestamp)").fetchall()


def _write_month(rows: "duckdb.DuckDBPyRelation", folder: str, month: datetime, following: datetime) -> "AddAction":
    begin, end = (f"timestamptz '{moment.isoformat()}'" for moment in (month, following))
    within = rows.filter(f"event_timestamp >= {begin} and event_timestamp < {end}")
    return _write(within, folder, f"{month:%Y-%m}")


def _write(rows: "duckdb.DuckDBPyRelation", folder: str, month: str | None) -> "AddAction":
    from deltalake.transaction import AddAction

    path = f"{MONTH}={month or '__HIVE_DEFAULT_PARTITION__'}/{uuid.uuid4()}.parquet"
    if "://" not in folder:
        Path(folder, path).parent.mkdir(parents=True, exist_ok=True)
    target = f"{folder}/{path}".replace("'", "''")
    written = rows.query("rows_", f"copy rows_ to '{target}' (format parquet, return_stats)")
    said = dict(zip(written.columns, written.fetchall()[0], strict=True))
    return AddAction(
        path=path,
        size=said["file_size_bytes"],
        partition_values={MONTH: month},
        modification_time=_milliseconds(),
        data_change=True,
        stats=_statistics(said["count"], said["column_statistics"]),
    )


def _statistics(rows: int, columns: dict[str, dict[str, str]]) -> str:
    known = {name: columns.get(f'"{name}"', {}) for name in TIMES}
    bounds = {
        theirs: {name: _cut(said[ours]) for name, said in known.items() if ours in said}
        for theirs, ours in (("minValues", "min"), ("maxValues", "max"))
    }
    nulls = {name: int(said["null_count"]) for name, said in known.items() if "null_count" in said}
    return json.dumps({"numRecords": rows, **bounds, "nullCount": nulls})


def _cut(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000
