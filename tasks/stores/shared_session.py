"""One session of DuckDB for all that is built of a lake: small tables are read once, and one limit of memory holds.

A session of its own costs each table 12 ms, and reading six times what six tables are made of, more.
"""

import uuid
from collections.abc import Iterable
from threading import Lock
from typing import TYPE_CHECKING

from tasks.core.records import TableRef
from tasks.stores.confined import confine

if TYPE_CHECKING:
    import duckdb

    from tasks.stores.lake import Lake

MOST_ROWS_HELD = 250_000  # of a table that is read into memory; of a larger one each reader streams what it needs


class SharedSession:
    """Connections for SQL that people write, from any thread: they read these folders, and see nothing of each other.

    Folders on an object store cannot be confined, see `confine`.
    """

    def __init__(self, lake: "Lake", folders: Iterable[str]) -> None:
        self._lake, self._lock = lake, Lock()
        self._held: set[TableRef] = set()
        self._schema = f"held_{uuid.uuid4().hex}"  # SQL that does not know the name reads what it is shown of a table
        self._connection = lake.session(own=True)
        # For every connection that is to come, which cannot set anything any more.
        self._connection.execute("set global TimeZone = 'UTC'; set global python_enable_replacements = false")
        self._connection.execute(f"create schema {self._schema}")
        confine(self._connection, folders=folders)

    def close(self) -> None:
        self._connection.close()

    def connect(self) -> "duckdb.DuckDBPyConnection":
        """What is temporary on it is its own."""
        return self._connection.cursor()

    def scan(self, ref: TableRef) -> str:
        """SQL for FROM, like `Lake.scan`."""
        if ref.rows > MOST_ROWS_HELD:
            return self._lake.scan(ref.name, ref.version)
        held = f'{self._schema}."{ref.name} {ref.version}"'
        with self._lock, self.connect() as connection:
            if ref not in self._held:
                connection.execute(f"create table {held} as from {self._lake.scan(ref.name, ref.version)}")
                self._held.add(ref)
        return held
