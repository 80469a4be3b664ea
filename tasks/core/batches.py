"""Batches of tensors in an order that is a function of (seed, epoch), and rows that give them.

A batch is sliced, never built row by row. The rows lie in tensors, or for a training set too large for memory in the
memory-mapped Arrow file; both answer to the same two methods.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.core.errors import FitError
from tasks.core.preprocessing import BLOCK_ROWS, CategoryTable, Label, NumericPreprocessing, blocks, numeric_matrix


class Batch(NamedTuple):
    numeric: Tensor  # (B, F + M) preprocessed
    categorical: Tensor  # (B, C) int64
    target: Tensor  # (B,)


class Rows(Protocol):
    """Preprocessed rows that can be taken in any order."""

    def __len__(self) -> int: ...

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """A permutation of the rows, as good a shuffle as their place allows."""

    def take(self, places: NDArray[np.int64]) -> Batch: ...


@dataclass(frozen=True)
class Encoder:
    """From a piece of the training set to a batch; everything in it was fitted on the fit rows."""

    numeric: tuple[str, ...]
    categories: tuple[CategoryTable, ...]
    preprocessing: NumericPreprocessing
    label_column: str
    label: Label

    def raw(self, table: pa.Table) -> tuple[Tensor, Tensor]:
        """What a served model is given: numeric (B, F) with NaN for missing, categorical codes (B, C)."""
        codes = np.empty((table.num_rows, len(self.categories)), dtype=np.int64)
        for place, category in enumerate(self.categories):
            codes[:, place] = category.encode(table[category.name])
        return torch.from_numpy(numeric_matrix(table, self.numeric)).contiguous(), torch.from_numpy(codes)

    @torch.no_grad()
    def encode(self, table: pa.Table) -> Batch:
        numeric, categorical = self.raw(table)
        target = torch.from_numpy(np.array(self.label.encode(table[self.label_column])))
        return Batch(self.preprocessing(numeric).contiguous(), categorical, target)

    def encode_blocks(self, table: pa.Table, release: Callable[[], None]) -> Batch:
        """The same of a large table, block by block: what lies between the file and the tensors is never whole."""
        out: list[Tensor] = []
        for number, block in enumerate(blocks(table)):
            batch = self.encode(block)
            if not out:
                out = [column.new_empty((table.num_rows, *column.shape[1:])) for column in batch]
            for whole, piece in zip(out, batch, strict=True):
                whole[number * BLOCK_ROWS :][: len(piece)] = piece
            release()
        return Batch(*out)

    def bytes_per_row(self) -> int:
        return 4 * self.preprocessing.width + 8 * len(self.categories) + 8


@dataclass(frozen=True)
class TensorRows:
    """All rows preprocessed once, in memory."""

    rows: Batch

    def __len__(self) -> int:
        return len(self.rows.target)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        return _generator(seed, epoch).permutation(len(self))

    def take(self, places: NDArray[np.int64]) -> Batch:
        chosen = torch.from_numpy(places)
        return Batch(*(column[chosen] for column in self.rows))


class ArrowRows:
    """Rows left in the memory-mapped Arrow file, decoded block by block as they are asked for.

    The shuffle is of blocks, then of the rows within a window of some blocks, so that a batch touches no more than
    `window` blocks and each block is decoded once in an epoch.
    """

    def __init__(
        self,
        table: pa.Table,
        encoder: Encoder,
        block_rows: int = 16_384,
        window: int = 16,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.table, self.encoder, self.block_rows, self.window = table, encoder, block_rows, window
        self.release = release  # called after a window's worth of blocks, for pages of the file that were read
        self._decoded: OrderedDict[int, Batch] = OrderedDict()
        self._read = 0

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        generator = _generator(seed, epoch)
        starts = generator.permutation(np.arange(0, len(self), self.block_rows))
        windows = (starts[i : i + self.window] for i in range(0, len(starts), self.window))
        return np.concatenate([generator.permutation(np.concatenate([self._block(s) for s in w])) for w in windows])

    def _block(self, start: int) -> NDArray[np.int64]:
        return np.arange(start, min(start + self.block_rows, len(self)))

    def take(self, places: NDArray[np.int64]) -> Batch:
        numbers, within = np.divmod(places, self.block_rows)
        out: list[Tensor] = []
        for number in np.unique(numbers):
            chosen = np.flatnonzero(numbers == number)
            block = self._decode(int(number))
            if not out:
                out = [column.new_empty((len(places), *column.shape[1:])) for column in block]
            for target, column in zip(out, block, strict=True):
                target[chosen] = column[within[chosen]]
        return Batch(*out)

    def _decode(self, number: int) -> Batch:
        if number not in self._decoded:
            self._decoded[number] = self.encoder.encode(self.table.slice(number * self.block_rows, self.block_rows))
            # One more than the window: a batch may reach from one window into the next.
            while len(self._decoded) > 2 * self.window:
                self._decoded.popitem(last=False)
            self._read += 1
            if self._read % self.window == 0:
                self.release()
        self._decoded.move_to_end(number)
        return self._decoded[number]


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch])


class TrainingBatches:
    """Micro-batches of one rank, resumable at (epoch, offset): `state_dict` after a batch, `load_state_dict` before.

    A step's rows are `batch_size` places of the epoch's order; rank r of n takes every n-th of them, in `accumulate`
    micro-batches. So the union of a step's micro-batches over the ranks is the same for any number of devices. The
    rows left over at the end of an epoch's order are left out, other ones each time.
    """

    def __init__(
        self, rows: Rows, batch_size: int, seed: int, *, accumulate: int = 1, rank: int = 0, world_size: int = 1
    ) -> None:
        if len(rows) < world_size:
            raise FitError("fewer fit rows than devices", got=f"{len(rows)} rows", expected=f"at least {world_size}")
        self.rows, self.seed, self.accumulate, self.rank, self.world_size = rows, seed, accumulate, rank, world_size
        # Every rank's share of a step must be cut into `accumulate` micro-batches of one row or more.
        self.step_rows = min(batch_size, len(rows))
        self.epoch, self.offset = 0, 0

    @property
    def steps_per_epoch(self) -> int:
        return len(self.rows) // self.step_rows

    def __len__(self) -> int:
        return self.steps_per_epoch * self.accumulate

    def __iter__(self) -> Iterator[Batch]:
        if self.offset >= len(self):
            self.epoch, self.offset = self.epoch + 1, 0
        order = self.rows.order(self.seed, self.epoch)
        while self.offset < len(self):
            step, part = divmod(self.offset, self.accumulate)
            places = order[step * self.step_rows : (step + 1) * self.step_rows]
            self.offset += 1
            yield self.rows.take(places[self.rank + part * self.world_size :: self.world_size * self.accumulate])

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "offset": self.offset}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.offset = state["epoch"], state["offset"]


class ValidationBatches:
    """One rank's share of the rows, in order: every n-th row, the last one repeated until the shares are equal."""

    def __init__(self, rows: Rows, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.rows, self.batch_size = rows, batch_size
        share = -(-len(rows) // world_size)
        self.places = np.minimum(np.arange(share) * world_size + rank, len(rows) - 1)

    def __len__(self) -> int:
        return -(-len(self.places) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.places), self.batch_size):
            yield self.rows.take(self.places[start : start + self.batch_size])
