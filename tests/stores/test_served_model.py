"""The model as it is served, on a real export."""

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tasks.stores import served_model
from tasks.stores.served_model import ServedModel, ServedModelError


@pytest.fixture(scope="module")
def model(fitted_model):
    return ServedModel(fitted_model.folder)


def test_predicts_what_the_network_predicts(model, fitted_model):
    np.testing.assert_allclose(model.predict(fitted_model.rows), fitted_model.expected, rtol=1e-5, atol=1e-6)


def test_batches_columns_in_any_order_and_pandas_predict_the_same(model, fitted_model, monkeypatch):
    expected = model.predict(fitted_model.rows)
    shuffled = fitted_model.rows.select(["weekday", "hour", "carrier", "speed"]).append_column("more", pa.nulls(40))
    np.testing.assert_array_equal(model.predict(shuffled), expected)
    frame = fitted_model.rows.to_pandas().astype({"carrier": "category"})
    np.testing.assert_array_equal(model.predict(frame), expected)
    monkeypatch.setattr(served_model, "BATCH_ROWS", 7)
    np.testing.assert_allclose(model.predict(fitted_model.rows), expected, rtol=1e-5, atol=1e-6)


def test_categories_that_are_numbers_are_the_text_they_were_fitted_as(model, fitted_model):
    weekday = pa.array([1, 2, 7, 7] * 10)
    for numbers in (weekday, weekday.cast(pa.float64()), weekday.cast(pa.string()).dictionary_encode()):
        rows = fitted_model.rows.set_column(3, "weekday", numbers)
        np.testing.assert_array_equal(model.predict(rows), model.predict(fitted_model.rows))


def test_unseen_null_and_known_are_told_apart(model, fitted_model):
    row = fitted_model.rows.slice(0, 1)
    scores = {
        value: float(model.predict(row.set_column(2, "carrier", pa.array([value], pa.string())))[0])
        for value in ("AA", "??", "!!", None)
    }
    assert scores["??"] == scores["!!"]
    assert len({scores["AA"], scores["??"], scores[None]}) == 3


def test_no_rows_no_scores(model, fitted_model):
    assert model.predict(fitted_model.rows.slice(0, 0)).shape == (0,)


def test_a_missing_column_is_named(model, fitted_model):
    with pytest.raises(ServedModelError, match=r"also \['carrier'\]"):
        model.predict(fitted_model.rows.drop_columns("carrier"))
    with pytest.raises(ServedModelError, match="'speed' holds something that is no number"):
        model.predict(fitted_model.rows.set_column(0, "speed", pa.array(["fast"] * 40)))
    with pytest.raises(ServedModelError, match="mixes types"):
        model.predict(fitted_model.rows.to_pandas().assign(carrier=["AA", 1] * 20))


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "where", ["data/sample_inputs/model.pt", "data/weights/weight_0", "data/constants/opaque_obj_0"]
)
def test_a_pickle_inside_is_refused_and_not_run(fitted_model, tmp_path, where):
    trap = tmp_path / "sprung"
    folder = shutil.copytree(fitted_model.folder, tmp_path / "model")
    poison(folder / "program.pt2", where, Trap(trap))
    with pytest.raises(ServedModelError):
        ServedModel(folder)
    assert not trap.exists()


def poison(path, where, trap):
    """Put a pickle in the place of a member, and say in the index that it is one."""
    if where.endswith("model.pt"):
        buffer = io.BytesIO()
        torch.save(trap, buffer)
        payload = buffer.getvalue()
    else:
        payload = pickle.dumps(trap)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(members)).partition("/")[0]
    members[f"{root}/{where}"] = payload
    index = json.loads(members[f"{root}/data/weights/model_weights_config.json"])
    if where.endswith("weight_0"):
        next(iter(index["config"].values()))["use_pickle"] = True
    members[f"{root}/data/weights/model_weights_config.json"] = json.dumps(index).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_half_a_file_is_refused(fitted_model, tmp_path):
    folder = shutil.copytree(fitted_model.folder, tmp_path / "model")
    program = folder / "program.pt2"
    program.write_bytes(program.read_bytes()[:1000])
    with pytest.raises(ServedModelError, match="not a whole"):
        ServedModel(folder)
