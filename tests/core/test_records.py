"""Records travel as JSON and come back equal; they are written whole or not at all."""

import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest

from tasks.core.errors import PerennialError, ValidationError
from tasks.core.records import (
    BatchRef,
    Comparison,
    Inputs,
    RowRange,
    TableRef,
    TrainingSetRef,
    Verdict,
    Window,
    digest,
    write_text_atomically,
)

NOON = datetime(2013, 4, 1, 12, tzinfo=UTC)
DAY = Window(start=NOON, end=NOON + timedelta(days=1))
TABLE = TableRef(name="weather", uri="/lake/weather", version=3, rows=10, digest="ab")


@pytest.mark.parametrize(
    "record",
    [
        DAY,
        BatchRef(project="p", table="t", batch_id="b", uri="u", rows=1, window=DAY, as_of=NOON),
        TrainingSetRef(
            uri="u", digest="d", rows=2, as_of=NOON, service="s", inputs=Inputs(numeric=("a",), categorical=()),
            label_kind="binary", key=("k",), splits={"fit": RowRange(start=0, stop=1, window=DAY)},
            unlabelled_rows=0,
            tables=(TABLE,),
        ),
        Verdict(
            outcome="promote", mode="first", reasons=("because",), evidence={"attempts": 1},
            comparisons=(Comparison(
                metric="auc", slice=None, role="primary", difference=0.1, low=0.0, high=0.2, standard_error=0.1,
                clusters=28, rows=100, margin=0.01, outcome="superior",
            ),),
        ),
    ],
)  # fmt: skip
def test_a_record_comes_back_equal(record, tmp_path):
    assert type(record).from_json(record.to_json()) == record
    record.write(tmp_path / "record.json")
    assert type(record).read(tmp_path / "record.json") == record


def test_equal_moments_in_other_zones_have_equal_digests():
    elsewhere = NOON.astimezone(timezone(timedelta(hours=-5)))
    assert digest(Window(start=NOON, end=NOON)) == digest(Window(start=elsewhere, end=elsewhere))
    assert digest([1, "a"]) != digest([1, "b"])


def test_a_failed_write_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    write_text_atomically(path, "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_text_atomically(path, "new")
    assert path.read_text() == "old"


def test_an_error_says_what_got_expected_fix_and_survives_a_process_boundary():
    error = ValidationError("batch refused", got="0 rows", expected="1 or more", fix="look at the source")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, PerennialError)
    assert str(again) == str(error)
    assert [line.split(":")[0].strip() for line in str(error).splitlines()] == [
        "batch refused",
        "got",
        "expected",
        "fix",
    ]
