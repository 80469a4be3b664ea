"""Insert into a table of the lake: the rows that are not there yet, in one commit, see `Lake.insert`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from tasks.core.errors import LakeError
from tasks.core.records import TableRef
from tasks.stores.lake_commit import CONFIGURATION, OvertakenError, committing, writing
from tasks.stores.lake_sql import DIGEST_RANGE, ROW_HASHES, describe, iso, read_parquet
from tasks.stores.month_files import MONTH, STATISTICS_STEP, TIMES
from tasks.stores.repeats import may_repeat

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from deltalake import DeltaTable

    from tasks.stores.lake import Lake

_ATTEMPTS = 5
_BATCH_ROWS = 100_000
_PARTITIONED = f"select *, strftime(event_timestamp, '%Y-%m') as {MONTH} from {{}} order by event_timestamp"


def insert(
    lake: "Lake", name: str, parquet_uri: str, key: Sequence[str], properties: Mapping[str, str]
) -> tuple[TableRef, int]:
    with writing(lake, name), lake.session() as connection:
        connection.execute(f"create temp view staged as select * from {read_parquet([parquet_uri])}")
        for _ in range(_ATTEMPTS):
            try:
                return _insert_staged(lake, connection, name, key, properties)
            except OvertakenError as error:
                overtaken = error
        raise LakeError(
            f"table {name!r} is being changed by others, {_ATTEMPTS} times while this insert was made",
            got=overtaken, expected="one writer at a time", fix="run it again; nothing was written",
        )  # fmt: skip


def _insert_staged(
    lake: "Lake", connection: "duckdb.DuckDBPyConnection", name: str, key: Sequence[str], properties: Mapping[str, str]
) -> tuple[TableRef, int]:
    table = lake.open(name) if lake.exists(name) else None
    _check_staged(lake, connection, name, table)
    connection.execute(f"create or replace temp table fresh as {_fresh_sql(lake, connection, name, table, key)}")
    facts = _facts(connection)
    total = int(facts.pop("hash"))
    if table is not None and facts["inserted_rows"] == "0":
        return lake.ref_of(name, table), 0
    before = _said_by_insert(lake, name, table)
    digest = (total + int(before.get("digest", "0"), 16)) % DIGEST_RANGE
    events = [datetime.fromisoformat(said["max_event"]) for said in (before, facts) if "max_event" in said]
    facts |= {"max_event": iso(max(events))} if events else {}
    rows = connection.sql(_PARTITIONED.format("fresh")).to_arrow_reader(_BATCH_ROWS)
    _commit(lake, name, table, rows, {**properties, **facts, "digest": f"{digest:016x}"})
    return lake.latest(name), int(facts["inserted_rows"])


def _check_staged(lake: "Lake", connection: "duckdb.DuckDBPyConnection", name: str, table: "DeltaTable | None") -> None:
    staged = describe(connection, "staged")
    if wrong := {column: staged.get(column) for column in TIMES if "WITH TIME ZONE" not in staged.get(column, "")}:
        raise LakeError(f"rows for table {name!r} lack a time", got=wrong, expected="both as TIMESTAMP WITH TIME ZONE")
    missing = connection.execute(f"select count(*) from staged where {' or '.join(f'{t} is null' for t in TIMES)}")
    if rows := missing.fetchall()[0][0]:
        raise LakeError(f"{rows:,} rows for table {name!r} have no time", expected=f"values in {list(TIMES)}")
    if table is not None and staged != (known := dict(lake.columns(connection, table))):
        raise LakeError(
            f"rows for table {name!r} have other columns than the table", got=staged, expected=known,
            fix="keep columns and types of a published table; a new shape is a new table",
        )  # fmt: skip


def _fresh_sql(
    lake: "Lake", connection: "duckdb.DuckDBPyConnection", name: str, table: "DeltaTable | None", key: Sequence[str]
) -> str:
    named = [f'"{column}"' for column in (*key, *TIMES)]
    identity = ", ".join(named)
    columns = "*" if table is None else ", ".join(f'"{column}"' for column, _ in lake.columns(connection, table))
    once = f"select {columns} from staged"
    if may_repeat(connection, "staged", named):
        once += f" qualify row_number() over (partition by {identity} order by hash(staged)) = 1"
    existing = None if table is None else _overlapping(lake, connection, name, table)
    if not existing:
        return once
    same = " and ".join(f'old."{column}" is not distinct from new."{column}"' for column in (*key, *TIMES))
    there = f"select {identity} from {existing}"
    return f"select new.* from ({once}) new where not exists (from ({there}) old where {same})"


def _overlapping(lake: "Lake", connection: "duckdb.DuckDBPyConnection", name: str, table: "DeltaTable") -> str | None:
    """SQL of the rows that have event times within the batch's, if there are files with any.

    One day into a large table reads that day only: Delta's log knows the times of each file, a file those of each
    of its row groups.
    """
    first, last = connection.execute("select min(event_timestamp), max(event_timestamp) from staged").fetchall()[0]
    if first is None:
        return None
    files = [
        path
        for path, low, high in lake.data_files(name, table)
        if low is None or high is None or (low <= last and first < high + STATISTICS_STEP)
    ]
    spanned = f"event_timestamp between timestamptz '{iso(first)}' and timestamptz '{iso(last)}'"
    return f"{read_parquet(files)} where {spanned}" if files else None


def _said_by_insert(lake: "Lake", name: str, table: "DeltaTable | None") -> dict[str, str]:
    if table is None:
        return {}
    said = lake.said(name, table.version())
    if "inserted_rows" not in said:
        raise LakeError(
            f"the newest version of table {name!r} was not written by an insert", got=said or "nothing said of it",
            expected="a table that is only inserted into, since its digest sums its rows",
        )  # fmt: skip
    return said


def _facts(connection: "duckdb.DuckDBPyConnection") -> dict[str, str]:
    """What a commit says of its rows; `hash` is a sum of row hashes, so that order and split do not matter."""
    rows, first, last, newest, total = connection.execute(
        "select count(*), min(created_timestamp), max(created_timestamp), max(event_timestamp), "
        f"{ROW_HASHES} from fresh"
    ).fetchall()[0]
    facts = {"inserted_rows": str(rows), "hash": str(total)}
    moments = {"min_created": first, "max_created": last, "max_event": newest}
    return facts | {name: iso(moment) for name, moment in moments.items() if moment is not None}


def _commit(
    lake: "Lake", name: str, table: "DeltaTable | None", rows: "pa.RecordBatchReader", said: Mapping[str, str]
) -> None:
    from deltalake import write_deltalake

    with committing(lake, name, table, said) as facts:
        if table is None:
            write_deltalake(
                lake.at(name), rows, mode="error", partition_by=[MONTH], configuration=CONFIGURATION,
                commit_properties=facts,
            )  # fmt: skip
        else:
            write_deltalake(table, rows, mode="append", commit_properties=facts)
