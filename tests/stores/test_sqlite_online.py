"""The rows that are written in bulk, against Feast's own."""

import math
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from feast import ValueType
from feast.infra.online_stores.helpers import extract_text_and_num
from feast.type_map import python_values_to_proto_values

from tasks.stores import feature_store
from tasks.stores.lake import Lake
from tasks.stores.sqlite_online import encode
from tests.benchmarks import bench_materialize

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
    assert encode(kind, values) == [(p.SerializeToString(), extract_text_and_num(p, False)[0]) for p in protos]


def test_rows_are_those_that_feast_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench_materialize.make(str(tmp_path), 500)
    with Lake(f"{tmp_path}/lake").connect() as connection:
        assert connection.sql("select count(*) from wide where f0 is null").fetchall()[0][0] > 0
    assert bench_materialize.ours(str(tmp_path)) == 500
    ours = table(tmp_path)
    monkeypatch.setattr(feature_store, "is_plain_sqlite", lambda *_: False)
    assert bench_materialize.ours(str(tmp_path)) == 500
    assert ours == table(tmp_path)
    assert len(ours) == 500 * len(bench_materialize.KINDS)


def table(home: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(home / "ours" / "online.db") as connection:
        return connection.execute("select * from bench_wide order by entity_key, feature_name").fetchall()
