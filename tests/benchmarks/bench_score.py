"""Rows per CPU second: of batch scoring by the served model, and of the training batches.

Scoring 1 million rows of 20 numbers and 10 names, from Arrow to scores, stands beside the bare exported program on
tensors that are there already; reading the rows and writing the lines of the log are told apart. An epoch of training
batches stands beside torch's row-wise DataLoader. For the curve, rows of any number go from a file to the log, a batch
at a time.

Run: python -m tests.benchmarks score
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tasks.core.batches import Encoder, TensorRows, TrainingBatches
from tasks.core.export import ServedNetwork, export_model
from tasks.core.heads import Head
from tasks.core.model_rows import TIME
from tasks.core.networks import build_network
from tasks.core.predictions import log_lines
from tasks.core.preprocessing import fit_category_table, fit_label, fit_numeric_preprocessing
from tasks.core.records import Inputs
from tests.benchmarks.measuring import machine, measure

ROWS, EPOCH_ROWS, BATCH_ROWS, REPETITIONS = 1_000_000, 337_000, 4_096, 3
NUMBERS, NAMES = tuple(f"number{i}" for i in range(20)), tuple(f"name{i}" for i in range(10))
HERE, PROGRAM_ROWS = "tests.benchmarks.bench_score", 16_384  # as in tasks.stores.served_model
READ_ROWS = 65_536  # as in tasks.joins
INPUTS = Inputs(numeric=NUMBERS, categorical=NAMES)


def make_rows(rows: int, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    columns = {name: random.standard_normal(rows, dtype=np.float32) for name in NUMBERS}
    names = {
        name: pa.DictionaryArray.from_arrays(
            random.integers(0, 4 << place, rows, dtype=np.int32), [f"{name} no. {i}" for i in range(4 << place)]
        ).cast(pa.string())
        for place, name in enumerate(NAMES)
    }
    return pa.table({**columns, **names, "label": random.integers(0, 2, rows)})


def with_key(rows: pa.Table, first: int) -> pa.Table:
    """As joined rows are; `first` is the place of their first row."""
    places = np.arange(first, first + rows.num_rows)
    return rows.append_column(TIME, pa.array(places * 1_000_000, pa.timestamp("us", "UTC"))).append_column(
        "key", pa.array(places)
    )


def lines_of(joined: pa.Table, scores: np.ndarray) -> pa.Table:
    return log_lines(joined, scores, key=("key",), inputs=INPUTS, classes=(), version=1)


def make_model(rows: pa.Table, folder: Path) -> Encoder:
    """A small network, exported as a fit exports it."""
    torch.manual_seed(0)
    categories = tuple(fit_category_table(name, rows[name]) for name in NAMES)
    preprocessing, label = fit_numeric_preprocessing(rows, NUMBERS), fit_label("binary", rows["label"])
    encoder = Encoder(NUMBERS, categories, preprocessing, "label", label)
    sizes = [table.cardinality for table in categories]
    network = build_network("mlp", preprocessing.width, sizes, 1, {}).eval()
    served = ServedNetwork(preprocessing, network, Head(label))
    export_model(served, encoder, folder, encoder.raw(rows.slice(0, 64)))
    return encoder


def cpu_seconds(works: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Of each, in turn; once before, so that what is made at a first call is not counted."""
    for work in works.values():
        work()
    spent: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(REPETITIONS):
        for name, work in works.items():
            began = time.process_time()
            work()
            spent[name].append(time.process_time() - began)
    return spent


def tell(title: str, rows: int, spent: dict[str, list[float]], first: str) -> None:
    print(title)
    for name, each in spent.items():
        ratios = [one / other for one, other in zip(spent[first], each, strict=True)]
        beside = "" if name == first else f"  {first}: {median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"  {name:26}{median(each):6.2f} CPU s {rows / median(each) / 1e3:8,.0f} thousand rows/CPU s{beside}")


def score(folder: str, num_rows: int) -> dict[str, list[float]]:
    from tasks.stores.served_model import ServedModel

    rows = make_rows(num_rows)
    encoder = make_model(rows, Path(folder))
    model, (numeric, codes) = ServedModel(folder), encoder.raw(rows)

    def bare() -> list[torch.Tensor]:
        starts = range(0, len(numeric), PROGRAM_ROWS)
        with torch.inference_mode():
            return [model.program(numeric[s : s + PROGRAM_ROWS], codes[s : s + PROGRAM_ROWS]) for s in starts]

    assert np.array_equal(torch.cat(bare()).numpy(), model.predict(rows)), "both must give the same scores"
    scores, source, log = model.predict(rows), f"{folder}/rows.parquet", f"{folder}/log.parquet"
    joined = with_key(rows, 0)
    pq.write_table(rows, source)

    return cpu_seconds(
        {
            "served model": lambda: model.predict(rows),
            "bare program": bare,
            "reading from Parquet": lambda: pq.read_table(source),
            "lines of the log, written": lambda: pq.write_table(lines_of(joined, scores), log),
        }
    )


# --- rows of any number ---------------------------------------------------------------------------


class Laps:
    """CPU seconds of the parts of a work that take turns, of all threads."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._last = time.process_time()

    def end(self, part: str) -> None:
        """What was spent since the last lap goes to this part."""
        now = time.process_time()
        self.spent[part] = self.spent.get(part, 0.0) + now - self._last
        self._last = now


def make_file(folder: str, rows: int) -> None:
    """Rows in blocks, one in memory at a time, and a model of the first block: its names are those of all blocks."""
    first = make_rows(min(rows, READ_ROWS))
    make_model(first, Path(folder))
    # Hardly a number comes twice in a block: a dictionary of them would only make the file larger.
    with pq.ParquetWriter(f"{folder}/rows.parquet", with_key(first, 0).schema, use_dictionary=list(NAMES)) as file:
        for start in range(0, rows, READ_ROWS):
            file.write_table(with_key(make_rows(min(READ_ROWS, rows - start), seed=start), start))


def score_file(folder: str) -> tuple[dict[str, float], float]:
    """From the file to the log as `tasks.scoring` does it; CPU seconds of each part, and wall seconds of all.

    Left out is what does not grow with the rows: the model is loaded before, and its latency is not measured.
    """
    from tasks.stores.served_model import ServedModel

    model, source, log = ServedModel(folder), f"{folder}/rows.parquet", f"{folder}/log.parquet"
    lines = lines_of(with_key(make_rows(0), 0), np.empty(0)).schema
    began, laps = time.perf_counter(), Laps()
    with pq.ParquetFile(source) as file, pq.ParquetWriter(log, lines) as writer:
        for group in range(file.num_row_groups):  # `iter_batches` keeps a tenth of all that it has read
            rows = file.read_row_group(group)
            laps.end("reading")
            scores = model.predict(rows)
            laps.end("scoring")
            writer.write_table(lines_of(rows, scores))
            laps.end("writing")
        laps.end("reading")
    laps.end("writing")
    wall = time.perf_counter() - began
    assert pq.read_metadata(log).num_rows == pq.read_metadata(source).num_rows, "each row must have its line"
    return laps.spent, wall


# --- training batches -----------------------------------------------------------------------------


def load(folder: str, num_rows: int) -> dict[str, list[float]]:
    rows = make_rows(num_rows)
    batch = make_model(rows, Path(folder)).encode(rows)
    ours = TrainingBatches(TensorRows(batch), BATCH_ROWS, seed=0)
    dataset = torch.utils.data.TensorDataset(*batch)
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH_ROWS, shuffle=True, drop_last=True)
    return cpu_seconds(
        {"training batches": lambda: list(map(len, ours)), "row-wise DataLoader": lambda: list(map(len, loader))}
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=ROWS)
    rows = options.parse_args().rows
    epoch = rows * EPOCH_ROWS // ROWS
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        scored, loaded = (
            measure(f"{HERE}:{name}", folder=folder, num_rows=count).result
            for name, count in (("score", rows), ("load", epoch))
        )
    tell(f"scoring, {rows:,} rows, from Arrow to scores", rows, scored, "served model")
    tell(f"an epoch, {epoch:,} rows, batches of {BATCH_ROWS:,}", epoch, loaded, "training batches")


if __name__ == "__main__":
    main()
