"""The rows that are written in bulk, against Feast's own."""

import json
import math
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import extract_text_and_num
from feast.type_map import python_values_to_proto_values
from feast.types import Int32, Int64, String, UnixTimestamp
from redis import Redis

from tasks.stores import feature_store
from tasks.stores.feast_online import key_protos
from tasks.stores.lake import Lake
from tasks.stores.online_rows import encode, pack_keys
from tests.benchmarks import bench_materialize
from tests.stores import online_servers

MOMENT = datetime(2013, 3, 10, 2, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (ValueType.DOUBLE, [0.0, -0.0, 1.5, -1e300, 5e-324, math.inf, math.nan, None]),
        (ValueType.FLOAT, [0.0, 1.5, math.nan, None]),
        (ValueType.INT64, [0, 1, 127, 128, 300, -1, 2**53 + 1, 2**63 - 1, -(2**63), None]),
        (ValueType.INT32, [0, 1, -1, 2**31 - 1, -(2**31), None]),
        (ValueType.STRING, ["", "a", "é", "it's", "x" * 200, None]),
        (ValueType.BOOL, [True, False, None]),
        (ValueType.UNIX_TIMESTAMP, [MOMENT, MOMENT - timedelta(days=20_000), None]),
    ],
    ids=lambda one: one.name if isinstance(one, ValueType) else "",
)
def test_values_are_feasts_to_the_byte(kind: ValueType, values: list[Any]) -> None:
    protos = python_values_to_proto_values(values, kind)
    column = pa.array(values, from_pandas=False)
    assert encode(kind, column) == (
        [proto.SerializeToString() for proto in protos],
        [extract_text_and_num(proto, False)[0] for proto in protos],
    )


@pytest.mark.parametrize(
    "columns",
    [
        {"tail": pa.array(["", "N1", "é", "x" * 300])},
        {"number": pa.array([0, -1, 2**63 - 1, -(2**63)])},
        {"z": pa.array([1, -1], pa.int32()), "a": pa.array(["b", "a"])},  # in order of names, whatever the view's
        {"day": pa.array([MOMENT, MOMENT - timedelta(days=20_000)]), "a": pa.array(["b", "a"])},  # left to Feast
    ],
    ids=lambda columns: "-".join(columns),
)
def test_keys_are_feasts_to_the_byte(columns: dict[str, pa.Array]) -> None:
    kinds = {pa.string(): String, pa.int64(): Int64, pa.int32(): Int32}
    fields = [Field(name=name, dtype=kinds.get(column.type, UnixTimestamp)) for name, column in columns.items()]
    entities = [Entity(name=f.name, join_keys=[f.name], value_type=f.dtype.to_value_type()) for f in fields]
    source = FileSource(name="wide", path="lake://wide", timestamp_field="event_timestamp")
    view = FeatureView(name="wide", entities=entities, schema=[*fields, Field(name="x", dtype=String)], source=source)
    config = SimpleNamespace(entity_key_serialization_version=3)
    protos = key_protos(view, [columns[name].to_pylist() for name in view.join_keys])
    expected = [serialize_entity_key(proto, entity_key_serialization_version=3) for proto in protos]
    assert pack_keys(config, view, pa.record_batch(columns)) == expected


def test_rows_are_those_that_feast_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online_store: str | None
) -> None:
    bench_materialize.make(str(tmp_path), 500)
    with Lake(f"{tmp_path}/lake").connect() as connection:
        assert connection.sql("select count(*) from wide where f0 is null").fetchall()[0][0] > 0
    assert bench_materialize.ours(str(tmp_path), online_store) == 500
    ours = cells(tmp_path, online_store)
    settings = json.loads(online_store or '{"type": "sqlite"}')
    if settings["type"] == "redis":
        online_servers.clear(settings)
    if settings["type"] == "postgres":
        with online_servers.connect(settings) as connection:
            connection.execute("delete from bench_wide")
    monkeypatch.setattr(feature_store, "bulk_writer", lambda *_: None)
    assert bench_materialize.ours(str(tmp_path), online_store) == 500
    assert ours == cells(tmp_path, online_store)
    assert len(ours) == 500 * (len(bench_materialize.KINDS) + ("redis" in (online_store or "")))


def cells(home: Path, online_store: str | None) -> list[tuple[Any, ...]]:
    """All that an online store holds: one row per key and feature, Redis' time fields too."""
    if online_store is None:
        with sqlite3.connect(home / "ours" / "online.db") as connection:
            return connection.execute("select * from bench_wide order by entity_key, feature_name").fetchall()
    settings = json.loads(online_store)
    if settings["type"] == "postgres":
        # Without the times: Feast's own are taken for New York's, where this server is.
        told = "select entity_key, feature_name, value, value_text, vector_value from bench_wide order by 1, 2"
        with online_servers.connect(settings) as connection:
            return list(connection.execute(told).fetchall())
    with Redis.from_url(f"redis://{settings['connection_string']}") as client:
        return sorted((key, *cell) for key in client.scan_iter() for cell in client.hgetall(key).items())
