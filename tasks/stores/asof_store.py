"""Feast's offline store on DuckDB's ASOF JOIN: point-in-time features that hold known time.

Feast loads this module by class path (`offline_store: {type: tasks.stores.asof_store.AsofOfflineStore}`). Feature
definitions name logical paths, `lake://<table>`; the lake's home and the versions to read come from the config.
What a join gives is told in `asof_sql`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
import pandas as pd
import pyarrow as pa
from pydantic import Field

from tasks.core.errors import FeatureError
from tasks.stores.asof_sql import AMBIGUOUS, JoinedView, all_sql, join_sql, load_entities, quote
from tasks.stores.lake import Lake
from tasks.stores.light_feast import feast  # noqa: F401  before what is imported of it
from tasks.stores.newest_sql import newest_sql

# isort: split
from feast import FeatureView
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob
from feast.repo_config import FeastConfigBaseModel, RepoConfig

SCHEME = "lake://"
BATCH_ROWS = 65_536


class AsofOfflineStoreConfig(FeastConfigBaseModel):
    """`versions` pins tables: then those are read, and no others; without any, every table as it is now."""

    type: Literal["tasks.stores.asof_store.AsofOfflineStore"] = "tasks.stores.asof_store.AsofOfflineStore"
    lake_uri: str
    versions: dict[str, int] = Field(default_factory=dict)
    memory_limit: str = "4GB"
    threads: int = 0
    scratch: str | None = None
    borrowed: dict[str, str] = Field(default_factory=dict)


def table_of(source: DataSource) -> str:
    """The lake table that a source names."""
    path = getattr(source, "path", "")
    if not path.startswith(SCHEME):
        raise FeatureError(f"source {source.name!r} is not in the lake", got=path, expected=f"{SCHEME}<table>")
    return path.removeprefix(SCHEME)


class AsofOfflineStore(OfflineStore):
    """Reads the lake."""

    supports_filter_by_created_timestamp = True  # always on: it is what the store is for

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str | None,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        **_: Any,
    ) -> "AsofJob":
        """`entity_df` may be SQL over the lake's tables, a DataFrame or an Arrow table. Its time is the column
        `event_timestamp`, or else its only timestamp. Every row comes back, once, in the given order."""
        if entity_df is None:
            raise FeatureError("historical features need entity rows", expected="SQL, a DataFrame or an Arrow table")
        views = tuple(_view_of(view, feature_refs, full_feature_names) for view in feature_views)
        return AsofJob(config.offline_store, full_feature_names, views=views, entities=entity_df)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> "AsofJob":
        """The newest row of each key whose event is in [start, end], of those that are known at `end`."""
        table, created = table_of(data_source), created_timestamp_column
        columns = [*join_key_columns, *feature_name_columns, timestamp_field, *([created] if created else [])]
        query = newest_sql(table, join_key_columns, columns, timestamp_field, created, start_date, end_date)
        return AsofJob(config.offline_store, False, query=query, table=table)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> "AsofJob":
        """Every row whose event is in [start, end]."""
        table, created = table_of(data_source), created_timestamp_column
        columns = [*join_key_columns, *feature_name_columns, timestamp_field, *([created] if created else [])]
        query = all_sql(table, columns, timestamp_field, start_date, end_date)
        return AsofJob(config.offline_store, False, query=query, table=table)

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        # Only the name is checked: definitions are applied before their tables are built.
        table_of(data_source)

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> list[tuple[str, str]]:
        table = table_of(data_source)
        with _connection(config.offline_store, table) as connection:
            described = connection.execute(f"describe {quote(table)}").fetchall()
        return [(name, kind) for name, kind, *_ in described]


class AsofJob(RetrievalJob):
    """A query over the lake, run when its result is asked for."""

    def __init__(
        self,
        config: AsofOfflineStoreConfig,
        full_feature_names: bool,
        *,
        query: str = "",
        table: str | None = None,
        views: tuple[JoinedView, ...] = (),
        entities: pd.DataFrame | pa.Table | str | None = None,
    ) -> None:
        self._config, self._full_feature_names = config, full_feature_names
        self._query, self._table, self._views, self._entities = query, table, views, entities

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        return []

    @property
    def metadata(self) -> None:
        return None

    @contextmanager
    def open(self, *, known_times: bool = False) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
        """The connection and the query to run on it.

        With `known_times`, a column `<view>__known_time` for each view says when the row that was joined could first be
        known.

        Raises:
            FeatureError: duplicate (key, event, created) rows, a column that is missing, a query that fails.
        """
        with _connection(self._config, self._table) as connection, _told():
            query = self._query
            if self._entities is not None:
                columns, timestamp = load_entities(connection, self._entities)
                query = join_sql(connection, columns, timestamp, self._views, known_times=known_times)
            yield connection, query

    def stream(self, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Record batches as they are made; out of core."""
        with self.open() as (connection, query):
            yield from connection.sql(query).to_arrow_reader(batch_rows)

    def write(self, path: Path) -> int:
        """Stream the result into an Arrow IPC file, or a Parquet file where `path` ends so; its rows."""
        if path.suffix == ".parquet":
            return self._write_parquet(path)
        with self.open() as (connection, query):
            reader = connection.sql(query).to_arrow_reader(BATCH_ROWS)
            rows = 0
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, reader.schema) as writer:
                for batch in reader:
                    writer.write_batch(batch)
                    rows += batch.num_rows
            return rows

    def _write_parquet(self, path: Path) -> int:
        target = str(path).replace("'", "''")
        with self.open() as (connection, query):
            return int(connection.execute(f"copy ({query}) to '{target}' (format parquet)").fetchall()[0][0])

    def persist(
        self, storage: SavedDatasetFileStorage, allow_overwrite: bool = False, timeout: int | None = None
    ) -> None:
        path = Path(storage.file_options.uri)
        if path.exists() and not allow_overwrite:
            raise FeatureError("a saved dataset is there already", got=path, fix="pass allow_overwrite=True")
        self._write_parquet(path)

    def table(self) -> pa.Table:
        """In memory. Feast's own `to_arrow` also sets up metrics for the whole process."""
        with self.open() as (connection, query):
            return connection.sql(query).to_arrow_table()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self.table()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self.table().to_pandas()


# --- the join -------------------------------------------------------------------------------------


def _view_of(view: FeatureView, refs: Sequence[str], full_feature_names: bool) -> JoinedView:
    source, name = view.batch_source, view.projection.name_to_use()
    wanted = [feature for owner, _, feature in (ref.partition(":") for ref in refs) if owner.split("@")[0] == name]
    return JoinedView(
        name=name,
        table=table_of(source),
        keys=tuple((key, view.projection.join_key_map.get(key, key)) for key in view.join_keys),
        features=tuple((feature, f"{name}__{feature}" if full_feature_names else feature) for feature in wanted),
        event=source.timestamp_field,
        created=source.created_timestamp_column or None,
        ttl=view.ttl or None,
    )


@contextmanager
def _connection(config: AsofOfflineStoreConfig, table: str | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """With every table that may be read, for SQL that people write, or only with `table`."""
    lake = Lake(
        config.lake_uri, memory_limit=config.memory_limit, threads=config.threads, scratch=config.scratch,
        borrowed=config.borrowed,
    )  # fmt: skip
    tables = {table: config.versions.get(table)} if table else config.versions or None
    with lake.connect(tables, own=table is None) as connection:
        yield connection


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        text = str(error)
        if AMBIGUOUS in text:
            table, _, row = text.removeprefix("Invalid Input Error: ").partition(": ")
            raise FeatureError(
                f"feature table {table!r} is ambiguous",
                got=row,
                expected="one row per key, event_timestamp and created_timestamp",
                fix=f"make the SQL of {table!r} give one row for each",
            ) from error
        raise FeatureError("features cannot be read", got=text) from error
