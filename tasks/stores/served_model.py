"""The model as it is served. MLflow keeps a copy of this file with every version and makes the model from it.

It stands alone: torch, numpy, pyarrow, the standard library, and for its two hooks MLflow with its pandas. It reads the
folder of a fit: `program.pt2`, a torch.export program with the numeric preprocessing inside, (B, numeric) float32 and
(B, categorical) int64 -> (B,) or (B, classes) float32; `model.json`, the inputs in order and the category tables.
"""

import io
import json
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from mlflow.models import set_model

with warnings.catch_warnings():
    # On import MLflow warns of type hints of its own.
    warnings.filterwarnings("ignore", message=".*AnyType", category=UserWarning)
    from mlflow.pyfunc import PythonModel

FORMAT = 1
NULL_CODE, UNSEEN_CODE = 0, 1
BATCH_ROWS = 16_384  # bounds the memory of a prediction, whatever the number of rows


class ServedModelError(ValueError):
    """A model or rows that cannot be served; says what, got, expected."""


class Inputs(NamedTuple):
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]


class ServedModel:
    """Scores for rows: probabilities (B,) binary, (B, classes) multiclass; values (B,) regression."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        about = json.loads((folder / "model.json").read_text())
        if about["format"] != FORMAT:
            raise ServedModelError(f"{folder} has format {about['format']}; this code reads format {FORMAT}")
        self.label_kind: str = about["label_kind"]
        self.classes: tuple[Any, ...] = tuple(about["classes"])
        self.inputs = Inputs(tuple(about["inputs"]["numeric"]), tuple(about["inputs"]["categorical"]))
        # A value's place is its code. Null is found at the first of the two nulls, and nothing at the second.
        self.tables = {
            name: pa.array([None, None, *about["categories"][name]], pa.string()) for name in self.inputs.categorical
        }
        refuse_pickle(folder / "program.pt2")
        self.program = torch.export.load(folder / "program.pt2").module()
        self._warm_up()

    def _warm_up(self) -> None:
        """Predict once for nobody: the first call of a loaded program sets things up, and no caller waits for that."""
        numeric = torch.full((1, len(self.inputs.numeric)), torch.nan)
        with torch.inference_mode():
            self.program(numeric, torch.full((1, len(self.inputs.categorical)), NULL_CODE, dtype=torch.int64))

    def predict(self, rows: pa.Table | pd.DataFrame) -> np.ndarray:
        """Scores in the order of `rows`; columns that are no inputs are ignored.

        Raises:
            ServedModelError: an input column is missing, or a numeric one holds something else.
        """
        table = self._input_table(rows)
        if table.num_rows == 0:
            return np.empty((0, len(self.classes)) if self.label_kind == "multiclass" else 0, dtype=np.float32)
        numeric = torch.from_numpy(_numeric_matrix(table, self.inputs.numeric))
        codes = torch.from_numpy(self._code_matrix(table))
        with torch.inference_mode():
            scores = [
                self.program(numeric[start : start + BATCH_ROWS], codes[start : start + BATCH_ROWS])
                for start in range(0, table.num_rows, BATCH_ROWS)
            ]
            return torch.cat(scores).numpy()

    def _input_table(self, rows: pa.Table | pd.DataFrame) -> pa.Table:
        names = [*self.inputs.numeric, *self.inputs.categorical]
        present = set(rows.column_names if isinstance(rows, pa.Table) else rows.columns)
        if missing := [name for name in names if name not in present]:
            raise ServedModelError(
                f"input columns are missing\n  got:      {sorted(map(str, present))}\n  expected: also {missing}"
            )
        if isinstance(rows, pa.Table):
            return rows.select(names)
        try:
            return pa.Table.from_pandas(rows[names], preserve_index=False)
        except pa.ArrowException as error:
            raise ServedModelError(f"an input column mixes types: {error}") from error

    def _code_matrix(self, table: pa.Table) -> np.ndarray:
        """Category codes (B, categorical): null, a value that was not fitted on, or its place in the table."""
        codes = np.empty((table.num_rows, len(self.inputs.categorical)), dtype=np.int64)
        for place, name in enumerate(self.inputs.categorical):
            places = pc.index_in(pc.cast(table[name], pa.string()), value_set=self.tables[name])
            codes[:, place] = pc.fill_null(places, UNSEEN_CODE).to_numpy()
        return codes


def _numeric_matrix(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """Numbers (B, numeric), NaN where missing."""
    matrix = np.empty((table.num_rows, len(names)), dtype=np.float32)
    for place, name in enumerate(names):
        try:
            matrix[:, place] = pc.cast(table[name], pa.float64(), safe=False).to_numpy()
        except pa.ArrowException as error:
            raise ServedModelError(
                f"input {name!r} holds something that is no number\n  got:      {table[name].type}: {error}"
            ) from error
    return matrix


# --- no pickle --------------------------------------------------------------------------------------

# What torch.export.save writes for a program of plain tensors. torch.export.load would unpickle the rest: pickled
# weights, script objects, opaque constants, and sample inputs that do not load as plain tensors.
_MEMBERS = re.compile(
    r"models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt"
    r"|archive_format|archive_version|byteorder|\.data/\w+|\.format_version|\.storage_alignment|version"
)


def refuse_pickle(path: Path) -> None:
    """Make sure that loading `path` reads tensors and a graph, and runs no code.

    Raises:
        ServedModelError: it is not such a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.partition("/")[2]: name for name in archive.namelist()}
            odd = [name for name in members if not _MEMBERS.fullmatch(name)]
            for kind in ("weights", "constants"):
                config = json.loads(archive.read(members[f"data/{kind}/model_{kind}_config.json"]))["config"]
                odd += [name for name, entry in config.items() if entry["use_pickle"]]
            torch.load(io.BytesIO(archive.read(members["data/sample_inputs/model.pt"])), weights_only=True)
    except Exception as error:
        raise ServedModelError(f"{path} is not a whole torch.export program of plain tensors: {error}") from error
    if odd:
        raise ServedModelError(f"{path} may run code when it is loaded\n  got:      {odd}\n  expected: plain tensors")


# --- MLflow's hooks ---------------------------------------------------------------------------------


class PyfuncModel(PythonModel):
    """What `mlflow.pyfunc.load_model` gives. Its `predict` takes a pyarrow Table too; MLflow knows no such type."""

    def load_context(self, context: Any) -> None:
        self.model = ServedModel(context.artifacts["model"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray:
        return self.model.predict(model_input)


set_model(PyfuncModel())
