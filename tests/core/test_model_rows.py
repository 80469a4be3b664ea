"""The SQL of a model's rows: which versions, which labels, which inputs."""

import dataclasses
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pytest

from tasks.core.errors import RecipeError
from tasks.core.model_rows import (
    LabelPlan,
    RowPlan,
    check_agreement,
    check_names,
    choose_inputs,
    derived_query,
    entity_query,
    labelled_query,
    merge_inputs,
    rows_query,
)
from tasks.core.records import Inputs, Window

DAY = datetime(2013, 3, 1, tzinfo=UTC)
PLAN = RowPlan(
    reader="service delay",
    table="schedule",
    table_columns=("flight", "dest"),
    key=("flight",),
    prediction_time="event_timestamp - interval 2 hour",
    columns={"flight": "flight", "place": "upper(dest)"},
    derived={"age": "view__seen / 2", "half_age": "age / 2"},
    categorical=(),
    drop=("view__seen",),
)
LABEL = LabelPlan(kind="binary", table="arrivals", expression="delay >= 15", missing=None)


@pytest.fixture
def connection() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    for table in ("schedule (flight int, dest varchar,", "arrivals (flight int, delay int,"):
        connection.execute(f"create table {table} event_timestamp timestamptz, created_timestamp timestamptz)")
    return connection


def at(hours: float) -> datetime:
    return DAY + timedelta(hours=hours)


def schedule(connection: duckdb.DuckDBPyConnection, *rows: tuple[int, str, float, float]) -> None:
    for flight, dest, event, created in rows:
        connection.execute("insert into schedule values (?, ?, ?, ?)", [flight, dest, at(event), at(created)])


def arrivals(connection: duckdb.DuckDBPyConnection, *rows: tuple[int, int | None, float, float]) -> None:
    for flight, delay, event, created in rows:
        connection.execute("insert into arrivals values (?, ?, ?, ?)", [flight, delay, at(event), at(created)])


def entities(connection: duckdb.DuckDBPyConnection, as_of: float = 100) -> list[tuple[int, str, datetime]]:
    query = entity_query(PLAN, Window(start=at(0), end=at(24)), at(as_of))
    return connection.execute(f"select flight, place, event_timestamp from ({query}) order by 1").fetchall()


def test_a_row_per_key_at_its_prediction_time(connection: duckdb.DuckDBPyConnection) -> None:
    schedule(connection, (1, "bos", 10, -50), (2, "lax", 12, -50))
    assert entities(connection) == [(1, "BOS", at(8)), (2, "LAX", at(10))]


def test_the_window_is_half_open(connection: duckdb.DuckDBPyConnection) -> None:
    schedule(connection, (1, "first", 2, -50), (2, "before", 1.9, -50), (3, "end", 26, -50), (4, "last", 25.9, -50))
    assert [flight for flight, *_ in entities(connection)] == [1, 4]


def test_the_latest_version_known_at_its_own_prediction_time(connection: duckdb.DuckDBPyConnection) -> None:
    schedule(connection, (1, "old", 10, -50), (1, "new", 10, 8), (1, "too late", 10, 8.1))
    assert entities(connection) == [(1, "NEW", at(8))]


def test_a_version_unknown_at_as_of_is_not_there(connection: duckdb.DuckDBPyConnection) -> None:
    schedule(connection, (1, "old", 10, -50), (1, "new", 20, 9))
    assert entities(connection, as_of=8.5) == [(1, "OLD", at(8))]
    assert entities(connection, as_of=9) == [(1, "NEW", at(18))]


def test_a_row_that_was_announced_after_its_prediction_time_is_never_predicted(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    schedule(connection, (1, "extra", 10, 9))
    assert entities(connection) == []


def test_labels_by_the_latest_correction_known_at_as_of(connection: duckdb.DuckDBPyConnection) -> None:
    schedule(connection, (1, "a", 10, -50), (2, "b", 10, -50), (3, "c", 10, -50))
    arrivals(connection, (1, 5, 11, 11), (1, 20, 11, 30), (1, 3, 11, 51), (2, 16, 12, 60))
    rows = entity_query(PLAN, Window(start=at(0), end=at(24)), at(50))
    query = labelled_query(rows, PLAN.key, LABEL, at(50))
    found = connection.execute(f"select flight, label from ({query}) order by 1").fetchall()
    # Flight 2 has arrived but that is not known yet, flight 3 never does: both rows stay, without a label.
    assert found == [(1, True), (2, None), (3, None)]


def test_derived_columns_may_use_those_before_them_and_the_prediction_time(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    connection.execute(f"create table joined as select 8.0 as view__seen, timestamptz '{DAY}' as event_timestamp")
    plan = dataclasses.replace(PLAN, derived={**PLAN.derived, "hour": "hour(prediction_time)"})
    row = connection.execute(f"select age, half_age, hour from ({derived_query('joined', [plan])})").fetchone()
    assert row == (4.0, 2.0, 0)


TYPES = {
    "flight": "INTEGER",
    "place": "VARCHAR",
    "view__seen": "TIMESTAMP WITH TIME ZONE",
    "view__rate": "DECIMAL(18,3)",
    "view__is_new": "BOOLEAN",
    "view__size": "ENUM('s', 'l')",
    "age": "DOUBLE",
    "half_age": "HUGEINT",
}
FEATURES = [name for name in TYPES if name.startswith("view__")]


def test_text_is_categorical_and_so_is_what_the_recipe_says() -> None:
    plan = dataclasses.replace(PLAN, categorical=("age", "view__is_new"))
    assert choose_inputs(plan, FEATURES, TYPES) == Inputs(
        numeric=("flight", "view__rate", "half_age"),
        categorical=("place", "view__is_new", "view__size", "age"),
    )


def test_a_timestamp_is_no_input() -> None:
    with pytest.raises(RecipeError, match=r"'view__seen' of service delay is neither(.|\n)*TIMESTAMP(.|\n)*derive"):
        choose_inputs(dataclasses.replace(PLAN, drop=()), FEATURES, TYPES)


@pytest.mark.parametrize("section", ["categorical", "drop"])
def test_a_name_that_is_no_input_is_told(section: str) -> None:
    plan = dataclasses.replace(PLAN, **{section: (*PLAN.drop, "plce")})
    with pytest.raises(RecipeError, match=rf"features\.{section} \['plce'\] are no inputs"):
        choose_inputs(plan, FEATURES, TYPES)


def test_rows_are_sorted_and_typed(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(
        f"create table derived as select timestamptz '{DAY}' + to_hours(n) as prediction_time, 3 - n as flight,"
        " [5.5, 'nan', 'inf', 1e300][n + 1]::double as rate, n > 0 as late, n::bigint as code, 'x' as place,"
        " n >= 2 as label from range(4) t(n)"
    )
    inputs = Inputs(numeric=("rate", "late"), categorical=("code", "place"))
    table = connection.sql(rows_query("from derived", ("flight",), inputs, LABEL)).to_arrow_table()
    assert table.column_names == ["flight", "prediction_time", "rate", "late", "code", "place", "label"]
    assert table["flight"].to_pylist() == [3, 2, 1, 0]
    assert table["rate"].to_pylist() == [5.5, None, None, None]
    assert table["late"].to_pylist() == [0.0, 1.0, 1.0, 1.0]
    assert table["code"].to_pylist() == ["0", "1", "2", "3"]
    assert table["label"].to_numpy().dtype == np.int8


@pytest.mark.parametrize(
    ("kind", "missing", "expected"),
    [
        ("binary", None, [1]),
        ("binary", "0", [0, 1]),
        ("regression", "1.5", [1.5, 1.0]),
        ("multiclass", "it's unknown", ["it's unknown", "1"]),
    ],
)
def test_a_missing_label_is_dropped_or_given_a_value(
    connection: duckdb.DuckDBPyConnection, kind: str, missing: str | None, expected: list[object]
) -> None:
    connection.execute(
        f"create table derived as select timestamptz '{DAY}' + to_hours(n) as prediction_time, n as flight,"
        " [null, 1][n + 1] as label from range(2) t(n)"
    )
    label = dataclasses.replace(LABEL, kind=kind, missing=missing)
    query = rows_query("from derived", ("flight",), Inputs(numeric=(), categorical=()), label)
    assert connection.sql(query).to_arrow_table()["label"].to_pylist() == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"derived": {"label": "1"}}, "'label' of service delay has a reserved name"),
        ({"columns": {"flight": "flight + 1"}}, "hides the key column 'flight'"),
        ({"derived": {"place": "1"}}, r"\['place'\] are columns of the entity rows"),
    ],
)
def test_names_that_cannot_be(change: dict[str, object], message: str) -> None:
    check_names(PLAN)
    with pytest.raises(RecipeError, match=message):
        check_names(dataclasses.replace(PLAN, **change))


def test_compared_models_mean_the_same_by_one_name() -> None:
    champion = dataclasses.replace(PLAN, reader="champion", derived={"age": "view__seen / 2", "other": "1"})
    check_agreement([PLAN, champion])
    for change in ({"derived": {"age": "view__seen / 60"}}, {"columns": {"place": "dest"}}, {"key": ("dest",)}):
        with pytest.raises(RecipeError, match="mean different things"):
            check_agreement([PLAN, dataclasses.replace(champion, **change)])


def test_inputs_of_compared_models_are_merged_in_the_first_ones_order() -> None:
    mine, theirs = Inputs(numeric=("b", "a"), categorical=("c",)), Inputs(numeric=("z", "a"), categorical=("c", "d"))
    assert merge_inputs([mine, theirs]) == Inputs(numeric=("b", "a", "z"), categorical=("c", "d"))
    with pytest.raises(RecipeError, match=r"\['a'\] are numeric for one"):
        merge_inputs([mine, Inputs(numeric=(), categorical=("a",))])
