"""Sources: files, SQL databases and Python callables, each as one relation on a DuckDB connection, out of core."""

import importlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from tasks.core.errors import PerennialError, SourceError
from tasks.stores.source_files import UnreachableError, explain, list_files, literal, register_files

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_SQL_CHUNK_ROWS = 50_000


class Source(Protocol):
    """What a recipe says of a source; `format` tells which other fields there are."""

    format: str


def register_source(
    connection: "duckdb.DuckDBPyConnection",
    name: str,
    source: Any,
    *,
    start: datetime,
    end: datetime,
    scratch: Path,
    roots: Sequence[str] = (),
    shared: Mapping[str, Path] = MappingProxyType({}),
) -> list[str]:
    """Make `source` a relation called `name`; the files that it reads. Nothing is held in memory; what does not lie on
    this machine's disk as a plain file is first streamed into `scratch`, so that the relation can be read more than
    once.

    `roots` are the folders and URIs that files may come from; none is anywhere. Installed packages always may.
    `shared`: path of a file source -> where what is unpacked of it lies for others that read it too.

    Raises:
        SourceError: there is no such file, database or function, it may not or cannot be read, or it unpacks to far
            more than it is.
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
            return register_files(connection, name, source, scratch / name, roots, shared.get(source.path))
    return list_files(connection, str(scratch / name / "*"))


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
    files = f"read_parquet({literal(str(folder / '*.parquet'))}, union_by_name=true)"
    rows = f"select * exclude (__row){untold} from {files}" if typed else f"select {untold[2:]} from {files}"
    try:
        connection.execute(f'create view "{name}" as {rows if number else f"select {untold[2:]} where false"}')
    except duckdb.Error as error:
        raise SourceError(f"{what} gave batches that do not fit each other", got=explain(error)) from error
