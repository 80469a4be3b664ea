"""From columns to tensors: category tables and the standardiser, fitted on fit rows and stored with the model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.core.errors import FitError

NULL_CODE = 0
UNSEEN_CODE = 1
_FIRST_CODE = 2
UNKNOWN_CLASS = -1
BLOCK_ROWS = 65_536  # rows decoded at once where a column is read in pieces


@dataclass(frozen=True)
class CategoryTable:
    """The values of one categorical input. Code 0 is null, 1 any value not in the table, 2 on the table's own."""

    name: str
    values: tuple[str, ...]

    @property
    def cardinality(self) -> int:
        return len(self.values) + _FIRST_CODE

    def encode(self, column: pa.ChunkedArray) -> NDArray[np.int64]:
        # A value's place is its code. Null is found at the first of the two nulls, and nothing at the second.
        places = pc.index_in(_as_text(column), value_set=pa.array([None, None, *self.values], pa.string()))
        return np.asarray(pc.fill_null(places, UNSEEN_CODE), dtype=np.int64)


def fit_category_table(name: str, column: pa.ChunkedArray) -> CategoryTable:
    values = pc.unique(_as_text(column)).to_pylist()
    return CategoryTable(name, tuple(sorted(value for value in values if value is not None)))


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column if pa.types.is_string(column.type) else pc.cast(column, pa.string())


def numeric_matrix(table: pa.Table, names: Sequence[str]) -> NDArray[np.float32]:
    """The named columns side by side, (rows, columns); null becomes NaN.

    Raises:
        FitError: a column that is no number.
    """
    matrix = np.empty((table.num_rows, len(names)), dtype=np.float32, order="F")
    for place, name in enumerate(names):
        column = table[name]
        try:
            # Null stays null through the cast, and numpy has only NaN to put in its place.
            matrix[:, place] = pc.cast(column, pa.float64(), safe=False).to_numpy()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise _not_numeric(name, column) from error
    return matrix


def _not_numeric(name: str, column: pa.ChunkedArray) -> FitError:
    return FitError(
        f"input {name!r} cannot be read as a number",
        got=column.type,
        expected="an integer, float, boolean or decimal column",
        fix="name it in features.categorical of the recipe, or derive a number from it",
    )


def blocks(table: pa.Table, rows: int = BLOCK_ROWS) -> Iterator[pa.Table]:
    """The table in pieces of `rows` rows, without copying."""
    for start in range(0, table.num_rows, rows):
        yield table.slice(start, rows)


class NumericPreprocessing(nn.Module):
    """Standardise each number and say which were missing: (B, F) with NaN -> (B, F + M).

    A missing value becomes the mean (0 after standardising) and raises its indicator; the M indicators are for those
    inputs that were ever missing in the fit rows. Infinite counts as missing.
    """

    mean: Tensor
    scale: Tensor
    indicated: Tensor

    def __init__(self, num_numeric: int, num_indicators: int = 0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_numeric))
        self.register_buffer("scale", torch.ones(num_numeric))
        self.register_buffer("indicated", torch.zeros(num_indicators, dtype=torch.int64))

    @property
    def width(self) -> int:
        return len(self.mean) + len(self.indicated)

    def forward(self, numeric: Tensor) -> Tensor:
        known = torch.isfinite(numeric)
        standardised = torch.where(known, (numeric - self.mean) / self.scale, 0.0)
        missing = (~known).to(numeric.dtype)
        return torch.cat([standardised, missing.index_select(1, self.indicated)], dim=1)


def fit_numeric_preprocessing(table: pa.Table, names: Sequence[str]) -> NumericPreprocessing:
    """Mean, standard deviation and which inputs are ever missing, in one pass over blocks of rows.

    Source: Chan, Golub & LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979).
    """
    count, mean, squares = np.zeros(len(names)), np.zeros(len(names)), np.zeros(len(names))
    for block in blocks(table):
        for place, values in enumerate(numeric_matrix(block, names).T):
            known = values[np.isfinite(values)].astype(np.float64)
            n, before = len(known), count[place]
            if n == 0:
                continue
            shift = known.mean() - mean[place]
            squares[place] += known.var() * n + shift**2 * before * n / (before + n)
            mean[place] += shift * n / (before + n)
            count[place] += n
    deviation = np.sqrt(squares / np.maximum(count, 1))
    # A column that never varied must not blow up a later value that does.
    constant = deviation <= 1e-6 * np.maximum(np.abs(mean), 1.0)
    missing = np.flatnonzero(count < table.num_rows)
    module = NumericPreprocessing(len(names), len(missing))
    module.mean.copy_(torch.from_numpy(mean))
    module.scale.copy_(torch.from_numpy(np.where(constant, 1.0, deviation)))
    module.indicated.copy_(torch.from_numpy(missing))
    return module


@dataclass(frozen=True)
class Label:
    """How the label column becomes a target: a class number, or a standardised number."""

    kind: str  # binary, multiclass, regression
    classes: tuple[Any, ...] = ()
    mean: float = 0.0
    scale: float = 1.0

    @property
    def outputs(self) -> int:
        return len(self.classes) if self.kind == "multiclass" else 1

    def encode(self, column: pa.ChunkedArray) -> NDArray[np.float32] | NDArray[np.int64]:
        """Targets, one per row: float32 (0 or 1, or standardised), or int64 classes with -1 for an unknown one.

        Raises:
            FitError: a row without a label.
        """
        if column.null_count:
            raise FitError("rows without a label", got=f"{column.null_count} of {len(column)}", expected="none")
        if self.kind == "multiclass":
            places = pc.index_in(column, value_set=pa.array(self.classes, column.type))
            return np.asarray(pc.fill_null(pc.cast(places, pa.int64()), UNKNOWN_CLASS), dtype=np.int64)
        values = np.asarray(pc.cast(column, pa.float64()), dtype=np.float64)
        if not np.isfinite(values).all():
            raise FitError("labels that are not finite", got=f"{(~np.isfinite(values)).sum()} of {len(values)} rows")
        return ((values - self.mean) / self.scale).astype(np.float32)


def fit_label(kind: str, column: pa.ChunkedArray) -> Label:
    """Learn the classes, or mean and scale, from the fit rows' labels.

    Raises:
        FitError: labels of one value only, or a binary label that is not 0 and 1.
    """
    if kind == "regression":
        values = Label(kind).encode(column)
        scale = float(values.std(dtype=np.float64))
        if scale == 0.0:
            raise _one_value(values[:1].tolist())
        return Label(kind, mean=float(values.mean(dtype=np.float64)), scale=scale)
    classes = sorted(value for value in pc.unique(column).to_pylist() if value is not None)
    if len(classes) < 2:
        raise _one_value(classes)
    if kind == "binary" and classes != [0, 1]:
        raise FitError("label.kind is binary", got=f"values {classes[:5]}", expected="0 and 1, or false and true")
    return Label(kind, tuple(classes))


def _one_value(values: list[Any]) -> FitError:
    return FitError(
        "the fit rows' labels do not vary",
        got=f"only {values}",
        expected="two values or more",
        fix="fit on more rows, or correct label.expression in the recipe",
    )
