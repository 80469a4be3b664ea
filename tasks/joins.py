"""Joined rows: entity rows with their features as known at each prediction time, for training and scoring alike."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from configs.sections.data import TableSection
from configs.sections.rows import FeaturesSection, LabelSection
from tasks.core import model_rows
from tasks.core.errors import FeatureError, LeakageError, ModelError, RecipeError
from tasks.core.model_rows import LabelPlan, RowPlan
from tasks.core.records import Inputs, ModelRef, TableRef, Window
from tasks.home import open_feature_store, open_registry

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from tasks.stores.feature_store import FeatureStore

JOINED = "joined"  # the temporary table that the join is put into
KNOWN_TIME = "__known_time"  # view -> the column of when its joined row could first be known
BATCH_ROWS = 65_536


def row_plan(reader: str, table: TableSection, features: FeaturesSection) -> RowPlan:
    """What the recipe's sections say of a model's rows, in plain values."""
    return RowPlan(
        reader=reader,
        table=features.entity_rows.table,
        table_columns=tuple(table.columns),
        key=table.key,
        prediction_time=features.entity_rows.prediction_time,
        columns=features.entity_rows.columns,
        derived=features.derived,
        categorical=features.categorical,
        drop=features.drop,
    )


def label_plan(label: LabelSection) -> LabelPlan:
    """What the recipe's section says of labels, in plain values."""
    missing = None if label.missing == "drop" else str(label.missing)
    return LabelPlan(kind=label.kind, table=label.table, expression=label.expression, missing=missing)


@dataclass(frozen=True, slots=True)
class ModelRows:
    """Of the recipe that a registered model was trained by: the sections that make its rows and their labels."""

    table: TableSection
    features: FeaturesSection
    label: LabelSection
    max_latency_ms: float | None = None  # of one prediction, by the gate that let it pass


def read_model_rows(project: str, model: ModelRef) -> ModelRows:
    """What a registered model's rows are made of: its own recipe's word, not today's, on the service it is pinned to.

    Raises:
        ModelError: a version without its recipe.
    """
    registry = open_registry(project)
    try:
        recipe = json.loads(registry.read_text(model.run_id, "recipe.json"))
    except FileNotFoundError as error:
        raise ModelError(
            f"version {model.version} of {model.name!r} has no recipe.json",
            expected="the recipe it was trained by, among its run's artifacts",
            fix="run its training again; a version is registered together with its recipe",
        ) from error
    features = FeaturesSection.model_validate(recipe["features"])
    pinned = registry.tags(model).get("perennial.feature_service", features.service)
    table = TableSection.model_validate(recipe["tables"][features.entity_rows.table])
    label = LabelSection.model_validate(recipe["label"])
    limit = recipe.get("gate", {}).get("max_latency_ms")
    return ModelRows(table, features.model_copy(update={"service": pinned}), label, limit)


@dataclass(frozen=True, slots=True)
class JoinedRows:
    """The rows of one model in one window, joined; `made` are the inputs that its recipe makes."""

    connection: "duckdb.DuckDBPyConnection"
    plan: RowPlan
    made: Inputs
    label: LabelPlan | None

    def read(self, inputs: Inputs, *, is_sorted: bool = True) -> "pa.RecordBatchReader":
        """Key, `prediction_time`, inputs, and `label` where it was asked for, sorted by (prediction_time, key)."""
        derived = model_rows.derived_query(JOINED, [self.plan])
        query = model_rows.rows_query(derived, self.plan.key, inputs, self.label, is_sorted=is_sorted)
        return self.connection.sql(query).to_arrow_reader(BATCH_ROWS)


@contextmanager
def join_model_rows(
    project: str,
    model: ModelRef,
    own: ModelRows,
    window: Window,
    as_of: datetime,
    tables: Sequence[TableRef],
    *,
    labelled: bool = False,
) -> Iterator[JoinedRows]:
    """A registered model's rows of a window, as its own recipe makes them; with labels that are known at `as_of`.

    Raises:
        FeatureError: a feature table that is not among `tables`.
    """
    store, services = open_feature_store(project), (own.features.service,)
    versions = {ref.name: ref for ref in tables}
    feature_tables(store, services, versions)
    plan = row_plan(f"version {model.version}", own.table, own.features)
    entities = model_rows.entity_query(plan, window, as_of)
    label = label_plan(own.label) if labelled else None
    if label is not None:
        entities = model_rows.labelled_query(entities, plan.key, label, as_of)
    with join_features(store, entities, services, versions) as connection:
        types = column_types(connection, model_rows.derived_query(JOINED, [plan]))
        yield JoinedRows(
            connection, plan, model_rows.choose_inputs(plan, service_features(store, services[0]), types), label
        )


@contextmanager
def join_features(
    store: "FeatureStore", entities: str, services: Sequence[str], tables: Mapping[str, TableRef]
) -> Iterator["duckdb.DuckDBPyConnection"]:
    """A connection with the table `joined`: the rows of the SQL `entities` with `view__feature` for every view of the
    services, and `view__known_time`.

    Raises:
        FeatureError: features that cannot be read.
        LeakageError: not exactly one row for each entity row.
        RecipeError: an expression over the joined rows that DuckDB refuses.
    """
    import duckdb

    from tasks.stores.confined import confine

    versions = {name: table.version for name, table in tables.items()}
    with store.historical(entities, services, versions=versions).open(known_times=True) as (connection, query):
        confine(connection, folders=[table.uri for table in tables.values()])
        connection.execute(f"create temp table {JOINED} as {query}")
        expected, found = (
            connection.sql(f"select count(*) from {rows}").fetchall()[0][0] for rows in (f"({entities})", JOINED)
        )
        if expected != found:
            raise LeakageError(
                "the join does not keep the entity rows", got=f"{found:,} rows", expected=f"{expected:,}, one for each"
            )
        try:
            yield connection
        except duckdb.Error as error:
            raise RecipeError(
                "joined rows cannot be made into inputs",
                got=str(error).strip().splitlines()[0],
                fix="correct the expression under features.derived, features.entity_rows.columns or label",
            ) from error


def column_types(connection: "duckdb.DuckDBPyConnection", query: str) -> dict[str, str]:
    """Column -> DuckDB type."""
    return {name: kind for name, kind, *_ in connection.sql(f"describe {query}").fetchall()}


def service_features(store: "FeatureStore", service: str) -> list[str]:
    """The full names of a service's features, in order."""
    return [name for view in store.definitions.views((service,)) for name in view.outputs]


def feature_tables(store: "FeatureStore", services: Sequence[str], tables: Mapping[str, TableRef]) -> set[str]:
    """The feature tables that services read.

    Raises:
        FeatureError: one that is not among `tables`.
    """
    names = {view.table for view in store.definitions.views(services)}
    if missing := sorted(names - set(tables)):
        raise FeatureError(
            f"services {list(services)} read feature tables that were not given",
            got=sorted(tables),
            expected=f"{missing} too",
            fix="build the features of these services first, and hand on their tables",
        )
    return names
