"""The audit finds planted leaks, and nothing in clean data."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.audit import AuditReport, LabelDelays, audit_training_set, refuse_leaks
from tasks.core.errors import LeakageError
from tasks.core.feature_scores import midranks
from tasks.core.records import Inputs
from tasks.core.splits import split_rows, split_windows

ROWS, START = 4000, datetime(2013, 1, 1, tzinfo=UTC)
WINDOWS = split_windows(
    start=START,
    as_of=START + timedelta(hours=ROWS),
    maturity=timedelta(hours=12),
    holdout=timedelta(days=30),
    validation=timedelta(days=15),
    embargo=timedelta(hours=12),
)
HOURS_12 = timedelta(hours=12)
INPUTS = Inputs(numeric=("delay", "distance"), categorical=("carrier", "tail"))


def clean_rows() -> pa.Table:
    """An hour a row; the label follows `delay` and `carrier` loosely; `tail` has nearly as many values as rows."""
    random = np.random.default_rng(1)
    delay = random.normal(size=ROWS)
    carrier = random.integers(0, 5, ROWS)
    label = (delay + carrier / 3 + random.normal(size=ROWS) * 2 > 1).astype(np.int8)
    times = np.datetime64("2013-01-01", "us") + np.arange(ROWS).astype("timedelta64[h]")
    return pa.table(
        {
            "flight": pa.array(np.arange(ROWS)),
            "prediction_time": pa.array(times).cast(pa.timestamp("us", "UTC")),
            "delay": pa.array(np.where(random.random(ROWS) < 0.1, np.nan, delay).astype(np.float32), from_pandas=True),
            "distance": pa.array(random.normal(size=ROWS).astype(np.float32)),
            "carrier": pa.array([f"c{code}" for code in carrier]),
            "tail": pa.array([f"t{code}" for code in random.integers(0, 3 * ROWS, ROWS)]),
            "label": pa.array(label),
        }
    )


def replace(rows: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), name, values)


def audit(rows: pa.Table, *, label_kind: str = "binary", **changes: object) -> AuditReport:
    times = rows["prediction_time"].to_numpy()
    arguments = {
        "key": ("flight",),
        "inputs": INPUTS,
        "splits": split_rows(times, WINDOWS),
        "embargo": timedelta(hours=12),
        "known_times": rows.select(["prediction_time"]).append_column("delays", rows["prediction_time"]),
        "label_delays": LabelDelays(HOURS_12, ROWS, 3, timedelta(hours=30)),
        "max_late_labels": 0.005,
        "max_single_feature_score": 0.9,
        "allow": {},
        "disjoint_entities": (),
    }
    return audit_training_set(rows, label_kind=label_kind, **{**arguments, **changes})


def leaks(report: AuditReport) -> list[tuple[str, str]]:
    return [(leak.check, leak.subject) for leak in report.leaks]


def test_clean_rows_have_no_leaks() -> None:
    report = audit(clean_rows())
    assert leaks(report) == []
    assert report.scores["carrier"] > 0.52  # it does say something
    assert abs(report.scores["tail"] - 0.5) < 0.03  # and many values say nothing, unlike on their own rows
    refuse_leaks(report)


@pytest.mark.parametrize("label_kind", ["binary", "multiclass", "regression"])
def test_the_label_copied_with_noise(label_kind: str) -> None:
    rows, random = clean_rows(), np.random.default_rng(2)
    label = random.integers(0, 2 if label_kind == "binary" else 4, ROWS)
    rows = replace(rows, "label", pa.array([f"k{code}" for code in label] if label_kind == "multiclass" else label))
    rows = replace(rows, "distance", pa.array((-label + random.normal(size=ROWS) * 0.1).astype(np.float32)))
    assert leaks(audit(rows, label_kind=label_kind)) == [("single feature", "distance")]


def test_a_category_that_names_the_label() -> None:
    rows = clean_rows()
    named = pa.array([None if label else f"on time {row % 7}" for row, label in enumerate(rows["label"].to_pylist())])
    assert leaks(audit(replace(rows, "carrier", named))) == [("single feature", "carrier")]


def test_a_number_that_is_there_only_for_one_label() -> None:
    rows = clean_rows()
    filled = pa.array([1.0 if label else None for label in rows["label"].to_pylist()], pa.float32())
    assert leaks(audit(replace(rows, "distance", filled))) == [("single feature", "distance")]


def test_a_suspect_is_allowed_with_its_reason() -> None:
    rows = clean_rows()
    rows = replace(rows, "distance", rows["label"].cast(pa.float32()))
    report = audit(rows, allow={"distance": "it is what it is"})
    assert leaks(report) == []
    assert [(leak.subject, leak.detail.endswith("allowed: it is what it is")) for leak in report.allowed] == [
        ("distance", True)
    ]


def test_an_aggregate_that_looks_ahead() -> None:
    """A day's mean is known when the day is over: an hour into the day it is 23 hours early."""
    rows = clean_rows()
    days = rows["prediction_time"].to_numpy().astype("datetime64[D]") + np.timedelta64(1, "D")
    known = pa.chunked_array([pa.array(days.astype("datetime64[us]")).cast(pa.timestamp("us", "UTC"))])
    times = rows["prediction_time"]
    report = audit(rows, known_times=pa.table({"prediction_time": times, "delays": times, "daily_mean": known}))
    assert leaks(report) == [("known time", "daily_mean")]
    assert f"{ROWS:,} rows known after" in report.leaks[0].detail


def test_a_view_that_joined_nothing_knows_nothing() -> None:
    rows = clean_rows()
    nothing = pa.chunked_array([pa.nulls(ROWS, pa.timestamp("us", "UTC"))])
    known_times = pa.table({"prediction_time": rows["prediction_time"], "delays": nothing})
    assert leaks(audit(rows, known_times=known_times)) == []


def test_labels_that_mature_later_than_the_recipe_says() -> None:
    for delays, found in (
        (LabelDelays(HOURS_12, 1000, 5, timedelta(days=9)), False),  # a straggler or two is no rule
        (LabelDelays(HOURS_12, 1000, 6, timedelta(days=9)), True),
        (LabelDelays(HOURS_12, 0, 0, None), False),  # none is old enough to tell
    ):
        report = audit(clean_rows(), label_delays=delays)
        assert leaks(report) == [("label maturity", "label")] * found
    told = audit(clean_rows(), label_delays=LabelDelays(HOURS_12, 1000, 300, timedelta(days=9))).leaks[0].detail
    assert "(12 h after the prediction time) in 300 of 1,000 rows, the last after 216 h" in told


def test_the_same_rows_in_two_parts() -> None:
    rows = clean_rows()
    flights = rows["flight"].to_numpy().copy()
    flights[-15:-12] = flights[:3]  # the last twelve hours have no mature label
    report = audit(replace(rows, "flight", pa.array(flights)))
    assert leaks(report) == [("row keys", "flight")]
    assert "3 keys" in report.leaks[0].detail


def test_windows_that_overlap() -> None:
    times = clean_rows()["prediction_time"].to_numpy()
    longer = {**WINDOWS, "fit": type(WINDOWS["fit"])(start=START, end=WINDOWS["validation"].start + timedelta(hours=2))}
    assert leaks(audit(clean_rows(), splits=split_rows(times, longer))) == [
        ("split times", "fit and validation"),
        ("row keys", "flight"),  # the two hours' rows
    ]


def test_windows_closer_than_the_embargo() -> None:
    assert leaks(audit(clean_rows(), embargo=timedelta(hours=13))) == [
        ("split times", "fit and validation"),
        ("split times", "validation and holdout"),
    ]


def test_rows_outside_their_window() -> None:
    splits = split_rows(clean_rows()["prediction_time"].to_numpy(), WINDOWS)
    early = splits["holdout"]
    moved = {**splits, "holdout": type(early)(start=early.start - 2, stop=early.stop, window=early.window)}
    assert leaks(audit(clean_rows(), splits=moved)) == [("split times", "holdout")]


def test_entities_only_where_the_recipe_forbids_it() -> None:
    assert leaks(audit(clean_rows(), disjoint_entities=("flight",))) == []
    assert leaks(audit(clean_rows(), disjoint_entities=("carrier",))) == [("entities", "carrier")]


def test_all_leaks_are_told_at_once() -> None:
    rows = clean_rows()
    rows = replace(rows, "distance", rows["label"].cast(pa.float32()))
    with pytest.raises(LeakageError, match=r"has 2 faults(.|\n)*entities: carrier(.|\n)*single feature: distance"):
        refuse_leaks(audit(rows, disjoint_entities=("carrier",)))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
def test_midranks_are_means_over_all_orders_of_ties(values: list[int]) -> None:
    expected = [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]
    assert midranks(np.array(values, dtype=float)).tolist() == expected
    positive = np.array(values) > 0
    assert midranks(positive).tolist() == midranks(positive.astype(float)).tolist()
