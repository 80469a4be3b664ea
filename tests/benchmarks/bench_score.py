"""Rows per CPU second: of batch scoring by the served model, and of the training batches.

Scoring 1 million rows of 20 numbers and 10 names, from Arrow to scores, stands beside the bare exported program on
tensors that are there already; reading the rows and writing the lines of the log are told apart. An epoch of training
batches stands beside torch's row-wise DataLoader.

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


def make_rows(rows: int) -> pa.Table:
    random = np.random.default_rng(0)
    columns = {name: random.standard_normal(rows, dtype=np.float32) for name in NUMBERS}
    names = {
        name: pa.DictionaryArray.from_arrays(
            random.integers(0, 4 << place, rows, dtype=np.int32), [f"{name} no. {i}" for i in range(4 << place)]
        ).cast(pa.string())
        for place, name in enumerate(NAMES)
    }
    return pa.table({**columns, **names, "label": random.integers(0, 2, rows)})


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
    times = pa.array(np.arange(num_rows) * 1_000_000, pa.timestamp("us", "UTC"))
    joined = rows.append_column(TIME, times).append_column("key", pa.array(np.arange(num_rows)))
    pq.write_table(rows, source)
    inputs = Inputs(numeric=NUMBERS, categorical=NAMES)

    def write() -> None:
        pq.write_table(log_lines(joined, scores, key=("key",), inputs=inputs, classes=(), version=1), log)

    return cpu_seconds(
        {
            "served model": lambda: model.predict(rows),
            "bare program": bare,
            "reading from Parquet": lambda: pq.read_table(source),
            "lines of the log, written": write,
        }
    )


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
