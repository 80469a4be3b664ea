"""Scoring a window into the log: the model's own rows, its own service, once."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks import home, joins, scoring
from tasks.core.errors import FeatureError, ModelError
from tasks.core.records import Contender, Inputs, ModelRef, PredictionsRef, Window

START = datetime(2020, 3, 1, tzinfo=UTC)
AS_OF = START + timedelta(days=40)
WEEK = Window(start=AS_OF - timedelta(days=7), end=AS_OF)


class FakeModel:
    """Says the load, or a tenth of the miles; what it was given can be read off its scores."""

    label_kind = "regression"
    classes = ()
    inputs = Inputs(numeric=("miles", "load__waiting"), categorical=("weekday",))

    def predict(self, rows: pa.Table) -> np.ndarray:
        waiting = rows["load__waiting"].to_numpy()
        return np.where(np.isnan(waiting), rows["miles"].to_numpy() / 10, waiting).astype(np.float32)


class FakeRegistry:
    """A version whose recipe is not today's: it is pinned to the older service."""

    def __init__(self, recipe: dict[str, Any], model: FakeModel) -> None:
        self.recipe, self.model = recipe, model

    def load(self, ref: ModelRef) -> FakeModel:
        return self.model

    def tags(self, ref: ModelRef) -> dict[str, str]:
        return {"perennial.feature_service": "older_delay"}

    def read_text(self, run_id: str, name: str) -> str:
        if not self.recipe:
            raise FileNotFoundError(name)
        return json.dumps(self.recipe)


@pytest.fixture
def registry(trips: Any, monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    recipe = trips.recipe.model_dump(mode="json")
    recipe["features"] |= {"derived": {}, "categorical": ["weekday"]}
    made = FakeRegistry(recipe, FakeModel())
    for module in (home, joins):
        monkeypatch.setattr(module, "open_registry", lambda project: made)
    return made


def score(trips: Any, window: Window = WEEK, version: int = 2, as_of: datetime = AS_OF) -> PredictionsRef:
    model = ModelRef(name="trips", version=version, run_id="run", uri=f"models:/trips/{version}")
    return scoring.score_window.fn("trips", model, window, as_of, trips.tables)


def test_the_log_keeps_how_fast_it_was_and_slower_than_its_gate_allowed_is_told(
    trips: Any, registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", logger="perennial")
    score(trips, Window(start=WEEK.start - timedelta(days=7), end=WEEK.start))
    assert "too slow" not in caplog.text, "the recipe has no limit"
    registry.recipe["gate"]["max_latency_ms"] = 1e-6
    score(trips)
    said = trips.lake.commits("predictions")[-1].properties
    assert 0 < float(said["latency_one_ms"]) <= float(said["latency_one_p99_ms"])
    assert "too slow: one row" in caplog.text


def log(trips: Any) -> list[dict[str, Any]]:
    rows = trips.lake.connect({"predictions": None}).sql("from predictions order by trip, model_version")
    return rows.to_arrow_table().to_pylist()


def test_scores_are_those_of_the_rows_as_they_were_known(
    trips: Any, registry: FakeRegistry, expected_rows: Callable[..., dict[int, dict[str, Any]]]
) -> None:
    made = score(trips)
    expected = expected_rows(WEEK.start, WEEK.end, AS_OF)
    waiting = {trip: row["load__waiting"] for trip, row in expected.items()}
    assert {line["trip"]: line["score"] for line in log(trips)} == {
        trip: pytest.approx(row["miles"] / 10 if waiting[trip] is None else waiting[trip])
        for trip, row in expected.items()
    }
    assert made.rows == made.inserted_rows == len(expected) > 200
    for line in log(trips):
        assert line["event_timestamp"] == line["created_timestamp"] == expected[line["trip"]]["prediction_time"]
        assert line["model_version"] == 2


def test_twice_or_overlapping_changes_nothing_that_is_there(trips: Any, registry: FakeRegistry) -> None:
    half = Window(start=WEEK.start, end=WEEK.start + timedelta(days=4))
    first = score(trips, half)
    before = log(trips)
    again = score(trips, half)
    assert (again.inserted_rows, again.table) == (0, first.table)
    whole = score(trips)
    assert whole.inserted_rows == whole.rows - first.rows
    assert [line for line in log(trips) if line["event_timestamp"] < half.end] == before
    assert not list((Path(trips.lake.uri).parents[1] / "staging").rglob("*.parquet"))


def test_each_version_has_its_own_lines(trips: Any, registry: FakeRegistry) -> None:
    rows = score(trips, version=2).rows
    assert score(trips, version=1).inserted_rows == rows
    assert [line["model_version"] for line in log(trips)] == [1, 2] * rows


def test_the_unscored_window_goes_on_where_the_log_ends(trips: Any, registry: FakeRegistry) -> None:
    ref = ModelRef(name="trips", version=2, run_id="run", uri="models:/trips/2")
    champion = Contender(name="champion", as_of=START + timedelta(days=30), ref=ref)
    assert scoring.unscored_window("trips", champion, AS_OF) == Window(start=champion.as_of, end=AS_OF)
    score(trips, Window(start=champion.as_of, end=AS_OF - timedelta(days=2)))
    score(trips, version=3)
    assert scoring.unscored_window("trips", champion, AS_OF) == Window(start=AS_OF - timedelta(days=2), end=AS_OF)


def test_a_window_without_rows_is_no_error(trips: Any, registry: FakeRegistry) -> None:
    made = score(trips, Window(start=START - timedelta(days=9), end=START - timedelta(days=8)))
    assert (made.rows, made.inserted_rows) == (0, 0)


def test_a_class_has_a_line_of_its_own(trips: Any, registry: FakeRegistry) -> None:
    class Sorter(FakeModel):
        label_kind, classes = "multiclass", ("late", "on time")

        def predict(self, rows: pa.Table) -> np.ndarray:
            return np.tile([0.25, 0.75], (rows.num_rows, 1))

    registry.model = Sorter()
    made = score(trips)
    assert made.inserted_rows == 2 * made.rows
    assert {(line["predicted_class"], line["score"]) for line in log(trips)} == {("late", 0.25), ("on time", 0.75)}


def test_time_that_is_not_over_cannot_be_scored(trips: Any, registry: FakeRegistry) -> None:
    with pytest.raises(FeatureError, match="not over"):
        score(trips, as_of=AS_OF - timedelta(minutes=1))


def test_inputs_that_its_recipe_does_not_make(trips: Any, registry: FakeRegistry) -> None:
    registry.model.inputs = Inputs(numeric=("miles", "facts__kind"), categorical=("weekday",))
    with pytest.raises(ModelError, match=r"version 2 reads inputs(.|\n)*facts__kind"):
        score(trips)
    assert not trips.lake.exists("predictions")


def test_a_version_without_its_recipe(trips: Any, registry: FakeRegistry) -> None:
    registry.recipe = {}
    with pytest.raises(ModelError, match=r"version 2 of 'trips' has no recipe\.json"):
        score(trips)
