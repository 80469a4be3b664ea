"""Feature definitions: what a project's feature file declares, read through Feast and told in plain values."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import FeatureError
from tasks.core.records import digest

if TYPE_CHECKING:
    import feast

TIMES = ("event_timestamp", "created_timestamp")
DUMMY_KEY = "__dummy_id"  # Feast's, of a view without entity
_DUCKDB_TYPES = {
    "STRING": "VARCHAR",
    "INT32": "INTEGER",
    "INT64": "BIGINT",
    "FLOAT": "FLOAT",
    "DOUBLE": "DOUBLE",
    "BOOL": "BOOLEAN",
    "UNIX_TIMESTAMP": "TIMESTAMP WITH TIME ZONE",
}


@dataclass(frozen=True, slots=True)
class View:
    """A feature view as a service joins it: result columns are `name__feature`."""

    name: str
    base: str  # the view's own name, where a service gives it another
    table: str
    keys: tuple[tuple[str, str], ...]  # column of the feature table, column of the entity rows
    ttl: timedelta | None  # None: for ever
    features: tuple[tuple[str, str], ...]  # column, DuckDB type

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(f"{self.name}__{feature}" for feature, _ in self.features)


@dataclass(frozen=True, slots=True)
class Table:
    """What the views ask of a feature table, beside `event_timestamp` and `created_timestamp`."""

    key: tuple[str, ...]
    columns: dict[str, str]  # keys and features -> DuckDB type


@dataclass(frozen=True, slots=True)
class Definitions:
    """What a project's feature file says, and what it said before and a model may still be pinned to."""

    project: str
    services: dict[str, tuple[View, ...]]
    tables_of_views: dict[str, Table]  # by the view's own name

    def views(self, services: Sequence[str]) -> tuple[View, ...]:
        """The views of several services, each once.

        Raises:
            FeatureError: an unknown service, or one name for two different views.
        """
        found: dict[str, View] = {}
        for service in services:
            if service not in self.services:
                raise FeatureError(
                    f"no feature service {service!r} in project {self.project!r}",
                    expected=f"one of {sorted(self.services)}",
                )
            for view in self.services[service]:
                other = found.setdefault(view.name, view)
                if (other.base, other.keys) != (view.base, view.keys):
                    raise FeatureError(
                        f"services {list(services)} call different views {view.name!r}",
                        got=[other.base, view.base],
                        fix="give one of them another name: view.with_name(…)",
                    )
                features = tuple(dict.fromkeys((*other.features, *view.features)))
                found[view.name] = replace(view, features=features)
        return tuple(found.values())

    def tables(self, services: Sequence[str]) -> dict[str, Table]:
        """What the views of the services ask of each feature table.

        Raises:
            FeatureError: views that do not agree on a table's key and types.
        """
        found: dict[str, Table] = {}
        for view in self.views(services):
            asked = self.tables_of_views[view.base]
            other = found.setdefault(view.table, asked)
            if other.key != asked.key or any(other.columns.get(n, kind) != kind for n, kind in asked.columns.items()):
                raise FeatureError(f"views of {view.table!r} do not agree on its key and types", got=[other, asked])
            found[view.table] = Table(asked.key, {**other.columns, **asked.columns})
        return found


def load_objects(folder: Path, project: str) -> list[Any]:
    """The Feast objects of `<folder>/<project>.py`, of that file alone.

    Raises:
        FeatureError: no such file, one that cannot be read, or definitions that cannot be served.
    """
    from tasks.stores.light_feast import feast

    # isort: split
    from feast.data_source import DataSource

    path = folder / f"{project}.py"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.py") if file.stem != "__init__")
        raise FeatureError(f"no feature definitions for project {project!r}", got=path, expected=f"one of {known}")
    spec = importlib.util.spec_from_file_location(f"perennial_features_{project}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise FeatureError(f"{path} cannot be read", got=f"{type(error).__name__}: {error}") from error
    kinds = (feast.Entity, feast.base_feature_view.BaseFeatureView, feast.FeatureService, DataSource)
    objects = [value for value in vars(module).values() if isinstance(value, kinds)]
    first: dict[str, Any] = {}
    for view in objects:
        if isinstance(view, feast.base_feature_view.BaseFeatureView):
            _check_view(path, view)
            first.setdefault(view.name, view)
    for service in objects:
        if isinstance(service, feast.FeatureService):
            _check_service(path, service)
    return [value for value in objects if not _is_copy(value, first)]


def _is_copy(value: Any, first: dict[str, Any]) -> bool:
    """`view.with_name(…)` and `view[[…]]` are copies of their view; only that is a definition."""
    view = first.get(value.name)
    if view is None or view is value or type(view) is not type(value):
        return False
    return bool(view.to_proto().spec == value.to_proto().spec)


def _check_service(path: Path, service: Any) -> None:
    if any(not hasattr(feature, "name") for feature in service._features):
        raise FeatureError(
            f"{path}: service {service.name!r} names its views by text", got=service._features,
            expected="the views themselves: features=[view, view[[\"feature\"]]]",
        )  # fmt: skip
    # Feast 0.67 cannot compare such a service with itself when it is applied again.
    uses = [(use.name, use.name_alias) for use in service.feature_view_projections]
    if unclear := [view for view, alias in uses if alias is None and [name for name, _ in uses].count(view) > 1]:
        raise FeatureError(
            f"{path}: service {service.name!r} uses view {unclear[0]!r} more than once",
            expected="a name of its own for each use",
            fix=f"{unclear[0]}.with_name(…) for every one of them",
        )


def _check_view(path: Path, view: Any) -> None:
    import feast

    if type(view) is not feast.FeatureView:
        raise FeatureError(
            f"{path}: {view.name!r} is a {type(view).__name__}",
            expected="feature views of lake tables",
            fix="compute it in the SQL of a feature table, or in `features.derived` of the recipe",
        )
    source = view.batch_source
    if view.join_keys in ([], [DUMMY_KEY]):
        raise FeatureError(
            f"{path}: view {view.name!r} has no entity", expected="one or more, whose keys are joined by"
        )
    if (source.timestamp_field, source.created_timestamp_column) != TIMES or source.field_mapping:
        raise FeatureError(
            f"{path}: the source of view {view.name!r} names its columns otherwise",
            got=[source.timestamp_field, source.created_timestamp_column, dict(source.field_mapping)],
            expected=f"timestamp_field={TIMES[0]!r}, created_timestamp_column={TIMES[1]!r}, no field_mapping",
        )
    describe_table(view)


def digest_of(objects: Sequence[Any]) -> str:
    """One for equal definitions, in any process and whether they are applied or not."""
    from google.protobuf.json_format import MessageToDict

    said = [(type(value).__name__, value.name, _timeless(MessageToDict(value.to_proto()))) for value in objects]
    return digest(sorted(said, key=lambda entry: entry[:2]))


def _timeless(proto: Any) -> Any:
    """Without `meta`, which says when an object was made or applied."""
    if isinstance(proto, dict):
        return {name: _timeless(value) for name, value in proto.items() if name != "meta"}
    return [_timeless(value) for value in proto] if isinstance(proto, list) else proto


def describe_use(view: "feast.FeatureView", use: Any) -> View:
    """`use`: the projection through which a service sees the view."""
    return View(
        name=use.name_to_use(),
        base=view.name,
        table=_table_name(view),
        keys=tuple((key, use.join_key_map.get(key, key)) for key in view.join_keys),
        ttl=view.ttl or None,
        features=tuple((feature.name, _duckdb_type(view, feature)) for feature in use.features),
    )


def describe_table(view: "feast.FeatureView") -> Table:
    _table_name(view)
    columns = {field.name: _duckdb_type(view, field) for field in (*view.entity_columns, *view.features)}
    return Table(tuple(view.join_keys), columns)


def _table_name(view: "feast.FeatureView") -> str:
    from tasks.stores.asof_store import table_of

    return table_of(view.batch_source)


def _duckdb_type(view: "feast.FeatureView", field: Any) -> str:
    kind = field.dtype.to_value_type().name
    if kind not in _DUCKDB_TYPES:
        raise FeatureError(
            f"view {view.name!r}: {field.name!r} is of type {kind}", expected=f"one of {list(_DUCKDB_TYPES)}"
        )
    return _DUCKDB_TYPES[kind]
