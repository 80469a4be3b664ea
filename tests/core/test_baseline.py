"""The rivals: trees that use what they are given, and the last known value."""

import numpy as np
import pyarrow as pa

from tasks.core.baseline import MAX_CATEGORIES, category_values, design_matrix, fit_and_score, last_known_value
from tasks.core.records import Inputs

INPUTS = Inputs(numeric=("x", "flag"), categorical=("city",))


def make_table(rows=4_000, seed=0, label="binary"):
    random = np.random.default_rng(seed)
    x, city = random.normal(size=rows), random.integers(0, 3, rows)
    chance = 1 / (1 + np.exp(-(2 * x + np.array([-2.0, 0.0, 2.0])[city])))
    answers = {
        "binary": (random.random(rows) < chance).astype(int),
        "multiclass": np.array(["ewr", "jfk", "lga"])[(city + (x > 0)) % 3],
        "regression": 10 * chance + random.normal(size=rows),
    }
    return pa.table(
        {
            "x": pa.array(np.where(x > 2, np.nan, x), from_pandas=True),
            "flag": x > 1,
            "city": pa.array([f"c{value}" for value in city]).dictionary_encode(),
            "label": answers[label],
        }
    )


def test_trees_find_what_is_there_in_numbers_categories_and_missing_values():
    from sklearn.metrics import roc_auc_score

    new = make_table(seed=1)
    scores, classes = fit_and_score(make_table(), new, INPUTS, "binary", iterations=30)
    without, _ = fit_and_score(make_table(), new, Inputs(numeric=("x",), categorical=()), "binary", iterations=30)
    assert classes == ()
    assert roc_auc_score(new["label"], scores) > 0.88 > roc_auc_score(new["label"], without) + 0.02
    again, _ = fit_and_score(make_table(), new, INPUTS, "binary", iterations=30)
    np.testing.assert_array_equal(scores, again)


def test_trees_score_classes_in_their_order_and_values():
    new = make_table(seed=1, label="multiclass")
    scores, classes = fit_and_score(make_table(label="multiclass"), new, INPUTS, "multiclass", iterations=20)
    assert classes == ("ewr", "jfk", "lga")
    assert np.mean(np.array(classes)[scores.argmax(1)] == new["label"].to_numpy()) > 0.9
    new = make_table(seed=1, label="regression")
    values, _ = fit_and_score(make_table(label="regression"), new, INPUTS, "regression", iterations=20)
    assert np.corrcoef(values, new["label"])[0, 1] > 0.9


def test_rare_and_unseen_categories_share_a_code_and_missing_ones_stay_missing():
    common = np.repeat([f"v{k:03d}" for k in range(300)], 2).tolist()
    fit = pa.table({"city": [*common, "v299", None]})
    values = category_values(fit["city"])
    assert values.to_pylist() == ["v299", *(f"v{k:03d}" for k in range(MAX_CATEGORIES - 2))]
    asked = pa.table({"city": ["v299", "v298", "never seen", None]})
    matrix = design_matrix(asked, Inputs(numeric=(), categorical=("city",)), [values])
    np.testing.assert_array_equal(matrix[:, 0], [0, MAX_CATEGORIES - 1, MAX_CATEGORIES - 1, np.nan])
    assert np.nanmax(matrix) < 255  # scikit-learn's limit of a category's code


def test_last_known_value_is_that_or_else_what_is_usual():
    fit = pa.table({"label": [1.0, 2.0, 3.0, 3.0]})
    assert last_known_value(fit, pa.table({"last": [5, None]}), "last", "regression")[0].tolist() == [5.0, 2.25]
    fit = pa.table({"label": ["a", "b", "b"]})
    scores, classes = last_known_value(fit, pa.table({"last": ["c", None]}), "last", "multiclass")
    assert (classes, scores.tolist()) == (("a", "b", "c"), [[0, 0, 1], [0, 1, 0]])
