"""Sources: files, SQL databases and Python callables, each as one relation on a DuckDB connection, out of core."""

import importlib
import importlib.util
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tasks.core.errors import PerennialError, SourceError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_READERS = {"parquet": "read_parquet", "csv": "read_csv", "json": "read_json"}
_SQL_CHUNK_ROWS = 50_000


class UnreachableError(SourceError):
    """A source that does not answer now; it may later."""


class Source(Protocol):
    """What a recipe says of a source; `format` tells which other fields there are."""

    format: str


def register_source(
    connection: "duckdb.DuckDBPyConnection", name: str, source: Any, *, start: datetime, end: datetime, scratch: Path
) -> None:
    """Make `source` a relation called `name`. Nothing is held in memory; what does not lie on this machine's disk as a
    file is first streamed into `scratch`, so that the relation can be read more than once.

    Raises:
        SourceError: there is no such file, database or function, or it cannot be read.
        UnreachableError: a database or service that does not answer now.
    """
    match source.format:
        case "sql":
            columns, batches = _query(source.url, source.query, start, end)
            _spool(connection, name, columns, batches, scratch / name, what=f"the query against {source.url!r}")
        case "python":
            batches = _call(source.function, source.arguments, start, end)
            _spool(connection, name, (), batches, scratch / name, what=f"function {source.function!r}")
        case _:
            _register_files(connection, name, source, scratch / name)


def describe(connection: "duckdb.DuckDBPyConnection", relation: str) -> dict[str, str]:
    """Column -> DuckDB type."""
    return {name: kind for name, kind, *_ in connection.execute(f"describe from {relation}").fetchall()}


def explain(error: Exception) -> str:
    """What DuckDB says, without its advice, which is about its own options."""
    said = str(error).split("\n\n")[0].split("\nPossible")[0].split("\n\tCandidate")[0]
    return " ".join(said.split())[:400]


# --- files -----------------------------------------------------------------------------------------


def _register_files(connection: "duckdb.DuckDBPyConnection", name: str, source: Any, folder: Path) -> None:
    import duckdb

    path = resolve(source.path).removeprefix("file://")
    local = _unpack(path, folder) if "://" in path else path
    reader = f"{_READERS[source.format]}({_literal(local)}{_options(source)})"
    try:
        if source.format == "json" and source.types:
            # read_json takes all columns or none.
            found = describe(connection, reader)
            if unknown := sorted(set(source.types) - set(found)):
                raise SourceError(
                    f"source {source.path!r} lacks columns that `types` names", got=sorted(found), expected=unknown
                )
            reader = reader.removesuffix(")") + f", columns={_struct({**found, **source.types})})"
        connection.execute(f'create view "{name}" as select * from {reader}')
    except duckdb.IOException as error:
        raise SourceError(
            f"source {source.path!r} cannot be read", got=explain(error), expected=f"a readable {source.format} file",
            fix="correct the path; a glob must match at least one file",
        ) from error  # fmt: skip
    except duckdb.Error as error:
        raise SourceError(
            f"source {source.path!r} is not {source.format}", got=explain(error),
            expected=f"whole {source.format} files in UTF-8",
        ) from error  # fmt: skip


def _options(source: Any) -> str:
    if source.format != "csv":
        return ""
    # Left to guess, DuckDB takes a file with a broken line for one with another delimiter, or skips to where it
    # makes sense, and loses rows without a word.
    dialect = f"header=true, delim={_literal(source.delimiter)}, quote='\"', escape='\"', comment='', skip=0"
    nulls = ", ".join(_literal(value) for value in source.null_values)
    return f", {dialect}, nullstr=[{nulls}]" + (f", types={_struct(source.types)}" if source.types else "")


def resolve(path: str) -> str:
    """Replace `package://NAME/…` by the folder of an installed package, which is found without importing it."""

    def folder(match: re.Match[str]) -> str:
        spec = importlib.util.find_spec(match["name"])
        if spec is None or not spec.submodule_search_locations:
            raise SourceError(
                f"package {match['name']!r} is not installed", got=path, fix=f"pip install {match['name']}"
            )
        return str(Path(next(iter(spec.submodule_search_locations))))

    return re.sub(r"package://(?P<name>\w+)", folder, path)


def _unpack(uri: str, folder: Path) -> str:
    """Copy what an fsspec URI names into `folder`, as a stream; returns a glob over the copies."""
    import fsspec

    folder.mkdir(parents=True, exist_ok=True)
    shown = re.sub(r"://[^/@]*@", "://…@", uri)  # without a password
    try:
        files = fsspec.open_files(uri, "rb")
        for number, remote in enumerate(files):
            with remote as stream, (folder / f"{number:05d}-{Path(remote.path).name}").open("wb") as copy:
                shutil.copyfileobj(stream, copy, 1 << 20)
    except Exception as error:  # each of fsspec's filesystems and archives has exceptions of its own
        kind = UnreachableError if isinstance(error, ConnectionError | TimeoutError) else SourceError
        raise kind(
            f"source {shown!r} cannot be read", got=f"{type(error).__name__}: {error}".replace(uri, shown),
            expected="a whole file that fsspec can open",
        ) from None  # fmt: skip
    if not files:
        raise SourceError(f"source {shown!r} matches no file", expected="at least one")
    return str(folder / "*")


# --- databases -----------------------------------------------------------------------------------------


def _query(url: str, query: str, start: datetime, end: datetime) -> "tuple[list[str], Iterator[pa.RecordBatch]]":
    """The names of the columns, and the rows as they come from the server."""
    import sqlalchemy

    filled, secrets = _from_environment(url)

    def failure(error: Exception) -> SourceError:
        said = explain(error)
        for secret, shown in secrets.items():
            said = said.replace(secret, shown)
        refused = isinstance(error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError)
        kind = UnreachableError if refused else SourceError
        return kind(f"the query against {url!r} failed", got=said, expected="a query that the database can answer")

    try:
        engine = sqlalchemy.create_engine(filled)
        connection = engine.connect().execution_options(stream_results=True, max_row_buffer=_SQL_CHUNK_ROWS)
        result = connection.execute(*_bound(query, start, end))
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise failure(error) from None  # the chain would show the URL, and with it a password
    names = list(result.keys())

    def batches() -> "Iterator[pa.RecordBatch]":
        try:
            for rows in result.partitions(_SQL_CHUNK_ROWS):
                yield _columnar(names, rows, url)
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise failure(error) from None
        finally:
            connection.close()
            engine.dispose()

    return names, batches()


def _bound(query: str, start: datetime, end: datetime) -> tuple[Any, dict[str, datetime]]:
    """The statement, with those of :start and :end that it names bound as timestamps of its database."""
    import sqlalchemy

    statement = sqlalchemy.text(query)
    moments = {"start": start, "end": end}
    asked = {name: moments[name] for name in statement.compile().params if name in moments}
    kind = sqlalchemy.DateTime(timezone=True)
    return statement.bindparams(*(sqlalchemy.bindparam(name, type_=kind) for name in asked)), asked


def _columnar(names: Sequence[str], rows: Sequence[Any], url: str) -> "pa.RecordBatch":
    import pyarrow as pa

    columns = []
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        try:
            columns.append(pa.array(values))
        except pa.ArrowException as error:
            raise SourceError(
                f"column {name!r} of the query against {url!r} holds values of different types", got=error,
                expected="one type for each column", fix="cast it in the query",
            ) from error  # fmt: skip
    return pa.RecordBatch.from_arrays(columns, names=list(names))


def _from_environment(url: str) -> tuple[str, dict[str, str]]:
    """The URL with every `${NAME}` filled in, and value -> `${NAME}` of each, to hide it again."""
    secrets = {}

    def value(match: re.Match[str]) -> str:
        if not (found := os.environ.get(match[1])):
            raise SourceError(f"environment variable {match[1]} is not set", expected=f"it is part of {url!r}")
        secrets[found] = match[0]
        return found

    return re.sub(r"\$\{(\w+)\}", value, url), secrets


# --- callables --------------------------------------------------------------------------------------------


def _call(function: str, arguments: dict[str, Any], start: datetime, end: datetime) -> "Iterator[pa.RecordBatch]":
    import pyarrow as pa

    module, _, name = function.partition(":")
    try:
        reader = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SourceError(
            f"no function {function!r}", got=error, expected="module:function, importable here"
        ) from error
    try:
        result = reader(start, end, **arguments)
        if isinstance(result, pa.Table):
            result = result.to_reader()
        if isinstance(result, pa.RecordBatchReader):  # it tells its columns even where it has no rows
            result = chain([pa.RecordBatch.from_pylist([], schema=result.schema)], result)
        for batch in result:
            if not isinstance(batch, pa.RecordBatch):
                raise TypeError(f"it gave a {type(batch).__name__}, not a pyarrow record batch")
            yield batch
    except PerennialError:
        raise
    except Exception as error:  # it is a person's own code
        kind = UnreachableError if isinstance(error, ConnectionError | TimeoutError) else SourceError
        raise kind(
            f"function {function!r} failed", got=f"{type(error).__name__}: {error}",
            expected="a pyarrow Table, a RecordBatchReader or an iterable of record batches",
        ) from error  # fmt: skip


# --- streams ------------------------------------------------------------------------------------------------


def _spool(
    connection: "duckdb.DuckDBPyConnection",
    name: str,
    columns: Iterable[str],
    batches: "Iterable[pa.RecordBatch]",
    folder: Path,
    *,
    what: str,
) -> None:
    """Stream batches into Parquet files, one for each run of equal schemas, and make a view over them.

    A column without a value has no type in a batch of its own; the other batches tell it, or else it is text.
    """
    import duckdb
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    seen, typed, number, writer = dict.fromkeys(columns), set(), 0, None
    try:
        for batch in batches:
            seen.update(dict.fromkeys(batch.schema.names))
            untyped = [field.name for field in batch.schema if pa.types.is_null(field.type)]
            typed.update(set(batch.schema.names) - set(untyped))
            kept = batch.drop_columns(untyped).append_column("__row", pa.nulls(batch.num_rows, pa.int8()))
            if writer is None or kept.schema != writer.schema:
                if writer is not None:
                    writer.close()
                writer = pq.ParquetWriter(folder / f"{number:05d}.parquet", kept.schema)
                number += 1
            writer.write_batch(kept)
    finally:
        if writer is not None:
            writer.close()
    if not seen:
        raise SourceError(f"{what} gave no rows", expected="at least one batch, which also tells the columns")
    untold = "".join(f', null::varchar as "{column}"' for column in seen if column not in typed)
    files = f"read_parquet({_literal(str(folder / '*.parquet'))}, union_by_name=true)"
    rows = f"select * exclude (__row){untold} from {files}" if typed else f"select {untold[2:]} from {files}"
    try:
        connection.execute(f'create view "{name}" as {rows if number else f"select {untold[2:]} where false"}')
    except duckdb.Error as error:
        raise SourceError(f"{what} gave batches that do not fit each other", got=explain(error)) from error


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _struct(types: dict[str, str]) -> str:
    return "{" + ", ".join(f"{_literal(column)}: {_literal(kind)}" for column, kind in types.items()) + "}"
