"""SQL that people write reads what it was given, and nothing else of the machine: no file, no network, no variable."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


def confine(connection: "duckdb.DuckDBPyConnection", *, files: Iterable[str] = (), folders: Iterable[str] = ()) -> None:
    """Let a connection read these files and folders, and its own scratch folder, from now on. It cannot be undone.

    Of an object store nothing can be confined: DuckDB lets its files through only with everything else.
    """
    files, folders = list(files), list(folders)
    connection.execute("set python_enable_replacements = false")
    if any("://" in path for path in (*files, *folders)):
        return
    connection.execute(f"set allowed_paths = [{', '.join(map(_literal, files))}]")
    connection.execute(f"set allowed_directories = [{', '.join(map(_literal, folders))}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def _literal(path: str) -> str:
    return "'" + path.replace("'", "''") + "'"
