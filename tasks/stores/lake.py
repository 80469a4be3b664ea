"""The lake: Delta tables, written by insert or by replacement of a tail, read by DuckDB at any version.

Every row has `event_timestamp` (when it happened) and `created_timestamp` (when it could be known). DuckDB's own Delta
extension is a download, so DuckDB is handed the file list of a Delta version. Nothing is ever vacuumed: a version
number is a data version.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tasks.core.errors import LakeError
from tasks.core.records import TableRef
from tasks.stores.month_files import (
    MONTH,
    STATISTICS_STEP,
    TIMES,
    cut_off,
    delta_rows,
    put_in_order,
    write_months,
)

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from deltalake import CommitProperties, DeltaTable


_CONFIGURATION = {
    # Without it only the first 32 columns have statistics, and an insert would have to read every file.
    "delta.dataSkippingStatsColumns": ",".join(TIMES),
    # The log is the history of what was ingested, and the way back to every version; it is kept.
    "delta.enableExpiredLogCleanup": "false",
}
_VENDOR_FACTS = {
    "timestamp", "operation", "operationParameters", "operationMetrics", "engineInfo", "clientVersion", "readVersion",
    "isolationLevel", "isBlindAppend",
}  # fmt: skip
_DIGEST_RANGE = 2**64
_ROW_HASHES = f"coalesce(sum(hash(fresh)::hugeint) % {_DIGEST_RANGE}::hugeint, 0)"
_ATTEMPTS = 5
_BATCH_ROWS = 100_000
_PARTITIONED = f"select *, strftime(event_timestamp, '%Y-%m') as {MONTH} from {{}} order by event_timestamp"


@dataclass(frozen=True, slots=True)
class Commit:
    """One version and what its writer said of it; values are strings."""

    version: int
    properties: dict[str, str]


class Lake:
    """The Delta tables of one project, under one URI; `borrowed` ones lie elsewhere (name -> URI) and are only read."""

    def __init__(
        self,
        uri: str,
        *,
        memory_limit: str = "4GB",
        threads: int = 0,
        scratch: str | None = None,
        borrowed: Mapping[str, str] | None = None,
    ) -> None:
        self.uri, self.memory_limit, self.threads = uri.rstrip("/"), memory_limit, threads
        self.scratch, self.borrowed = scratch, dict(borrowed or {})

    # --- reading ---------------------------------------------------------------------------------

    def names(self) -> list[str]:
        files, root = _filesystem(self.uri)
        found = [path.rsplit("/", 1)[-1] for path in files.ls(root, detail=False)] if files.isdir(root) else []
        return sorted({*self.borrowed, *(name for name in found if files.isdir(f"{root}/{name}/_delta_log"))})

    def exists(self, name: str) -> bool:
        from deltalake import DeltaTable

        return DeltaTable.is_deltatable(self.at(name))

    def at(self, name: str) -> str:
        """Where a table lies, or would."""
        return self.borrowed.get(name) or f"{self.uri}/{name}"

    def latest(self, name: str) -> TableRef:
        """The newest version. Raises LakeError when there is no such table."""
        return self._ref(name, self._open(name))

    def ref(self, name: str, version: int) -> TableRef:
        return self._ref(name, self._open(name, version))

    def files(self, name: str, version: int | None = None) -> list[str]:
        """The data files of a version, sorted, so that equal versions read in equal order."""
        return [path for path, _, _ in self._data_files(name, self._open(name, version))]

    def scan(self, name: str, version: int | None = None) -> str:
        """SQL for FROM: every column of the table, the partition aside."""
        table = self._open(name, version)
        if files := self._data_files(name, table):
            return _read_parquet(path for path, _, _ in files)
        with self.session() as connection:
            columns = ", ".join(f'null::{kind} as "{column}"' for column, kind in self._columns(connection, table))
        return f"(select {columns} where false)"

    def connect(self, tables: Mapping[str, int | None] | None = None) -> "duckdb.DuckDBPyConnection":
        """A private connection with a view for each table (all of them by default, None is the newest version)."""
        connection = self.session()
        for name, version in (dict.fromkeys(self.names()) if tables is None else tables).items():
            connection.execute(f'create view "{name}" as select * from {self.scan(name, version)}')
        return connection

    def session(self) -> "duckdb.DuckDBPyConnection":
        """DuckDB in UTC, within its memory, spilling to the scratch folder, never reaching out for extensions."""
        import duckdb

        config: dict[str, Any] = {
            "memory_limit": self.memory_limit,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        if self.threads:
            config["threads"] = self.threads
        if self.scratch:
            # DuckDB makes the last folder of the path only, and only when it has to spill.
            Path(self.scratch).parent.mkdir(parents=True, exist_ok=True)
            config["temp_directory"] = self.scratch
        connection = duckdb.connect(config=config)
        connection.execute("set TimeZone = 'UTC'; set enable_progress_bar = false")
        for uri in (self.uri, *self.borrowed.values()):
            if "://" in uri:
                connection.register_filesystem(_filesystem(uri)[0])
                break  # of all of them: a home has one object store
        return connection

    def content(self, name: str, version: int, until: datetime | None = None) -> str:
        """Digest of a version's rows, of those known until a moment: whatever their order and the files they lie in.

        Of a table that is only inserted into it is the one that its commits name.
        """
        known = "true" if until is None else f"greatest(event_timestamp, created_timestamp) <= '{_iso(until)}'"
        with self.session() as connection:
            rows = f"(select * from {self.scan(name, version)} where {known}) as fresh"
            ((total,),) = connection.execute(f"select {_ROW_HASHES} from {rows}").fetchall()
        return f"{int(total):016x}"

    def commits(self, name: str, after: int = -1) -> list[Commit]:
        """Versions later than `after` with what their writers said, oldest first."""
        newest = self._open(name).version()
        return [Commit(version, self._said(name, version)) for version in range(max(after, -1) + 1, newest + 1)]

    # --- writing -----------------------------------------------------------------------------------

    def insert(
        self, name: str, parquet_uri: str, *, key: Sequence[str], properties: Mapping[str, str] | None = None
    ) -> tuple[TableRef, int]:
        """Add the rows whose (key, event_timestamp, created_timestamp) is not there yet, in one commit.

        Rows that are there are left as they are; when nothing is new there is no commit. The same rows in any order,
        overlap or split end in the same table and digest. Returns the table and the number of rows inserted. The
        commit carries `properties`, `inserted_rows`, `min_created` and `max_created` of the inserted rows, and
        `digest` and `max_event` of the table.

        Raises:
            LakeError: rows without a time, other columns than the table has, or no end of other writers.
        """
        with self._writing(name), self.session() as connection:
            connection.execute(f"create view staged as select * from {_read_parquet([parquet_uri])}")
            for _ in range(_ATTEMPTS):
                try:
                    return self._insert_staged(connection, name, key, properties or {})
                except _OvertakenError as error:
                    overtaken = error
            raise LakeError(
                f"table {name!r} is being changed by others, {_ATTEMPTS} times while this insert was made",
                got=overtaken, expected="one writer at a time", fix="run it again; nothing was written",
            )  # fmt: skip

    def replace(
        self,
        name: str,
        source: "pa.RecordBatchReader | pa.Table | duckdb.DuckDBPyRelation",
        *,
        start: datetime | None,
        properties: Mapping[str, str],
    ) -> TableRef:
        """Put `source` in the place of every row with event_timestamp >= start (None: of every row), in one commit.

        A relation of DuckDB is a table in order of event_timestamp, on a connection that may write where this one
        lies; Arrow comes in any order. The caller names the digest in `properties`.

        Raises:
            LakeError: rows before `start`, other columns than the table has, or another writer at the same moment.
        """
        import duckdb

        with self._writing(name), self.session() as connection:
            rows = source if isinstance(source, duckdb.DuckDBPyRelation) else put_in_order(connection, source)
            try:
                self._put_in_place(name, connection, rows, start, properties)
            except _OvertakenError as error:
                raise LakeError(
                    f"table {name!r} was changed by another writer at the same moment", got=error,
                    expected="one writer at a time", fix="run it again; nothing was written",
                ) from error  # fmt: skip
            return self.latest(name)

    # --- inside ------------------------------------------------------------------------------------

    def _insert_staged(
        self, connection: "duckdb.DuckDBPyConnection", name: str, key: Sequence[str], properties: Mapping[str, str]
    ) -> tuple[TableRef, int]:
        table = self._open(name) if self.exists(name) else None
        self._check_staged(connection, name, table)
        connection.execute(f"create or replace temp table fresh as {self._fresh_sql(connection, name, table, key)}")
        facts = _facts(connection)
        total = int(facts.pop("hash"))
        if table is not None and facts["inserted_rows"] == "0":
            return self._ref(name, table), 0
        before = self._said_by_insert(name, table)
        digest = (total + int(before.get("digest", "0"), 16)) % _DIGEST_RANGE
        events = [datetime.fromisoformat(said["max_event"]) for said in (before, facts) if "max_event" in said]
        facts |= {"max_event": _iso(max(events))} if events else {}
        rows = connection.sql(_PARTITIONED.format("fresh")).to_arrow_reader(_BATCH_ROWS)
        self._commit(name, table, rows, {**properties, **facts, "digest": f"{digest:016x}"})
        return self.latest(name), int(facts["inserted_rows"])

    def _commit(
        self, name: str, table: "DeltaTable | None", rows: "pa.RecordBatchReader", said: Mapping[str, str]
    ) -> None:
        from deltalake import write_deltalake

        with self._committing(name, table, said) as facts:
            if table is None:
                write_deltalake(
                    self.at(name), rows, mode="error", partition_by=[MONTH], configuration=_CONFIGURATION,
                    commit_properties=facts,
                )  # fmt: skip
            else:
                write_deltalake(table, rows, mode="append", commit_properties=facts)

    def _put_in_place(
        self,
        name: str,
        connection: "duckdb.DuckDBPyConnection",
        rows: "duckdb.DuckDBPyRelation",
        start: datetime | None,
        said: Mapping[str, str],
    ) -> None:
        from deltalake.transaction import create_table_with_add_actions

        table = self._open(name) if self.exists(name) else None
        with self._committing(name, table, said) as facts:
            schema, rows = delta_rows(connection, rows)
            self._check_rows(connection, name, rows, table if start else None, start)
            actions = write_months(rows, self.at(name))
            if table is None:
                create_table_with_add_actions(
                    self.at(name), schema, actions, mode="error", partition_by=[MONTH], configuration=_CONFIGURATION,
                    commit_properties=facts,
                )  # fmt: skip
                return
            if start is not None:
                actions += cut_off(connection, table, self.at(name), start, rows.columns)
            mode = "overwrite" if start is None else "append"
            table.create_write_transaction(actions, mode, schema, [MONTH], commit_properties=facts)

    @contextmanager
    def _committing(
        self, name: str, table: "DeltaTable | None", said: Mapping[str, str]
    ) -> "Iterator[CommitProperties]":
        import duckdb
        from deltalake import CommitProperties
        from deltalake.exceptions import CommitFailedError, DeltaError, SchemaMismatchError

        try:
            # No retries: an append that was overtaken has to look again at what is there, or it would double rows.
            yield CommitProperties(custom_metadata=dict(said), max_commit_retries=0)
        except (CommitFailedError, DeltaError, SchemaMismatchError, duckdb.ConversionException) as error:
            if isinstance(error, CommitFailedError) or (table is None and self.exists(name)):
                raise _OvertakenError(error) from error
            raise LakeError(
                f"table {name!r} cannot take these rows",
                got=str(error)[:2000],
                expected="the table's columns and types",
            ) from error

    def _fresh_sql(
        self, connection: "duckdb.DuckDBPyConnection", name: str, table: "DeltaTable | None", key: Sequence[str]
    ) -> str:
        identity = ", ".join(f'"{column}"' for column in (*key, *TIMES))
        columns = "*" if table is None else ", ".join(f'"{column}"' for column, _ in self._columns(connection, table))
        first = f"row_number() over (partition by {identity} order by hash(staged)) = 1"
        once = f"select {columns} from staged qualify {first}"
        existing = None if table is None else self._overlapping(connection, name, table)
        if not existing:
            return once
        same = " and ".join(f'old."{column}" is not distinct from new."{column}"' for column in (*key, *TIMES))
        there = f"select {identity} from {existing}"
        return f"select new.* from ({once}) new where not exists (from ({there}) old where {same})"

    def _overlapping(self, connection: "duckdb.DuckDBPyConnection", name: str, table: "DeltaTable") -> str | None:
        """SQL of the rows that have event times within the batch's, if there are files with any.

        One day into a large table reads that day only: Delta's log knows the times of each file, a file those of each
        of its row groups.
        """
        first, last = connection.execute("select min(event_timestamp), max(event_timestamp) from staged").fetchall()[0]
        if first is None:
            return None
        files = [
            path
            for path, low, high in self._data_files(name, table)
            if low is None or high is None or (low <= last and first < high + STATISTICS_STEP)
        ]
        spanned = f"event_timestamp between timestamptz '{_iso(first)}' and timestamptz '{_iso(last)}'"
        return f"{_read_parquet(files)} where {spanned}" if files else None

    def _data_files(self, name: str, table: "DeltaTable") -> list[tuple[str, datetime | None, datetime | None]]:
        """Path, smallest and largest event time of each data file, by path."""
        import pyarrow as pa

        # Paths in the log are URL-encoded; DuckDB takes them as they are.
        return sorted(
            (
                f"{self.at(name)}/{unquote(action['path'])}",
                action.get("min.event_timestamp"),
                action.get("max.event_timestamp"),
            )
            for action in pa.table(table.get_add_actions(flatten=True)).to_pylist()
        )

    def _check_staged(self, connection: "duckdb.DuckDBPyConnection", name: str, table: "DeltaTable | None") -> None:
        staged = _describe(connection, "staged")
        if wrong := {column: staged.get(column) for column in TIMES if "WITH TIME ZONE" not in staged.get(column, "")}:
            raise LakeError(
                f"rows for table {name!r} lack a time", got=wrong, expected="both as TIMESTAMP WITH TIME ZONE"
            )
        missing = connection.execute(f"select count(*) from staged where {' or '.join(f'{t} is null' for t in TIMES)}")
        if rows := missing.fetchall()[0][0]:
            raise LakeError(f"{rows:,} rows for table {name!r} have no time", expected=f"values in {list(TIMES)}")
        if table is not None and staged != (known := dict(self._columns(connection, table))):
            raise LakeError(
                f"rows for table {name!r} have other columns than the table", got=staged, expected=known,
                fix="keep columns and types of a published table; a new shape is a new table",
            )  # fmt: skip

    def _check_rows(
        self,
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
        got, known = dict(zip(rows.columns, map(str, rows.types), strict=True)), dict(self._columns(connection, table))
        if got != known:
            raise LakeError(f"table {name!r} cannot take these rows", got=got, expected=known)
        if first is not None and start is not None and first < start:
            raise LakeError(
                f"table {name!r} cannot take these rows", got=f"one of {first}", expected=f"none before {start}"
            )

    def _columns(self, connection: "duckdb.DuckDBPyConnection", table: "DeltaTable") -> list[tuple[str, str]]:
        """Name and DuckDB type of each column, in order."""
        import pyarrow as pa

        connection.register("shape", pa.schema(table.schema().to_arrow()).empty_table())
        return [(name, kind) for name, kind in _describe(connection, "shape").items() if name != MONTH]

    def _open(self, name: str, version: int | None = None) -> "DeltaTable":
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            return DeltaTable(self.at(name), version=version)
        except (TableNotFoundError, DeltaError) as error:
            asked = name if version is None else f"{name} at version {version}"
            raise LakeError(
                f"no table {asked!r} in the lake", got=self.uri, expected=f"one of {self.names()}"
            ) from error

    def _ref(self, name: str, table: "DeltaTable") -> TableRef:
        version = table.version()
        digest = self._said(name, version).get("digest", "")
        return TableRef(name=name, uri=self.at(name), version=version, rows=table.count(), digest=digest)

    def _said(self, name: str, version: int) -> dict[str, str]:
        """What the writer of a version said of it.

        Read from the log itself: deltalake's `history` numbers the newest commits downwards from whatever version is
        open, so that an older version would get the newest one's words.
        """
        files, root = _filesystem(self.at(name))
        with files.open(f"{root}/_delta_log/{version:020d}.json", "rb") as log:
            actions = [json.loads(line) for line in log]
        information = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
        return {key: str(value) for key, value in information.items() if key not in _VENDOR_FACTS}

    def _said_by_insert(self, name: str, table: "DeltaTable | None") -> dict[str, str]:
        if table is None:
            return {}
        said = self._said(name, table.version())
        if "inserted_rows" not in said:
            raise LakeError(
                f"the newest version of table {name!r} was not written by an insert", got=said or "nothing said of it",
                expected="a table that is only inserted into, since its digest sums its rows",
            )  # fmt: skip
        return said

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """One writer of a table at a time; on a shared store Delta's own commit check is what remains."""
        if name in self.borrowed:
            raise LakeError(f"table {name!r} is borrowed", got=self.at(name), expected="a table of this lake's own")
        if "://" in self.uri:
            yield
            return
        import fcntl

        folder = Path(self.uri)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".{name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock.fileno()).st_size:
                self._remove_uncommitted(name)
                lock.truncate(0)
            lock.write(f"process {os.getpid()} writes\n")
            lock.flush()
            yield
            lock.truncate(0)  # not after an error or a kill: the next writer finds what was written of it

    def _remove_uncommitted(self, name: str) -> None:
        """Data files that no version knows: of a write that was cut off before its commit. Nobody reads them.

        They are younger than the newest version. An older file stays whatever the log says, which somebody may have
        shortened.
        """
        table = Path(self.at(name))
        log = table / "_delta_log"
        commits = sorted(log.glob("*.json"))
        actions = [json.loads(line) for commit in commits for line in commit.read_text().splitlines()]
        known = {table / unquote(action["add"]["path"]) for action in actions if "add" in action}
        newest = commits[-1].stat().st_mtime if commits else 0.0
        # A file on its way to its name has a number behind it.
        for path in (*table.glob(f"{MONTH}=*/*.parquet*"), *log.glob("*.json#*")):
            if path not in known and path.stat().st_mtime >= newest:
                path.unlink()


def _filesystem(uri: str) -> tuple[Any, str]:
    """Of fsspec, with the path in it."""
    import fsspec

    return fsspec.core.url_to_fs(uri)


class _OvertakenError(Exception):
    """Another writer committed first."""


def _facts(connection: "duckdb.DuckDBPyConnection") -> dict[str, str]:
    """What a commit says of its rows; `hash` is a sum of row hashes, so that order and split do not matter."""
    rows, first, last, newest, total = connection.execute(
        "select count(*), min(created_timestamp), max(created_timestamp), max(event_timestamp), "
        f"{_ROW_HASHES} from fresh"
    ).fetchall()[0]
    facts = {"inserted_rows": str(rows), "hash": str(total)}
    moments = {"min_created": first, "max_created": last, "max_event": newest}
    return facts | {name: _iso(moment) for name, moment in moments.items() if moment is not None}


def _describe(connection: "duckdb.DuckDBPyConnection", relation: str) -> dict[str, str]:
    return {name: kind for name, kind, *_ in connection.execute(f"describe {relation}").fetchall()}


def _read_parquet(paths: "Iterator[str] | Sequence[str]") -> str:
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    return f"read_parquet([{listed}], hive_partitioning=false)"


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
