"""The content digest: equal for equal values, whatever their layout; different for anything else."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.content import ContentDigest, row_digests

columns = st.lists(
    st.tuples(
        st.none() | st.floats(width=32),
        st.none() | st.text(max_size=4),
        st.none() | st.integers(0, 2**40),
        st.none() | st.booleans(),
    ),
    max_size=12,
)


def content(table: pa.Table, chunk: int = 5) -> str:
    digest = ContentDigest(table.schema)
    for batch in table.to_batches(max_chunksize=chunk):
        digest.update(batch)
    return digest.hexdigest()


def table(rows: list[tuple[float | None, str | None, int | None, bool | None]]) -> pa.Table:
    delay, carrier, moment, late = ([row[i] for row in rows] for i in range(4))
    return pa.table(
        {
            "delay": pa.array(delay, pa.float32()),
            "carrier": pa.array(carrier, pa.string()),
            "moment": pa.array(moment, pa.timestamp("us", "UTC")),
            "late": pa.array(late, pa.bool_()),
        }
    )


@given(rows=columns, chunk=st.integers(1, 12), cut=st.integers(0, 12))
def test_layout_does_not_enter(rows: list[tuple], chunk: int, cut: int) -> None:
    plain = table(rows)
    position = plain.schema.get_field_index("carrier")
    coded = plain.set_column(position, "carrier", plain["carrier"].dictionary_encode())
    rejoined = pa.concat_tables([plain.slice(0, cut), plain.slice(cut)])
    assert content(plain) == content(plain, chunk) == content(coded, chunk) == content(rejoined, chunk)


@given(rows=columns.filter(bool), data=st.data())
def test_another_value_is_another_digest(rows: list[tuple], data: st.DataObject) -> None:
    row, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, 3))
    other = (1.5, "other", 2**41, True)[column]
    if rows[row][column] == other:
        other = None
    changed = [list(values) for values in rows]
    changed[row][column] = other
    assert content(table(rows)) != content(table([tuple(values) for values in changed]))


def test_what_lies_under_a_null_does_not_enter() -> None:
    garbage = pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(np.array([7, 9]))])
    assert content(pa.table({"a": garbage})) == content(pa.table({"a": pa.array([7, None])}))


def test_zeros_and_nans_have_one_form() -> None:
    usual = pa.table({"a": pa.array([0.0, np.nan])})
    odd = np.array([-0.0, np.nan])
    odd.view(np.int64)[1] |= 5  # another payload
    assert content(usual) == content(pa.table({"a": pa.array(odd)}))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.rename_columns(["a", "c"]),
        lambda t: t.select(["b", "a"]),
        lambda t: t.take([1, 0]),
        lambda t: t.set_column(0, "a", t["a"].cast(pa.int32())),
        lambda t: t.set_column(1, "b", pa.array(["xy", "z"])),  # the same bytes, cut elsewhere
        lambda t: t.slice(0, 1),
    ],
    ids=["name", "column order", "row order", "type", "lengths", "rows"],
)
def test_shape_enters(change: Callable[[pa.Table], pa.Table]) -> None:
    usual = pa.table({"a": pa.array([1, 2]), "b": pa.array(["x", "yz"])})
    assert content(usual) != content(change(usual))


def test_rows_are_told_apart_by_their_values_alone() -> None:
    rows = pa.table({"a": pa.array([1.0, 1.0, None, 2.0]), "b": ["x", None, "x", "x"]})
    one = row_digests(rows, ["a", "b"])
    assert len(set(one.tolist())) == 4
    retyped = pa.table({"b": rows["b"].dictionary_encode(), "a": rows["a"].cast(pa.int32())})
    assert row_digests(retyped, ["a", "b"]).tolist() == one.tolist()
    assert row_digests(rows.take([3, 0]), ["a", "b"]).tolist() == one[[3, 0]].tolist()
    assert row_digests(rows, ["b", "a"]).tolist() != one.tolist()


def test_row_digests_do_not_change_from_version_to_version() -> None:
    """They are kept beside predictions and compared with those of later code."""
    rows = pa.table({"a": [0.1, None], "b": ["x", None]})
    assert row_digests(rows, ["a", "b"]).tolist() == [-8686144549103261905, 5860843724407469298]
