"""Columns to tensors: codes, standardised numbers, targets, all learned from fit rows."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.core import preprocessing
from tasks.core.errors import FitError
from tasks.core.preprocessing import (
    NULL_CODE,
    UNSEEN_CODE,
    fit_category_table,
    fit_label,
    fit_numeric_preprocessing,
    numeric_matrix,
)

WORDS = st.lists(st.one_of(st.none(), st.text(max_size=3)), min_size=1, max_size=30)


@given(fit=WORDS, later=WORDS)
def test_every_value_has_its_code_and_null_and_the_unseen_have_theirs(
    fit: list[str | None], later: list[str | None]
) -> None:
    table = fit_category_table("c", pa.chunked_array([pa.array(fit, pa.string())]))
    codes = table.encode(pa.chunked_array([pa.array(later, pa.string())]))
    for value, code in zip(later, codes.tolist(), strict=True):
        if value is None:
            assert code == NULL_CODE
        elif value in fit:
            assert table.values[code - 2] == value
        else:
            assert code == UNSEEN_CODE
    assert codes.max() < table.cardinality


def test_a_category_that_is_stored_as_dictionary_or_number_reads_as_its_text() -> None:
    column = pa.chunked_array([pa.array(["b", None, "a"]).dictionary_encode()])
    assert fit_category_table("c", column).values == ("a", "b")
    assert fit_category_table("c", pa.chunked_array([pa.array([3, 11])])).values == ("11", "3")


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(-1e6, 1e6, width=32)),
            st.one_of(st.none(), st.just(float("inf")), st.floats(-1, 1, width=32)),
        ),
        min_size=1,
        max_size=50,
    )
)
def test_numbers_are_standardised_over_blocks_as_over_all_rows(rows: list[tuple[float | None, float | None]]) -> None:
    table = pa.table({"a": pa.array([r[0] for r in rows], pa.float64()), "b": pa.array([r[1] for r in rows])})
    table = table.cast(pa.schema([("a", pa.float64()), ("b", pa.float64())]))
    whole = fit_numeric_preprocessing(table, ["a", "b"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocessing, "BLOCK_ROWS", 7)
        blocks = fit_numeric_preprocessing(table, ["a", "b"])
    values = np.ma.masked_invalid(numeric_matrix(table, ["a", "b"]).astype(np.float64))
    for fitted in (whole, blocks):
        np.testing.assert_allclose(fitted.mean, values.mean(0).filled(0), rtol=1e-5, atol=1e-5)
        deviation = values.std(0).filled(0)
        used = deviation > 1e-4 * np.maximum(np.abs(values.mean(0).filled(0)), 1)
        np.testing.assert_allclose(fitted.scale.numpy()[used], deviation[used], rtol=1e-3)
        assert fitted.indicated.tolist() == np.flatnonzero(np.ma.getmaskarray(values).any(0)).tolist()


def test_missing_and_infinite_become_the_mean_and_raise_their_indicator() -> None:
    table = pa.table({"a": [1.0, 3.0, None], "constant": [5, 5, 5], "empty": pa.nulls(3, pa.float64())})
    fitted = fit_numeric_preprocessing(table, ["a", "constant", "empty"])
    rows = torch.tensor([[3.0, 5.0, 1.0], [float("nan"), 7.0, float("nan")], [float("-inf"), float("nan"), 0.0]])
    expected = [[1.0, 0.0, 1.0, 0, 0], [0.0, 2.0, 0.0, 1, 1], [0.0, 0.0, 0.0, 1, 0]]
    assert fitted(rows).tolist() == expected
    assert fitted.width == 5


def test_a_text_among_the_numbers_is_refused_by_name() -> None:
    with pytest.raises(FitError, match=r"'city' cannot be read as a number[\s\S]*features.categorical"):
        numeric_matrix(pa.table({"city": ["x"]}), ["city"])


def test_labels() -> None:
    words = fit_label("multiclass", pa.chunked_array([["b", "a", "c"]]))
    assert words.classes == ("a", "b", "c")
    assert words.encode(pa.chunked_array([["c", "new"]])).tolist() == [2, -1]
    number = fit_label("regression", pa.chunked_array([[10.0, 30.0]]))
    assert number.encode(pa.chunked_array([[10.0, 40.0]])).tolist() == [-1.0, 2.0]
    assert fit_label("binary", pa.chunked_array([[True, False]])).encode(pa.chunked_array([[True]])).tolist() == [1.0]


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("binary", [1, 2], "expected: 0 and 1"),
        ("binary", [1, 1], "do not vary"),
        ("multiclass", ["a", "a"], "do not vary"),
        ("regression", [2.0, 2.0], "do not vary"),
        ("regression", [2.0, None], "1 of 2"),
        ("regression", [2.0, float("nan")], "not finite"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(kind: str, values: list[object], message: str) -> None:
    with pytest.raises(FitError, match=message):
        fit_label(kind, pa.chunked_array([pa.array(values)]))
