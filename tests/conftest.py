"""What more than one test needs."""

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.records import FitSpec, Inputs
from tasks.core.threads import SHORT_SPINS

ROOT = Path(__file__).parent
# Before torch is imported, here and in child processes.
os.environ.update(SHORT_SPINS | os.environ)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Flows first: they wait for servers, and what computes can run beside them."""
    items.sort(key=lambda item: ROOT / "flows" not in item.path.parents)


class FittedModel(NamedTuple):
    """A model folder as a fit leaves it, rows for it, and what the network itself predicts on them."""

    folder: Path
    rows: pa.Table
    expected: np.ndarray
    weights_sha256: str


@pytest.fixture(scope="session")
def fitted_model(tmp_path_factory: pytest.TempPathFactory) -> FittedModel:
    """A small real export: two numbers (one missing here and there), two categories, a binary label."""
    import torch

    from tasks.core.batches import Encoder
    from tasks.core.export import ServedNetwork, export_model
    from tasks.core.heads import Head
    from tasks.core.networks import build_network
    from tasks.core.preprocessing import fit_category_table, fit_label, fit_numeric_preprocessing

    torch.manual_seed(0)
    rows = pa.table(
        {
            "speed": [1.5, None, 3.0, -2.0] * 10,
            "hour": pa.array([1, 2, 3, 4] * 10, pa.int32()),
            "carrier": ["AA", "UA", None, "DL"] * 10,
            "weekday": ["1", "2", "7", "7"] * 10,
            "label": [0, 1, 1, 0] * 10,
        }
    )
    encoder = Encoder(
        ("speed", "hour"),
        tuple(fit_category_table(name, rows[name]) for name in ("carrier", "weekday")),
        fit_numeric_preprocessing(rows, ("speed", "hour")),
        "label",
        fit_label("binary", rows["label"]),
    )
    cardinalities = [table.cardinality for table in encoder.categories]
    network = build_network("mlp", encoder.preprocessing.width, cardinalities, 1, {}).eval()
    served = ServedNetwork(encoder.preprocessing, network, Head(encoder.label))
    folder = tmp_path_factory.mktemp("fit") / "model"
    digest = export_model(served, encoder, folder, encoder.raw(rows))
    with torch.no_grad():
        expected = served(*encoder.raw(rows)).numpy()
    return FittedModel(folder, rows.drop_columns("label"), expected, digest)


class MakeFitSpec(Protocol):
    def __call__(self, kind: str = "binary", rows: int = 720, **changes: Any) -> FitSpec: ...


@pytest.fixture
def make_fit_spec(tmp_path: Path) -> MakeFitSpec:
    """Small fits on made-up rows: one number (sometimes null) and one category (sometimes null) carry the label, one
    number is noise. The last sixth of the rows is the validation split, and has a category that fit rows lack."""

    def make(kind: str = "binary", rows: int = 720, **changes: Any) -> FitSpec:
        path = tmp_path / f"{kind}-{rows}.arrow"
        write_arrow(path, made_up_rows(kind, rows))
        cut = rows * 5 // 6
        spec = FitSpec(
            training_set=str(path),
            inputs=Inputs(numeric=("signal", "noise"), categorical=("group",)),
            label="label",
            label_kind=kind,  # type: ignore[arg-type]
            fit_rows=(0, cut),
            validation_rows=(cut, rows),
            steps=None,
            network="mlp",
            network_options={"widths": [16], "dropout": 0.2},
            optimizer={"learning_rate": 0.02, "weight_decay": 0.01, "warmup_fraction": 0.05, "schedule": "cosine"},
            batch_size=60,
            max_epochs=3,
            patience=3,
            gradient_clip=1.0,
            precision="auto",
            devices=1,
            seed=7,
            output=str(tmp_path / "fit"),
        )
        return dataclasses.replace(spec, **changes)

    return make


def made_up_rows(kind: str, rows: int) -> pa.Table:
    generator = np.random.default_rng(0)
    signal, noise, score = generator.normal(size=(3, rows))
    group = generator.choice(["a", "b", "c"], size=rows)
    truth = 2 * signal + 2.0 * (group == "b") - 1.0 + 0.3 * score
    label: Any = {"binary": truth > 0, "multiclass": np.digitize(truth, [-1, 1]), "regression": 100 + 50 * truth}[kind]
    missing = generator.random(rows) < 0.05
    is_new = (np.arange(rows) >= rows * 5 // 6) & (generator.random(rows) < 0.1)
    return pa.table(
        {
            "signal": pa.array(np.where(missing, np.nan, signal * 1000 + 5), from_pandas=True),
            "noise": noise.astype(np.float32),
            "group": pa.array(np.where(is_new, "new", group), pa.string(), mask=generator.random(rows) < 0.05),
            "label": pa.array(np.array(["low", "middle", "high"])[label] if kind == "multiclass" else label),
        }
    )


def write_arrow(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=256)
