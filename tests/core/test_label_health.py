"""Labels that mean the opposite in one segment are found, whenever that began; and nothing where they mean the same."""

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.label_health import LEVEL, AdditiveScores, Inverted, inverted_segments
from tasks.core.records import Inputs

INPUTS = Inputs(numeric=("speed",), categorical=("carrier", "weekday"))
ROWS_PER_DAY, DAYS, FIT_DAYS = 120, 60, 40


def make_rows(seed: int = 3) -> pa.Table:
    """The label follows `speed` loosely, carriers differ in their rate, days in theirs."""
    random, count = np.random.default_rng(seed), ROWS_PER_DAY * DAYS
    speed, carrier = random.normal(size=count), random.choice(list("abcd"), count, p=[0.4, 0.3, 0.2, 0.1])
    day = np.repeat(random.normal(size=DAYS) / 2, ROWS_PER_DAY)
    label = speed + (carrier == "b") + day + 1.5 * random.normal(size=count) > 0.5
    times = np.datetime64("2013-01-01", "us") + np.arange(count) * np.timedelta64(86_400 // ROWS_PER_DAY, "s")
    return pa.table(
        {
            "prediction_time": pa.array(times).cast(pa.timestamp("us", "UTC")),
            "speed": pa.array(np.where(random.random(count) < 0.1, np.nan, speed), from_pandas=True),
            "carrier": carrier,
            "weekday": (np.arange(count) // ROWS_PER_DAY % 7).astype(str),
            "label": label.astype(np.int8),
        }
    )


def flip(rows: pa.Table, where: np.ndarray) -> pa.Table:
    label = rows["label"].to_numpy()
    return rows.set_column(rows.schema.get_field_index("label"), "label", pa.array(np.where(where, 1 - label, label)))


def try_segments(fit: pa.Table, part: pa.Table) -> list[Inverted]:
    return inverted_segments(part, AdditiveScores(fit, INPUTS).of(part), INPUTS)


def find(rows: pa.Table) -> list[str]:
    cut = FIT_DAYS * ROWS_PER_DAY
    return [found.segment for found in try_segments(rows.slice(0, cut), rows.slice(cut))]


def test_nothing_is_found_where_labels_mean_the_same() -> None:
    assert [find(make_rows(seed)) for seed in range(20)] == [[]] * 20


@pytest.mark.parametrize("since_day", [0, FIT_DAYS], ids=["always", "late"])
@pytest.mark.parametrize("carrier", ["b", "c", "d"])
def test_a_flipped_segment_is_found_whenever_it_began(carrier: str, since_day: int) -> None:
    rows = make_rows()
    is_late = np.arange(rows.num_rows) >= since_day * ROWS_PER_DAY
    assert find(flip(rows, is_late & (np.array(rows["carrier"]) == carrier))) == [f"carrier={carrier}"]


def test_labels_that_are_all_flipped_are_one_finding() -> None:
    rows = make_rows()
    flipped = flip(rows, np.arange(rows.num_rows) >= FIT_DAYS * ROWS_PER_DAY)
    cut = FIT_DAYS * ROWS_PER_DAY
    (found,) = try_segments(flipped.slice(0, cut), flipped.slice(cut))
    assert found.segment == "all rows"
    assert found.auc.upper(LEVEL) < 0.5


def test_too_few_days_or_rows_say_nothing() -> None:
    rows = make_rows()
    flipped = flip(rows, np.array(rows["carrier"]) == "d")
    fit = flipped.slice(0, FIT_DAYS * ROWS_PER_DAY)
    assert try_segments(fit, flipped.slice(FIT_DAYS * ROWS_PER_DAY, 9 * ROWS_PER_DAY)) == []


def test_a_value_that_was_never_seen_and_an_input_without_values_say_nothing() -> None:
    rows = make_rows()
    empty = rows.append_column("nothing", pa.nulls(rows.num_rows, pa.float32()))
    new = empty.set_column(2, "carrier", pa.array(["new"] * rows.num_rows))
    only = Inputs(numeric=("nothing",), categorical=("carrier",))
    assert set(AdditiveScores(empty, only).of(new)) == {0.0}


def test_more_of_what_speaks_for_the_label_is_a_higher_score() -> None:
    rows = make_rows()
    scores = AdditiveScores(rows, Inputs(numeric=("speed",), categorical=())).of(rows)
    speed = rows["speed"].to_numpy()
    assert scores[speed > 1.5].min() > scores[np.abs(speed) < 0.1].max() > scores[speed < -1.5].max()
