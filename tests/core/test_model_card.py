"""The card and the lineage, from records alone."""

import dataclasses
from datetime import UTC, datetime

import pytest

from tasks.core.model_card import CardFacts, CodeVersion, Lineage, version_tags, write_model_card
from tasks.core.records import (
    Comparison,
    Evaluation,
    FitResult,
    Inputs,
    Interval,
    ModelRef,
    RowRange,
    Scorecard,
    SliceScore,
    TableRef,
    TrainingSetRef,
    Verdict,
    Window,
)

WINDOW = Window(start=datetime(2013, 6, 1, tzinfo=UTC), end=datetime(2013, 6, 29, tzinfo=UTC))
REF = ModelRef(name="flights", version=3, run_id="r", uri="models:/flights/3")
FACTS = CardFacts(
    description="Late?",
    label="(arrival_delay_minutes >= 15)::int",
    label_maturity="36h",
    network="resnet",
    primary="auc",
)


def fit(weights):
    return FitResult(
        model="m", weights_sha256=weights, best_step=900, best_epoch=4, epochs=7, rows=70_000, seconds=21.0,
        rows_per_second=3e4, num_parameters=12_345, device="1 x cpu", micro_batch_size=1024, metrics={},
    )  # fmt: skip


@pytest.fixture
def lineage():
    rows = TrainingSetRef(
        uri="u", digest="5e7", rows=80_000, as_of=datetime(2013, 7, 1, tzinfo=UTC), service="flight_delay",
        inputs=Inputs(numeric=("distance_miles",), categorical=("carrier",)), label_kind="binary", key=("flight",),
        splits={"holdout": RowRange(start=70_000, stop=80_000, window=WINDOW)}, unlabelled_rows=2_100,
        tables=(TableRef(name="schedule", uri="lake", version=3, rows=10, digest="1a"),),
    )  # fmt: skip
    code = CodeVersion(
        commit="c0ffee", is_dirty=True, lock_digest="10c", python="3.11.7", libraries={"torch": "2.13.0"}
    )
    return Lineage(
        project="flights", decision_id="d", as_of=rows.as_of, cause="person", attempt=0, seed=7, recipe_digest="4ec",
        training_set=rows, feature_files={"flights/a.sql": "f1"}, judged=fit("j" * 64), served=fit("j" * 64), code=code,
    )  # fmt: skip


def card(model, value, version=None):
    origin = SliceScore(column="origin", value="JFK", rows=900, metric=interval(value))
    return Scorecard(
        model=model, version=version, rows=26_000, window=WINDOW, metrics={"auc": interval(value)}, slices=(origin,),
        calibration_error=0.021, latency_one_ms=0.7, latency_batch_ms=5.0, size_bytes=2_100_000,
    )  # fmt: skip


def interval(value):
    return Interval(value=value, low=value - 0.01, high=value + 0.01)


def compared(column, outcome):
    return Comparison(
        metric="auc", slice=column, role="watched" if column else "primary", difference=0.02, low=-0.01, high=0.03,
        standard_error=0.01, clusters=28, rows=900, margin=0.01, outcome=outcome,
    )  # fmt: skip


def judged(baseline_wins=False):
    verdict = Verdict(
        outcome="promote", mode="refresh", reasons=("no worse than its margin",), smallest_detectable_effect=0.0123,
        comparisons=(compared(None, "non_inferior"), compared("carrier=HA", "undecided")),
    )  # fmt: skip
    cards = (card("champion", 0.75, 1), card("challenger", 0.77), card("baseline", 0.78))
    return Evaluation(scorecards=cards, verdict=verdict, baseline_wins=baseline_wins, predictions_uri="")


def test_the_card_tells_what_a_reader_needs(lineage):
    page = write_model_card(REF, FACTS, lineage, judged())
    for said in (
        "# flights, version 3",
        "**promote** (refresh)",
        "- no worse than its margin",
        "| champion v1 | .7500 (.7400 to .7600) | .0210 | 0.7 ms | 5 ms | 2.1 MB |",
        "| auc | carrier=HA | watched | +0.0200 | -0.0100 to +0.0300 | 0.01 | undecided |",
        "| origin=JFK | 900 | .7500 (.7400 to .7600) | .7700 (.7600 to .7800) | .7800 (.7700 to .7900) |",
        "| schedule | 3 | 10 | 1a |",
        "2,100 matured rows had no label",
        "at least 36h before",
        "`c0ffee`, with uncommitted changes",
        "A difference in auc below 0.0123 could not be seen here.",
        "Too few rows to tell on carrier=HA.",
        'mlflow.pyfunc.load_model("models:/flights/3")',
        "Licence of the data: not given.",
    ):
        assert said in page
    assert "baseline does better" not in page
    assert "refitted" not in page


def test_a_baseline_that_wins_is_said_at_the_top(lineage):
    lines = write_model_card(REF, FACTS, lineage, judged(baseline_wins=True)).splitlines()
    assert any("**The baseline does better than this model" in line for line in lines[:6])


def test_a_refit_is_told_with_both_digests(lineage):
    page = write_model_card(REF, FACTS, dataclasses.replace(lineage, served=fit("s" * 64)), judged())
    assert "weights `" + "s" * 64 in page
    assert "judged (`" + "j" * 64 in page


def test_a_pipe_in_a_value_does_not_break_the_table(lineage):
    table = TableRef(name="a|b", uri="", version=1, rows=1, digest="d")
    training_set = dataclasses.replace(lineage.training_set, tables=(table,))
    page = write_model_card(REF, FACTS, dataclasses.replace(lineage, training_set=training_set), judged())
    assert "| a\\|b | 1 | 1 | d |" in page


def test_lineage_is_json_both_ways_and_tags_come_from_it(lineage):
    assert Lineage.from_json(lineage.to_json()) == lineage
    tags = version_tags(lineage, judged().verdict, None)
    assert tags["perennial.git_commit"] == "c0ffee-dirty"
    assert tags["perennial.lake_versions"] == '{"schedule": 3}'
    assert tags["prefect.flow_run_id"] == "none"
    assert all(isinstance(value, str) and value for value in tags.values())


def test_another_feature_definition_is_another_digest(lineage):
    changed = dataclasses.replace(lineage, feature_files={"flights/a.sql": "f2"})
    assert changed.features_digest != lineage.features_digest
