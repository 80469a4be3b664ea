"""Any online store through Feast: its reads, and the writes of a store that has no writer of its own here."""

from collections.abc import Sequence
from datetime import datetime
from itertools import compress
from typing import TYPE_CHECKING, Any

from tasks.core.errors import FeatureError
from tasks.stores.feature_definitions import View

if TYPE_CHECKING:
    import feast
    import pyarrow as pa
    from feast.infra.provider import Provider
    from feast.repo_config import RepoConfig

READ_KEYS = 5_000  # of one read; below SQLite's limit of variables in a query
WRITE_KEYS = 20_000  # of one write


def write(
    provider: "Provider", config: "RepoConfig", view: "feast.FeatureView", batch: "pa.RecordBatch", *, only_newer: bool
) -> int:
    """Any online store that Feast knows: see `online_rows.Write`; whether it is whole is the store's affair."""
    import pyarrow as pa

    keys = key_protos(view, [batch.column(key).to_pylist() for key in view.join_keys])
    if only_newer:
        events = batch.column(view.batch_source.timestamp_field).to_pylist()
        there = provider.online_read(config, view, keys)
        newer = [event is None or event < row for row, (event, _) in zip(events, there, strict=True)]
        keys, batch = list(compress(keys, newer)), batch.filter(pa.array(newer, pa.bool_()))
    provider.online_write_batch(config, view, _to_protos(keys, batch, view), None)
    return len(keys)


def _to_protos(
    keys: Sequence[Any], batch: "pa.RecordBatch", view: "feast.FeatureView"
) -> list[tuple[Any, dict[str, Any], datetime, Any]]:
    """Rows as Feast's online stores take them. Feast's own conversion goes through numpy, where an integer column with
    a null becomes floating point and loses its low digits."""
    from feast.type_map import python_values_to_proto_values

    columns = {
        feature.name: python_values_to_proto_values(
            batch.column(feature.name).to_pylist(), feature.dtype.to_value_type()
        )
        for feature in view.features
    }
    source = view.batch_source
    return list(
        zip(
            keys,
            [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)],
            batch.column(source.timestamp_field).to_pylist(),
            batch.column(source.created_timestamp_column).to_pylist(),
            strict=True,
        )
    )


def key_protos(view: "feast.FeatureView", columns: Sequence[Sequence[Any]]) -> list[Any]:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.type_map import python_values_to_proto_values

    names, kinds = view.join_keys, {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    protos = [
        python_values_to_proto_values(list(values), kinds[key]) for key, values in zip(names, columns, strict=True)
    ]
    return [EntityKey(join_keys=names, entity_values=values) for values in zip(*protos, strict=True)]


def read(
    provider: "Provider", config: "RepoConfig", source: "feast.FeatureView", view: View, rows: "pa.Table"
) -> list[tuple[datetime | None, dict[str, Any]]]:
    """Event time and values for each entity row; nothing for a key that is null or not there."""
    from feast.type_map import feast_value_type_to_python_type

    if missing := [key for _, key in view.keys if key not in rows.column_names]:
        raise FeatureError(f"entity rows lack {missing}, keys of view {view.name!r}", got=rows.column_names)
    keys = list(zip(*(rows.column(key).to_pylist() for _, key in view.keys), strict=True))
    distinct = [key for key in dict.fromkeys(keys) if None not in key]
    found: dict[tuple[Any, ...], tuple[datetime | None, dict[str, Any]]] = {}
    for start in range(0, len(distinct), READ_KEYS):
        chunk = distinct[start : start + READ_KEYS]
        protos = key_protos(source, list(zip(*chunk, strict=True)))
        answers = provider.online_read(config, source, protos, [name for name, _ in view.features])
        for key, (moment, values) in zip(chunk, answers, strict=True):
            plain = {name: feast_value_type_to_python_type(value) for name, value in (values or {}).items()}
            found[key] = (moment, plain)
    return [found.get(key, (None, {})) for key in keys]


def arrow_type(kind: str) -> "pa.DataType":
    import pyarrow as pa

    return {
        "VARCHAR": pa.string(),
        "INTEGER": pa.int32(),
        "BIGINT": pa.int64(),
        "FLOAT": pa.float32(),
        "DOUBLE": pa.float64(),
        "BOOLEAN": pa.bool_(),
        "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", "UTC"),
    }[kind]
