"""The training set, on a real lake and Feast in a temporary home, against an oracle that goes through every row."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from configs.recipe import Recipe
from configs.sections.rows import FeaturesSection
from tasks import home, training_set
from tasks.core.arrow_files import map_rows
from tasks.core.errors import FeatureError, RecipeError
from tasks.core.records import TableRef, TrainingSetRef

START = datetime(2020, 3, 1, tzinfo=UTC)
AS_OF = START + timedelta(days=40)


def build(
    trips: Any,
    *,
    as_of: datetime = AS_OF,
    tables: tuple[TableRef, ...] | None = None,
    rivals: tuple[FeaturesSection, ...] = (),
    **changes: dict[str, Any],
) -> TrainingSetRef:
    data = trips.recipe.model_dump(mode="json")
    for section, values in changes.items():
        data[section] = {**data[section], **values}
    recipe = Recipe.model_validate(data)
    return training_set.build_training_set.fn(
        recipe.project,
        recipe.tables["trips"],
        recipe.features,
        recipe.label,
        recipe.split,
        recipe.audit,
        START,
        as_of,
        trips.tables if tables is None else tables,
        rivals,
    )


def test_the_set_equals_the_oracle(trips: Any, expected_rows: Callable[..., dict[int, dict[str, Any]]]) -> None:
    made = build(trips)
    found = map_rows(made.uri).to_pylist()
    expected = expected_rows(START, AS_OF - timedelta(hours=36), AS_OF)

    labelled = {trip: row for trip, row in expected.items() if row["label"] is not None}
    assert {row.pop("trip"): row for row in found} == labelled
    assert made.unlabelled_rows == len(expected) - len(labelled) > 50
    assert made.rows == len(labelled) > 1000
    order = [(row["prediction_time"], trip) for row, trip in zip(found, labelled, strict=False)]
    assert [moment for moment, _ in order] == sorted(moment for moment, _ in order)
    assert made.inputs.categorical == ("station", "weekday", "facts__kind")
    assert made.inputs.numeric == ("miles", "load__waiting", "load_age_hours")
    assert {ref.name for ref in made.tables} == {"trips", "arrivals", "load", "facts"}


def test_what_becomes_known_later_changes_nothing(trips: Any) -> None:
    before = build(trips)
    late = AS_OF + timedelta(hours=1)
    old = START + timedelta(days=20)
    news = {
        "trips": ({"trip": 3, "station": "s9", "miles": 1.0}, ("trip",)),
        "arrivals": ({"trip": 3, "delay": 999}, ("trip",)),
        "load": ({"station": "s1", "waiting": 1e6, "measured_at": old}, ("station",)),
    }
    for name, (row, key) in news.items():
        trips.insert(name, [{**row, "event_timestamp": old, "created_timestamp": late}], key)
    tables = tuple(trips.lake.latest(ref.name) for ref in trips.tables)
    after = build(trips, tables=tables)
    assert after.uri != before.uri
    assert after.digest == before.digest
    # At a later moment the correction counts.
    assert build(trips, tables=tables, as_of=AS_OF + timedelta(days=1)).digest != before.digest


def test_it_is_built_once(trips: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(trips)
    monkeypatch.setattr(training_set, "_build", lambda *_: pytest.fail("it was built again"))
    assert build(trips) == first


def test_a_missing_label_may_have_a_meaning(trips: Any) -> None:
    dropped, kept = build(trips), build(trips, label={"missing": 1.0})
    assert kept.rows == dropped.rows + dropped.unlabelled_rows
    assert kept.unlabelled_rows == dropped.unlabelled_rows


def test_a_rivals_inputs_are_in_the_file_too(trips: Any) -> None:
    features = trips.recipe.features
    rival = features.model_copy(
        update={
            "service": "older_delay",
            "derived": {"crowd": "load__waiting * 2", **features.derived},
            "drop": ("load__measured_at",),
        }
    )
    made = build(trips, rivals=(rival,))
    assert made.inputs == build(trips).inputs
    assert {"crowd", "facts__kind"} <= set(map_rows(made.uri).column_names)

    other = rival.model_copy(update={"derived": {"load_age_hours": "1"}})
    with pytest.raises(RecipeError, match="mean different things by 'load_age_hours'"):
        build(trips, rivals=(other,))


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"features": {"drop": []}}, RecipeError, "'load__measured_at' of service trip_delay is neither a number"),
        ({"features": {"derived": {"cheat": "label * 1"}}}, RecipeError, "label"),
        ({"features": {"derived": {"age": "lod__waiting"}}}, RecipeError, "lod__waiting"),
        ({"features": {"service": "no_such"}}, FeatureError, "no feature service 'no_such'"),
        ({"label": {"expression": "delay"}}, RecipeError, r"does not give a binary label(.|\n)*0 or 1"),
        ({"audit": {"allow": {"load_waiting": "why"}}}, RecipeError, r"audit\.allow names(.|\n)*load_waiting"),
        ({"audit": {"disjoint_entities": ["stations"]}}, RecipeError, r"audit\.disjoint_entities(.|\n)*stations"),
        ({"split": {"holdout": "38d"}}, RecipeError, "no time for the fit"),
    ],
    ids=[
        "a timestamp",
        "the label",
        "an unknown column",
        "an unknown service",
        "no binary label",
        "no such input",
        "no such entity",
        "no fit",
    ],
)
def test_errors_say_what_is_wrong(trips: Any, changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        build(trips, **changes)


def test_a_feature_table_that_was_not_given(trips: Any) -> None:
    with pytest.raises(FeatureError, match=r"feature tables that were not given(.|\n)*\['load'\] too"):
        build(trips, tables=tuple(ref for ref in trips.tables if ref.name != "load"))


def test_the_feature_stores_settings_are_those_of_the_home(trips: Any) -> None:
    store = home.open_feature_store("trips")
    assert Path(store.lake_uri) == Path(trips.lake.uri)
