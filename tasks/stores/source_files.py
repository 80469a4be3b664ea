"""Files as sources: Parquet, CSV and JSON lines, on this machine, in an archive, in a package, or behind a URI."""

import importlib.util
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import SourceError

if TYPE_CHECKING:
    import duckdb

_READERS = {"parquet": "read_parquet", "csv": "read_csv", "json": "read_json"}
# Of what a packed file unpacks to: below the floor anything, above it no more than so many times its packed size. Text
# packs to a tenth or a fortieth; what packs to a thousandth is there to fill a disk.
_FLOOR_BYTES, _MAX_EXPANSION = 256 << 20, 100
_ARCHIVES = ("zip://", "tar://")


class UnreachableError(SourceError):
    """A source that does not answer now; it may later."""


def register_files(
    connection: "duckdb.DuckDBPyConnection",
    name: str,
    source: Any,
    folder: Path,
    roots: Sequence[str],
    shared: Path | None = None,
) -> list[str]:
    """What is packed or lies elsewhere is unpacked into `folder`; or into `shared`, unless it is there already."""
    import duckdb

    path = resolve(source.path).removeprefix("file://")
    files = _allowed(connection, path, source.path, roots)
    # DuckDB would unpack a file as it reads it, and whatever comes of it.
    is_packed = any(file.endswith(".gz") for file in files)
    local = path
    if "://" in path or is_packed:
        local = _unpack(path, folder) if shared is None else _unpack_once(path, shared)
    # Named one by one: a pattern would need its whole folder to be open to whatever reads it.
    read = list_files(connection, local)
    named = f"[{', '.join(map(literal, read))}]" if read else literal(local)
    reader = f"{_READERS[source.format]}({named}{_options(source)})"
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
    return read


def _allowed(connection: "duckdb.DuckDBPyConnection", path: str, shown: str, roots: Sequence[str]) -> list[str]:
    """The local files that a path names; none of a URI, which is not asked before it is unpacked.

    Raises:
        SourceError: one of them, with links followed, lies outside of the roots.
    """
    *archives, place = path.split("::")  # an archive's member, and where the archive lies
    place = place.removeprefix("file://")
    files = list_files(connection, place) if "://" not in place else []
    is_package = shown.split("::")[-1].startswith("package://")
    is_inside = is_package or all(_is_inside(file, roots) for file in files or [place])
    if roots and not (is_inside and all(part.startswith(_ARCHIVES) for part in archives)):
        raise SourceError(
            f"source {shown!r} lies outside of the folders that sources may come from", got=place,
            expected=f"a place under one of {list(roots)}",
            fix="move the file there, or add its folder to PERENNIAL_SOURCE_ROOTS",
        )  # fmt: skip
    return [] if archives else files


def _is_inside(place: str, roots: Sequence[str]) -> bool:
    if "://" in place:
        return ".." not in place and any(place.startswith(root.rstrip("/") + "/") for root in roots)
    found = Path(place).resolve()
    return any(found.is_relative_to(Path(root).expanduser().resolve()) for root in roots if "://" not in root)


def _options(source: Any) -> str:
    if source.format != "csv":
        return ""
    # Left to guess, DuckDB takes a file with a broken line for one with another delimiter, or skips to where it
    # makes sense, and loses rows without a word.
    dialect = f"header=true, delim={literal(source.delimiter)}, quote='\"', escape='\"', comment='', skip=0"
    nulls = ", ".join(literal(value) for value in source.null_values)
    return f", {dialect}, nullstr=[{nulls}]" + (f", types={_struct(source.types)}" if source.types else "")


def resolve(path: str) -> str:
    """Replace `package://NAME/…` by the folder of an installed package, which is found without importing it."""

    def folder(match: re.Match[str]) -> str:
        if ".." in path:
            raise SourceError(f"source {path!r} leaves its package", expected="a file inside of it")
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
        files = fsspec.open_files(uri, "rb", compression="infer")
        for number, remote in enumerate(files):
            about = remote.fs.info(remote.path)
            most = max(_FLOOR_BYTES, _MAX_EXPANSION * (about.get("compress_size") or about.get("size") or 0))
            name = Path(remote.path).name.removesuffix(".gz")
            with remote as stream, (folder / f"{number:05d}-{name}").open("wb") as copy:
                _copy(stream, copy, most, shown)
    except SourceError:
        shutil.rmtree(folder)
        raise
    except Exception as error:  # each of fsspec's filesystems and archives has exceptions of its own
        kind = UnreachableError if isinstance(error, ConnectionError | TimeoutError) else SourceError
        raise kind(
            f"source {shown!r} cannot be read", got=f"{type(error).__name__}: {error}".replace(uri, shown),
            expected="a whole file that fsspec can open",
        ) from None  # fmt: skip
    if not files:
        raise SourceError(f"source {shown!r} matches no file", expected="at least one")
    return str(folder / "*")


def _unpack_once(uri: str, folder: Path) -> str:
    """As `_unpack`, whole or not at all."""
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)
        _unpack(uri, unfinished)
        unfinished.replace(folder)
    return str(folder / "*")


def _copy(stream: Any, copy: Any, most: int, shown: str) -> None:
    """Raises: SourceError: more comes than `most` bytes."""
    written = 0
    while block := stream.read(1 << 20):
        written += len(block)
        if written > most:
            raise SourceError(
                f"source {shown!r} unpacks to far more than it is", got=f"more than {most >> 20:,} MiB",
                expected=f"at most {_MAX_EXPANSION} times its packed size",
                fix="look into the file; where it is whole, unpack it and name the plain file",
            )  # fmt: skip
        copy.write(block)


# --- DuckDB ------------------------------------------------------------------------------------------


def list_files(connection: "duckdb.DuckDBPyConnection", pattern: str) -> list[str]:
    return [path for (path,) in connection.execute(f"select file from glob({literal(pattern)})").fetchall()]


def describe(connection: "duckdb.DuckDBPyConnection", relation: str) -> dict[str, str]:
    """Column -> DuckDB type."""
    return {name: kind for name, kind, *_ in connection.execute(f"describe from {relation}").fetchall()}


def explain(error: Exception) -> str:
    """What DuckDB says, without its advice, which is about its own options."""
    said = str(error).split("\n\n")[0].split("\nPossible")[0].split("\n\tCandidate")[0]
    return " ".join(said.split())[:400]


def literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _struct(types: dict[str, str]) -> str:
    return "{" + ", ".join(f"{literal(column)}: {literal(kind)}" for column, kind in types.items()) + "}"
