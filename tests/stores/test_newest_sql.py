"""The newest row of each key, against a plain loop over the rows."""

from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.stores.asof_sql import AMBIGUOUS
from tasks.stores.newest_sql import newest_sql

NOON = datetime(2024, 3, 10, 12, tzinfo=UTC)
START, END = NOON + timedelta(hours=1), NOON + timedelta(hours=4)
MOMENT = pa.timestamp("us", "UTC")
SCHEMA = pa.schema(
    {
        "car": pa.string(),
        "lane": pa.int32(),
        "event_timestamp": MOMENT,
        "created_timestamp": MOMENT,
        "value": pa.int64(),
    }
)
COLUMNS = ("car", "lane", "value", "event_timestamp", "created_timestamp")
Row = dict[str, Any]

hours = st.integers(0, 5).map(lambda n: NOON + n * timedelta(hours=1))
told = st.lists(
    st.fixed_dictionaries(
        {
            "car": st.sampled_from(["a", "b", None]),
            "lane": st.sampled_from([1, 2, None]),
            "event_timestamp": hours,
            "created_timestamp": st.none() | hours,
            "value": st.none() | st.integers(0, 9),
        }
    ),
    max_size=20,
)


def known_time(row: Row) -> datetime:
    return row["created_timestamp"] or row["event_timestamp"]


def newest(rows: list[Row]) -> list[Row]:
    """By SQL."""
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("seen", pa.Table.from_pylist(rows, SCHEMA))
        query = newest_sql("seen", ("car", "lane"), COLUMNS, "event_timestamp", "created_timestamp", START, END)
        return list(connection.sql(query).to_arrow_table().to_pylist())


@settings(deadline=None)
@given(rows=told)
def test_newest_rows_are_those_of_a_plain_loop(rows: list[Row]) -> None:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        is_seen = START <= row["event_timestamp"] <= END and known_time(row) <= END
        if is_seen and None not in (row["car"], row["lane"]):
            found.setdefault((row["car"], row["lane"]), []).append(row)
    best = {key: max((row["event_timestamp"], known_time(row)) for row in group) for key, group in found.items()}
    chosen = {
        key: [row for row in group if (row["event_timestamp"], known_time(row)) == best[key]]
        for key, group in found.items()
    }
    if any(len(group) > 1 for group in chosen.values()):
        with pytest.raises(duckdb.Error, match=AMBIGUOUS):
            newest(rows)
    else:
        expected = [{name: row[name] for name in COLUMNS} for _, (row,) in sorted(chosen.items())]
        assert newest(rows) == expected
