"""The lake: Delta tables, written by insert or by replacement of a tail, read by DuckDB at any version.

Every row has `event_timestamp` (when it happened) and `created_timestamp` (when it could be known). DuckDB's own Delta
extension is a download, so DuckDB is handed the file list of a Delta version. Nothing is ever vacuumed: a version
number is a data version.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tasks.core.errors import LakeError
from tasks.core.records import TableRef
from tasks.stores.lake_insert import insert
from tasks.stores.lake_replace import replace
from tasks.stores.lake_sql import ROW_HASHES, describe, iso, read_parquet
from tasks.stores.month_files import MONTH

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from deltalake import DeltaTable


_VENDOR_FACTS = {
    "timestamp", "operation", "operationParameters", "operationMetrics", "engineInfo", "clientVersion", "readVersion",
    "isolationLevel", "isBlindAppend",
}  # fmt: skip


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
        return self.ref_of(name, self.open(name))

    def ref(self, name: str, version: int) -> TableRef:
        return self.ref_of(name, self.open(name, version))

    def files(self, name: str, version: int | None = None) -> list[str]:
        """The data files of a version, sorted, so that equal versions read in equal order."""
        return [path for path, _, _ in self.data_files(name, self.open(name, version))]

    def scan(self, name: str, version: int | None = None) -> str:
        """SQL for FROM: every column of the table, the partition aside."""
        table = self.open(name, version)
        if files := self.data_files(name, table):
            return read_parquet(path for path, _, _ in files)
        with self.session() as connection:
            columns = ", ".join(f'null::{kind} as "{column}"' for column, kind in self.columns(connection, table))
        return f"(select {columns} where false)"

    def connect(
        self, tables: Mapping[str, int | None] | None = None, *, own: bool = False
    ) -> "duckdb.DuckDBPyConnection":
        """A session with a view for each table (all of them by default, None is the newest version)."""
        connection = self.session(own=own)
        for name, version in (dict.fromkeys(self.names()) if tables is None else tables).items():
            connection.execute(f'create temp view "{name}" as select * from {self.scan(name, version)}')
        return connection

    def session(self, *, own: bool = False) -> "duckdb.DuckDBPyConnection":
        """DuckDB in UTC, within its memory, spilling to the scratch folder, never reaching out for extensions.

        What is temporary on it is its own. `own` is a database of its own too, for SQL that people write, to be
        confined: 20 ms, where all others share one.
        """
        uris = (self.uri, *self.borrowed.values())
        remote = next((uri for uri in uris if "://" in uri), None)  # a home has one object store
        settings = (self.memory_limit, self.threads, self.scratch, remote)
        connection = _database(*settings) if own else _shared_database(*settings).cursor()
        connection.execute("set TimeZone = 'UTC'; set enable_progress_bar = false")
        return connection

    def content(self, name: str, version: int, until: datetime | None = None) -> str:
        """Digest of a version's rows, of those known until a moment: whatever their order and the files they lie in.

        Of a table that is only inserted into it is the one that its commits name.
        """
        known = "true" if until is None else f"greatest(event_timestamp, created_timestamp) <= '{iso(until)}'"
        with self.session() as connection:
            rows = f"(select * from {self.scan(name, version)} where {known}) as fresh"
            ((total,),) = connection.execute(f"select {ROW_HASHES} from {rows}").fetchall()
        return f"{int(total):016x}"

    def commits(self, name: str, after: int = -1) -> list[Commit]:
        """Versions later than `after` with what their writers said, oldest first."""
        newest = self.open(name).version()
        return [Commit(version, self.said(name, version)) for version in range(max(after, -1) + 1, newest + 1)]

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
        return insert(self, name, parquet_uri, key, properties or {})

    def replace(
        self,
        name: str,
        source: "pa.RecordBatchReader | pa.Table | duckdb.DuckDBPyRelation",
        *,
        start: datetime | None,
        properties: Mapping[str, str],
        connection: "duckdb.DuckDBPyConnection | None" = None,
    ) -> TableRef:
        """Put `source` in the place of every row with event_timestamp >= start (None: of every row), in one commit.

        A relation of DuckDB is a table in order of event_timestamp, on a connection that may write where this one
        lies; with `connection`, which is that one, no other is opened. Arrow comes in any order. The caller names the
        digest in `properties`.

        Raises:
            LakeError: rows before `start`, other columns than the table has, or another writer at the same moment.
        """
        return replace(self, name, source, start, properties, connection)

    # --- of a table as Delta has it -------------------------------------------------------------------

    def data_files(self, name: str, table: "DeltaTable") -> list[tuple[str, datetime | None, datetime | None]]:
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

    def columns(self, connection: "duckdb.DuckDBPyConnection", table: "DeltaTable") -> list[tuple[str, str]]:
        """Name and DuckDB type of each column, in order."""
        import pyarrow as pa

        connection.register("shape", pa.schema(table.schema().to_arrow()).empty_table())
        return [(name, kind) for name, kind in describe(connection, "shape").items() if name != MONTH]

    def open(self, name: str, version: int | None = None) -> "DeltaTable":
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            return DeltaTable(self.at(name), version=version)
        except (TableNotFoundError, DeltaError) as error:
            asked = name if version is None else f"{name} at version {version}"
            raise LakeError(
                f"no table {asked!r} in the lake", got=self.uri, expected=f"one of {self.names()}"
            ) from error

    def ref_of(self, name: str, table: "DeltaTable") -> TableRef:
        version = table.version()
        digest = self.said(name, version).get("digest", "")
        return TableRef(name=name, uri=self.at(name), version=version, rows=table.count(), digest=digest)

    def said(self, name: str, version: int) -> dict[str, str]:
        """What the writer of a version said of it.

        Read from the log itself: deltalake's `history` numbers the newest commits downwards from whatever version is
        open, so that an older version would get the newest one's words.
        """
        files, root = _filesystem(self.at(name))
        with files.open(f"{root}/_delta_log/{version:020d}.json", "rb") as log:
            actions = [json.loads(line) for line in log]
        information = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
        return {key: str(value) for key, value in information.items() if key not in _VENDOR_FACTS}


def _database(memory_limit: str, threads: int, scratch: str | None, remote: str | None) -> "duckdb.DuckDBPyConnection":
    import duckdb

    config: dict[str, Any] = {
        "memory_limit": memory_limit,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    if threads:
        config["threads"] = threads
    if scratch:
        # DuckDB makes the last folder of the path only, and only when it has to spill.
        Path(scratch).parent.mkdir(parents=True, exist_ok=True)
        config["temp_directory"] = scratch
    connection = duckdb.connect(config=config)
    if remote:
        connection.register_filesystem(_filesystem(remote)[0])
    return connection


_shared_database = lru_cache(maxsize=4)(_database)  # one home has one; what is put out lives as long as its sessions


def _filesystem(uri: str) -> tuple[Any, str]:
    """Of fsspec, with the path in it."""
    import fsspec

    return fsspec.core.url_to_fs(uri)
