"""Features: build the feature tables by SQL, and write the newest values to the online store.

A feature row is what was knowable at its `event_timestamp`, so a row that becomes known late changes nothing before the
moment it became known. That is why a build may start at the smallest known time that was committed since the last one.
"""

import json
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from prefect import task

from tasks.account import step
from tasks.core.errors import FeatureError
from tasks.core.records import TableRef, digest
from tasks.feature_sql import parse, part_ends, tables_read
from tasks.home import open_feature_store, open_lake
from tasks.lookahead import INSTANT, bounded, refuse_look_ahead, show_known
from tasks.stores.repeats import may_repeat
from tasks.stores.shared_session import SharedSession

if TYPE_CHECKING:
    import duckdb

    from tasks.stores.feature_store import Table
    from tasks.stores.lake import Lake

BEGINNING = datetime(1900, 1, 1, tzinfo=UTC)
# Of the largest table that is read: DuckDB shares a query among cores by 122,880 rows, so that of small tables several
# are built at once, and a large one alone, with all of the memory.
MOST_ROWS_BESIDE = 1_000_000
TIMES = {"event_timestamp": "TIMESTAMP WITH TIME ZONE", "created_timestamp": "TIMESTAMP WITH TIME ZONE"}


@task(task_run_name="build features")
def build_features(
    project: str, services: tuple[str, ...], tables: tuple[TableRef, ...], as_of: datetime
) -> tuple[TableRef, ...]:
    """Bring every feature table of the services up to `as_of`, which it includes, from these versions of `tables`.

    A view whose table has no SQL file, `<feature_repo>/<project>/<table>.sql`, reads a table of the lake as it is.

    Raises:
        FeatureError: an unknown project or service, SQL that does not give what the views declare, or that looks ahead.
    """
    store = open_feature_store(project)
    with step("features", project) as line:
        asked = store.definitions.tables(services)
        sources = {ref.name: ref for ref in tables}
        with Builder(open_lake(project), store.folder / project, sources, asked, as_of) as builder:
            for name in asked:
                builder.begin(name)
            built = [builder.built[name].result() for name in builder.built]
        line.note(f"{len(built)} tables · {sum(one.table.rows for one in built):,} rows")
        line.note(f"{(written := sum(one.written_rows for one in built)):,} written")
        line.is_silent = not written
        return tuple(one.table for one in built)


@task(task_run_name="materialize features")
def materialize_features(
    project: str, services: tuple[str, ...], tables: tuple[TableRef, ...], as_of: datetime, lookback: timedelta
) -> dict[str, int]:
    """Write the newest row of each key, as known at `as_of`, to the online store; rows written per view.

    `tables` are the versions to read: those of `build_features`, and of the lake where a view reads it as it is.
    """
    lake = open_lake(project)
    with step("materialize", project) as line:
        written = open_feature_store(project).materialize(
            services,
            as_of=as_of,
            lookback=lookback,
            versions={ref.name: ref.version for ref in tables},
            builds={ref.name: _said(lake, ref).get("sql", "") for ref in tables},
        )
        line.note(f"{sum(written.values()):,} rows")
        return written


# --- building one table -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Build:
    """What a feature table's newest commit says of how it was made."""

    sql: str  # digest of the SQL
    end: datetime  # rows up to here, exclusive
    sources: dict[str, dict[str, Any]]  # table -> version, digest
    is_unfinished: bool = False  # a part of a longer build, whose last part has yet to be tried

    @property
    def digest(self) -> str:
        told = [self.sql, self.end, {name: source["digest"] for name, source in self.sources.items()}]
        return digest([*told, "unfinished"] if self.is_unfinished else told)

    def properties(self, start: datetime) -> dict[str, str]:
        # `min_created` is what a table built from this one has to look at.
        said = {"sql": self.sql, "end": self.end.isoformat(), "sources": json.dumps(self.sources)}
        said |= {"unfinished": "true"} if self.is_unfinished else {}
        return {**said, "min_created": start.isoformat(), "digest": self.digest}

    @classmethod
    def of(cls, said: Mapping[str, str]) -> "Build":
        end, sources = datetime.fromisoformat(said["end"]), json.loads(said["sources"])
        return cls(said["sql"], end, sources, "unfinished" in said)


class Built(NamedTuple):
    table: TableRef
    written_rows: int


class Builder:
    """Builds feature tables, each after the feature tables that its SQL reads, small ones side by side."""

    def __init__(
        self, lake: "Lake", folder: Path, sources: dict[str, TableRef], asked: dict[str, "Table"], as_of: datetime
    ) -> None:
        self.lake, self.folder, self.sources, self.asked, self.as_of = lake, folder, sources, asked, as_of
        self.built: dict[str, Future[Built]] = {}
        self._building: list[str] = []
        folders = [*(ref.uri for ref in sources.values()), *map(lake.at, self._files)]
        self._session = SharedSession(lake, folders)
        is_small = max((ref.rows for ref in sources.values()), default=0) <= MOST_ROWS_BESIDE
        self._pool = ThreadPoolExecutor((lake.threads or os.cpu_count()) if is_small else 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._session.close()

    def begin(self, name: str) -> "Future[Built]":
        """Build the table as of the builder's moment; written only where something is new.

        Those that it reads have begun before it, so that whoever waits in the pool waits for one that runs.
        """
        path = self.folder / f"{name}.sql"
        if name in self.built:
            return self.built[name]
        if not path.is_file():
            return _done(Built(self._source(name, path), 0))
        if name in self._building:
            raise FeatureError(f"{path} reads itself", got=" -> ".join([*self._building, name]))
        if name in self.sources:
            raise FeatureError(
                f"{path} would replace the ingested table {name!r}", fix="give the SQL file another name"
            )
        self._building.append(name)
        sql = path.read_text().strip().rstrip(";")
        sources = {table: self.begin(table) for table in self._tables_read(path, sql)}
        self.built[name] = self._pool.submit(self._bring_up, path, sql, sources)
        self._building.pop()
        return self.built[name]

    @cached_property
    def _files(self) -> tuple[str, ...]:
        """The tables of the project that have an SQL file."""
        return tuple(sorted(file.stem for file in self.folder.glob("*.sql")))

    def _source(self, name: str, path: Path) -> TableRef:
        if name not in self.sources:
            known = sorted({*self.sources, *self._files})
            raise FeatureError(f"no table {name!r}", got=f"neither ingested, nor {path}", expected=f"one of {known}")
        return self.sources[name]

    def _tables_read(self, path: Path, sql: str) -> list[str]:
        with self._session.connect() as connection:
            return tables_read(parse(connection, path, sql), path, {*self.sources, *self._files})

    def _bring_up(self, path: Path, sql: str, begun: "dict[str, Future[Built]]") -> Built:
        name, last = path.stem, None
        sources = {table: one.result().table for table, one in begun.items()}
        read = {table: {"version": ref.version, "digest": ref.digest} for table, ref in sources.items()}
        build = Build(digest(sql), self.as_of + INSTANT, read)
        if self.lake.exists(name):
            commits = self.lake.commits(name)
            for commit in reversed(commits):
                if commit.properties.get("digest") == build.digest:
                    return Built(self.lake.ref(name, commit.version), 0)
            last = Build.of(commits[-1].properties)
            # Never shorter than it was: to a join, rows after its time are invisible anyway.
            build = Build(build.sql, max(build.end, last.end), read)
        start = self._start(build, last)
        if start >= build.end:
            return Built(self.lake.latest(name), 0)
        is_unfinished = last is not None and last.is_unfinished
        return self._build(path, sql, sources, build, start, is_unfinished=is_unfinished)

    def _build(
        self,
        path: Path,
        sql: str,
        sources: Mapping[str, TableRef],
        build: Build,
        start: datetime,
        *,
        is_unfinished: bool,
    ) -> Built:
        """The rows from `start`, in parts that are each committed as a build of its own: one that is killed goes on
        there. Look-ahead is tried on all that is built from the beginning, and on the last part of a long build."""
        name, written = path.stem, 0
        asked = self.asked.get(name)
        identity = (*asked.key, *TIMES) if asked else ()
        with self._session.connect() as connection:
            scans = {table: self._session.scan(ref) for table, ref in sources.items()}
            show_known(connection, scans, build.end)
            ends = part_ends(connection, path, sql, sources.values(), start, build.end)
            is_long = len(ends) > 1 or is_unfinished
            for end in ends:
                written += _run(connection, path, sql, start, end, asked)
                if start == BEGINNING or (is_long and end == ends[-1]):
                    refuse_look_ahead(connection, path, sql, scans, start, identity)
                    show_known(connection, scans, build.end)
                said = replace(build, end=end, is_unfinished=end != ends[-1]).properties(start)
                since, built = None if start == BEGINNING else start, connection.table("built_")
                table = self.lake.replace(name, built, start=since, properties=said, connection=connection)
                connection.execute("drop table built_")  # before the next part, which needs the memory
                start = end
            return Built(table, written)

    def _start(self, build: Build, last: Build | None) -> datetime:
        """Where the rows begin that can differ from those of the last build."""
        if last is None or last.sql != build.sql or last.sources.keys() != build.sources.keys():
            return BEGINNING
        if last.is_unfinished and last.end == build.end:
            return BEGINNING  # an earlier moment is asked for, and nothing is left of which a part could be tried
        start = last.end
        for table, source in build.sources.items():
            before = last.sources[table]
            if source["version"] == before["version"] and source["digest"] != before["digest"]:
                return BEGINNING  # another table of that name
            for commit in self.lake.commits(table, after=before["version"]):
                if commit.version <= source["version"] and "min_created" in commit.properties:
                    start = min(start, datetime.fromisoformat(commit.properties["min_created"]))
        return start


def _run(
    connection: "duckdb.DuckDBPyConnection", path: Path, sql: str, start: datetime, end: datetime, asked: "Table | None"
) -> int:
    """Make the table `built_` of the rows in [start, end), and check that they are what the views declare."""
    import duckdb

    try:
        ordered = f"create temp table built_ as {bounded(sql)} order by event_timestamp"
        connection.execute(ordered, {"start": start, "end": end})
    except duckdb.Error as error:
        raise FeatureError(f"{path} does not run", got=error) from error
    columns = {name: kind for name, kind, *_ in connection.execute("describe built_").fetchall()}
    declared = {**TIMES, **(asked.columns if asked else {})}
    if wrong := [name for name, kind in declared.items() if columns.get(name) != kind]:
        raise FeatureError(
            f"{path} does not give what the views declare",
            got={name: columns.get(name, "missing") for name in wrong},
            expected={name: declared[name] for name in wrong},
            fix="name and cast the columns in the SQL, or declare them otherwise in the feature file",
        )
    if asked:
        identity = [f'"{column}"' for column in (*asked.key, *TIMES)]
        named = ", ".join(identity)
        doubled = f"select {named}, count(*) as rows from built_ group by all having rows > 1 limit 1"
        if may_repeat(connection, "built_", identity) and (found := connection.execute(doubled).fetchall()):
            raise FeatureError(
                f"{path} gives several rows of one key at one moment", got=found[0], expected=f"one per {named}"
            )
    ((rows,),) = connection.execute("select count(*) from built_").fetchall()
    return int(rows)


def _done(built: Built) -> "Future[Built]":
    future: Future[Built] = Future()
    future.set_result(built)
    return future


def _said(lake: "Lake", ref: TableRef) -> dict[str, str]:
    return next(c.properties for c in lake.commits(ref.name, after=ref.version - 1) if c.version == ref.version)
