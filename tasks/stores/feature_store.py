"""The feature store: definitions, historical features, materialization and online reads, on Feast.

A project's definitions are one file, `<folder>/<project>.py`, and one Feast project. They are applied to a SQL registry
(the file registry does not survive two writers); what is applied is never deleted, so that a service that a model is
pinned to can be joined for as long as its feature tables are built.
"""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import FeatureError
from tasks.core.records import digest
from tasks.stores import feast_online
from tasks.stores.feature_definitions import (
    Definitions,
    describe_table,
    describe_use,
    digest_of,
    load_objects,
)
from tasks.stores.online_rows import bulk_writer

if TYPE_CHECKING:
    import feast
    import pandas as pd
    import pyarrow as pa
    from feast.infra.provider import Provider

    from tasks.stores.asof_store import AsofJob

BEGINNING = datetime(1900, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class FeatureStore:
    """One project's feature store. `folder` holds `<project>.py`; `home` is where SQLite files lie by default."""

    project: str
    folder: Path
    home: Path
    lake_uri: str
    registry_url: str | None = None  # a SQLAlchemy URL
    online_store: str | None = None  # a JSON object in Feast's words
    offline: dict[str, Any] = field(default_factory=dict)  # memory_limit, threads, scratch

    # --- definitions ----------------------------------------------------------------------------

    @cached_property
    def definitions(self) -> Definitions:
        """Read the project's file and apply it.

        Raises:
            FeatureError: no such project, a file that cannot be read, or definitions that cannot be.
        """
        objects = load_objects(self.folder, self.project)
        self._apply(objects)
        with self._opened() as store:
            views = self._feast_views(store)
            services = {
                service.name: tuple(describe_use(views[use.name], use) for use in service.feature_view_projections)
                for service in store.list_feature_services()
            }
        return Definitions(self.project, services, {name: describe_table(view) for name, view in views.items()})

    def _apply(self, objects: list[Any]) -> None:
        """Tell Feast, unless it knows."""
        from feast.errors import FeastError

        online = self._online_config
        wanted = digest([digest_of(objects), online])
        lost = online.get("type") == "sqlite" and not Path(online["path"]).exists()
        with self._state() as state:
            if state.get("definitions") == wanted and not lost:
                return
            try:
                with self._opened() as store:
                    store.apply(objects)
            except (FeastError, ValueError) as error:
                raise FeatureError(f"definitions of project {self.project!r} cannot be applied", got=error) from error
            state["definitions"] = wanted
            if lost:
                state |= {name: "{}" for name in state if name.startswith("materialized/")}

    # --- history ----------------------------------------------------------------------------------

    def historical(
        self,
        entities: "str | pd.DataFrame | pa.Table",
        services: Sequence[str],
        *,
        versions: Mapping[str, int] | None = None,
    ) -> "AsofJob":
        """Entity rows and their features as known at each row's `event_timestamp`: one row per entity row, in order.

        Nothing runs until the job is asked: `write(path)` streams to Arrow IPC or Parquet and gives the number of rows,
        `table()` is in memory, `stream()` gives batches. `entities` as SQL may name the lake's tables. `versions` pins
        the tables that can be read.
        """
        wanted = self.definitions.views(services)
        with self._opened(versions) as store:
            known = self._feast_views(store)
            uses = {
                projection.name_to_use(): known[projection.name].with_projection(projection)
                for service in services
                for projection in store.get_feature_service(service).feature_view_projections
            }
            return _provider(store).get_historical_features(
                config=store.config,
                feature_views=[uses[view.name] for view in wanted],
                feature_refs=[f"{view.name}:{feature}" for view in wanted for feature, _ in view.features],
                entity_df=entities,
                registry=store.registry,
                project=self.project,
                full_feature_names=True,
            )

    # --- online -------------------------------------------------------------------------------------

    def materialize(
        self,
        services: Sequence[str],
        *,
        as_of: datetime,
        lookback: timedelta,
        versions: Mapping[str, int] | None = None,
        builds: Mapping[str, str] | None = None,
    ) -> dict[str, int]:
        """Write the newest row of each key, as known at `as_of`, to the online store; rows written per view.

        The window is our own: from `lookback` before the last materialization, or from the beginning where there was
        none, or where `builds` (feature table -> digest of its SQL) says that the table is another one now. A run for
        an earlier moment than the last one never replaces what is there by what is older.
        """
        tables, written = self.definitions.tables(services), {}
        with self._opened(versions) as store:
            known = self._feast_views(store)
            for name, table in {view.base: view.table for view in self.definitions.views(services)}.items():
                build = digest([(builds or {}).get(table), tables[table].columns, self._online_config])
                with self._state() as state:
                    last = json.loads(state.get(f"materialized/{name}", "{}"))
                    end = datetime.fromisoformat(last["end"]) if last.get("build") == build else None
                    start = end - lookback if end and end <= as_of else BEGINNING
                    is_older = end is not None and end > as_of
                    written[name] = self._write_online(store, known[name], start, as_of, is_older=is_older)
                    state[f"materialized/{name}"] = json.dumps({"end": str(max(end or as_of, as_of)), "build": build})
        return written

    def _write_online(
        self, store: "feast.FeatureStore", view: "feast.FeatureView", start: datetime, end: datetime, *, is_older: bool
    ) -> int:
        provider, source, rows = _provider(store), view.batch_source, 0
        job = provider.offline_store.pull_latest_from_table_or_query(
            config=store.config,
            data_source=source,
            join_key_columns=list(view.join_keys),
            feature_name_columns=[feature.name for feature in view.features],
            timestamp_field=source.timestamp_field,
            created_timestamp_column=source.created_timestamp_column,
            start_date=start,
            end_date=end,
        )
        write = bulk_writer(provider, store.config) or feast_online.write
        for batch in job.stream(feast_online.WRITE_KEYS):
            rows += write(provider, store.config, view, batch, only_newer=is_older)
        return rows

    def online(self, services: Sequence[str], rows: "pa.Table", *, as_of: datetime) -> "pa.Table":
        """Entity rows with their online features, in order. Feast serves values of any age: here a value that is older
        than its view's ttl at `as_of`, or newer than `as_of`, is null.

        Feast's SQLite store keeps event times in whole seconds, so a ttl can end up to one second early.
        """
        import pyarrow as pa

        views, table = self.definitions.views(services), rows
        with self._opened() as store:
            known = self._feast_views(store)
            answers = [
                feast_online.read(_provider(store), store.config, known[view.base], view, rows) for view in views
            ]
        for view, answer in zip(views, answers, strict=True):
            oldest = as_of - view.ttl if view.ttl else BEGINNING
            served = [values if moment and oldest <= moment <= as_of else {} for moment, values in answer]
            for (feature, kind), name in zip(view.features, view.outputs, strict=True):
                table = table.append_column(
                    name, pa.array([v.get(feature) for v in served], feast_online.arrow_type(kind))
                )
        return table

    # --- Feast ----------------------------------------------------------------------------------------

    def _store(self, versions: Mapping[str, int] | None = None) -> "feast.FeatureStore":
        from tasks.stores.light_feast import feast

        # isort: split
        from feast.repo_config import RepoConfig

        _keep_sqlite_in_utc()
        self.home.mkdir(parents=True, exist_ok=True)
        return feast.FeatureStore(
            config=RepoConfig(
                project=self.project,
                provider="local",
                registry={"registry_type": "sql", "path": self._registry_url},
                online_store=self._online_config,
                offline_store={
                    "type": "tasks.stores.asof_store.AsofOfflineStore",
                    "lake_uri": self.lake_uri,
                    "versions": dict(versions or {}),
                    **self.offline,
                },
                entity_key_serialization_version=3,
            )
        )

    @contextmanager
    def _opened(self, versions: Mapping[str, int] | None = None) -> Iterator["feast.FeatureStore"]:
        """With connections that end here: Feast leaves them open, that to the online store amid a transaction."""
        store = self._store(versions)
        try:
            yield store
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("psycopg", "psycopg_pool", "redis"):
                raise
            raise FeatureError(
                f"the online store of project {self.project!r} cannot be used", got=error,
                fix="see that the server of PERENNIAL_ONLINE_STORE is up and lets this user in; where it was emptied,"
                " empty PERENNIAL_FEAST_REGISTRY too",
            ) from error  # fmt: skip
        finally:
            online = _provider(store).online_store
            for name in ("_conn", "_conn_pool", "_client"):
                if (held := getattr(online, name, None)) is not None:
                    held.close()
            for name in ("write_engine", "read_engine"):
                getattr(store.registry, name).dispose()

    def _feast_views(self, store: "feast.FeatureStore") -> dict[str, "feast.FeatureView"]:
        return {view.name: view for view in store.registry.list_feature_views(self.project)}

    @property
    def _registry_url(self) -> str:
        return self.registry_url or f"sqlite:///{self.home / 'registry.db'}?timeout=60"

    @property
    def _online_config(self) -> dict[str, Any]:
        if self.online_store is None:
            return {"type": "sqlite", "path": str(self.home / "online.db")}
        return dict(json.loads(self.online_store))

    @contextmanager
    def _state(self) -> Iterator[dict[str, str]]:
        """What was applied and materialized, kept beside the registry: every worker of a project must know it."""
        import sqlalchemy as sa

        self.home.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(self._registry_url, poolclass=sa.NullPool)
        table = sa.Table(
            "perennial_state",
            sa.MetaData(),
            sa.Column("project", sa.String(255), primary_key=True),
            sa.Column("name", sa.String(255), primary_key=True),
            sa.Column("value", sa.Text, nullable=False),
        )
        with engine.begin() as connection:
            table.create(connection, checkfirst=True)
            rows = connection.execute(sa.select(table.c.name, table.c.value).where(table.c.project == self.project))
            before = {row.name: row.value for row in rows}
        state = dict(before)
        yield state
        with engine.begin() as connection:
            for name in (name for name, value in state.items() if before.get(name) != value):
                same = (table.c.project == self.project) & (table.c.name == name)
                connection.execute(sa.delete(table).where(same))
                connection.execute(sa.insert(table).values(project=self.project, name=name, value=state[name]))


def _keep_sqlite_in_utc() -> None:
    """Feast's SQLite store passes UTC times through the machine's own zone, and loses the hour in which that zone's
    clocks go forward. The same numbers, read and written as what they are."""
    import sqlite3

    importlib.import_module("feast.infra.online_stores.sqlite")  # registers its own, which these replace
    sqlite3.register_adapter(
        datetime, lambda moment: int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    )
    sqlite3.register_converter("timestamp", lambda value: datetime.fromtimestamp(int(value), UTC))


def _provider(store: "feast.FeatureStore") -> "Provider":
    return store._get_provider()
