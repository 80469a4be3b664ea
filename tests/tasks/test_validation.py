"""Write, audit, publish: what is wrong in a batch, what it stops, and what is put aside and comes back."""

import json
import math
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.sections.data import TableSection
from tasks.core.errors import ValidationError
from tasks.core.records import BatchRef, TableRef, ValidatedBatch, Window
from tasks.home import open_lake
from tasks.ingestion import publish_batch
from tasks.quarantine import replay_quarantine
from tasks.validation import validate_batch

AS_OF = datetime(2013, 1, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
TABLE = TableSection.model_validate(
    {
        "description": "One row per sensor and reading.",
        "source": {"format": "csv", "path": "unused"},
        "columns": {"sensor": "sensor", "value": "value", "note": "note"},
        "key": ["sensor"],
        "event_timestamp": "moment",
        "created_timestamp": "moment",
        "max_quarantine_fraction": 0.2,
    }
)
SUITE: dict[str, Any] = {
    "name": "readings",
    "meta": {"may_be_all_null": ["note"]},
    "expectations": [
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "value", "min_value": 0, "max_value": 100}},
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "value", "mostly": 0.5}},
        {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "value", "max_value": 30}},
        {
            "type": "expect_column_values_to_be_in_set",
            "kwargs": {"column": "sensor", "value_set": ["a"]},
            "severity": "warning",
        },
    ],
}
SCHEMA = pa.schema(
    {
        "sensor": pa.string(),
        "value": pa.float64(),
        "note": pa.string(),
        "event_timestamp": pa.timestamp("us", "UTC"),
        "created_timestamp": pa.timestamp("us", "UTC"),
    }
)
Row = dict[str, Any]


def good(count: int = 10) -> list[Row]:
    moments = [AS_OF - (count - i) * HOUR for i in range(count)]
    return [
        {"sensor": "a", "value": float(i), "event_timestamp": moment, "created_timestamp": moment}
        for i, moment in enumerate(moments)
    ]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PERENNIAL_EXPECTATIONS", str(tmp_path / "expectations"))
    (tmp_path / "expectations" / "p").mkdir(parents=True)
    (tmp_path / "expectations" / "p" / "readings.json").write_text(json.dumps(SUITE))
    return tmp_path / "home"


def stage(home: Path, rows: Sequence[Row], batch_id: str = "b1") -> BatchRef:
    path = home / "staging" / "p" / "readings" / batch_id / "rows.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), path)
    return BatchRef(
        project="p", table="readings", batch_id=batch_id, uri=str(path), rows=len(rows),
        window=Window(start=AS_OF - 100 * HOUR, end=AS_OF), as_of=AS_OF,
    )  # fmt: skip


def publish(home: Path, rows: Sequence[Row], batch_id: str = "b1") -> tuple[ValidatedBatch, TableRef]:
    validated = validate_batch.fn(stage(home, rows, batch_id), TABLE)
    return validated, publish_batch.fn(validated, TABLE).table


def values() -> list[float | None]:
    with open_lake("p").connect() as connection:
        return [value for (value,) in connection.sql("select value from readings order by all").fetchall()]


def test_a_good_batch_is_published_with_its_warnings(home: Path) -> None:
    rows = good()
    rows[3]["sensor"] = "b"
    validated, table = publish(home, rows)
    assert (table.rows, validated.rows, validated.quarantined_rows) == (10, 10, 0)
    assert validated.uri == validated.batch.uri  # nothing was put aside, so that nothing is written again
    assert [(f.severity, f.scope, f.failing_rows) for f in validated.findings] == [("warning", "row", 1)]
    assert "sensor in set" in Path(validated.docs_uri).read_text()
    assert not list((home / "staging").rglob("*.*"))
    assert not list((home / "quarantine").rglob("*"))


def same_key_other_value() -> list[Row]:
    return [*good(), {**good()[0], "value": 7.0}]


def without(column: str, value: Any = None) -> list[Row]:
    return [{**row, column: value} for row in good()]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "the batch is empty"),
        (without("value"), "column value holds no value in any of 10 rows"),
        (without("value", math.nan), "column value holds no value"),
        (same_key_other_value(), "duplicate keys: 1 values"),
        ([{**row, "value": 99.0} for row in good()], "value mean between -∞ and 30, observed 99"),
        ([{**row, "value": -1.0 if i < 3 else 1.0} for i, row in enumerate(good())], "3 of 10 rows would be quarant"),
        ([{**row, "event_timestamp": AS_OF + HOUR} for row in good()], "event_timestamp lies in the future"),
    ],
    ids=["empty", "all null", "all nan", "duplicate keys", "aggregate", "too many", "future"],
)
def test_a_batch_that_may_not_be_published_leaves_everything_as_it_was(home: Path, rows: list[Row], said: str) -> None:
    _, before = publish(home, good(5), "b0")
    batch = stage(home, rows)
    with pytest.raises(ValidationError) as caught:
        validate_batch.fn(batch, TABLE)
    assert said in str(caught.value)
    page = home / "docs" / "p" / "readings" / "b1.html"
    assert str(page) in str(caught.value)
    assert page.is_file()
    assert open_lake("p").latest("readings") == before
    assert Path(batch.uri).is_file()
    assert not list((home / "quarantine").rglob("*.parquet"))


def test_a_row_that_comes_twice_is_inserted_once(home: Path) -> None:
    _, table = publish(home, [*good(), good()[4]])
    assert table.rows == 10


BAD_ROWS: dict[str, Row] = {
    "value between 0 and 100": {"value": 1048.0},
    "event_timestamp is missing": {"event_timestamp": None},
    "sensor is missing": {"sensor": None},
    "event_timestamp lies in the future": {"event_timestamp": AS_OF + HOUR, "created_timestamp": AS_OF},
    "known before it happened": {"created_timestamp": AS_OF - 99 * HOUR},
}


def test_rows_that_fail_are_put_aside_with_their_reasons(home: Path) -> None:
    rows = good(40)
    for row, change in zip(rows, BAD_ROWS.values(), strict=False):
        row.update(change)
    rows[0]["value"] = -1.0
    validated, table = publish(home, rows)
    assert (table.rows, validated.quarantined_rows) == (35, 5)
    assert validated.quarantine_uri is not None
    aside = pq.read_table(validated.quarantine_uri)
    reasons = {reason for listed in aside["reasons"].to_pylist() for reason in listed}
    assert reasons == set(BAD_ROWS)
    # The same batch again puts the same rows aside, once.
    again, _ = publish(home, rows)
    assert again.quarantine_uri == validated.quarantine_uri
    assert pq.read_table(again.quarantine_uri).equals(aside)


def test_mended_rows_are_published_and_the_others_stay(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = good()
    rows[2]["value"], rows[3]["value"] = -1.0, -2.0
    validated, _ = publish(home, rows)
    file = Path(str(validated.quarantine_uri))
    # A person mends one of the two, with a tool that keeps neither types nor reasons.
    frame = pq.read_table(file).to_pandas().drop(columns="reasons")
    frame.loc[frame["value"] == -1.0, "value"] = 2.0
    frame.assign(event_timestamp=frame["event_timestamp"].astype(str)).to_parquet(file)
    held = file.read_bytes()

    published = replay_quarantine.fn("p", "readings", TABLE, AS_OF)
    assert [batch.inserted_rows for batch in published] == [1]
    assert pq.read_table(file)["value"].to_pylist() == [-2.0]
    table = open_lake("p").latest("readings")
    assert table.rows == 9

    # A kill after the publish and before the file was rewritten, then a replay: nothing is doubled.
    file.write_bytes(held)
    assert [batch.inserted_rows for batch in replay_quarantine.fn("p", "readings", TABLE, AS_OF)] == [0]
    assert replay_quarantine.fn("p", "readings", TABLE, AS_OF) == []
    assert open_lake("p").latest("readings") == table

    # The suite is mended instead: the last row passes, and nothing is left. It is the table of a batch without faults.
    suite = Path(str(home.parent / "expectations" / "p" / "readings.json"))
    suite.write_text(suite.read_text().replace('"min_value": 0', '"min_value": -5'))
    replay_quarantine.fn("p", "readings", TABLE, AS_OF)
    assert not list((home / "quarantine").rglob("*.parquet"))
    assert -2.0 in values()
    rows[2]["value"] = 2.0
    monkeypatch.setenv("PERENNIAL_HOME", str(home / "other"))
    assert publish(home / "other", rows)[1].digest == _digest(home, monkeypatch)


def _digest(home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PERENNIAL_HOME", str(home))
    return open_lake("p").latest("readings").digest


def test_a_replay_does_not_publish_what_is_not_known_yet_or_contradicts_itself(home: Path) -> None:
    rows = good()
    rows[9].update(event_timestamp=AS_OF + HOUR, created_timestamp=AS_OF - HOUR)
    validated, table = publish(home, rows)
    assert replay_quarantine.fn("p", "readings", TABLE, AS_OF) == []
    file = Path(str(validated.quarantine_uri))
    one = pq.read_table(file)
    pq.write_table(pa.Table.from_pylist([*one.to_pylist(), {**one.to_pylist()[0], "value": 5.0}]), file)
    with pytest.raises(ValidationError, match="come with different rows"):
        replay_quarantine.fn("p", "readings", TABLE, AS_OF)
    shutil.copy(__file__, file)
    with pytest.raises(ValidationError, match="cannot be read"):
        replay_quarantine.fn("p", "readings", TABLE, AS_OF)
    assert open_lake("p").latest("readings") == table


def test_a_table_without_a_suite_is_not_published(home: Path) -> None:
    (home.parent / "expectations" / "p" / "readings.json").unlink()
    with pytest.raises(ValidationError, match=r"readings\.json"):
        validate_batch.fn(stage(home, good()), TABLE)
