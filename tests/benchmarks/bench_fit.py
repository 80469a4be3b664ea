"""Cost of a fit: Lightning's with all that is ours, beside a bare PyTorch loop; from disk, beside from memory.

The bare loop has the same network, optimizer, schedule, order of rows, clipping and check of the gradient's norm. What
is counted is the passes over the rows, encoding and export left out; but from disk, rows are encoded as they are read.

Run: python -m tests.benchmarks fit [--rows 337000] [--disk-rows 3370000]; 0 leaves one out
"""

import argparse
import tempfile
import time
from pathlib import Path

from tests.benchmarks.measuring import Cost, machine, measure, measure_in_turn, ratio, typical

HERE, IMPORTS = "tests.benchmarks.bench_fit", ("torch", "lightning.pytorch", "tasks.core.train")
ROWS, DISK_ROWS, EPOCHS, BATCH_ROWS, CHUNK = 337_000, 3_370_000, 3, 4_096, 337_000


def make(folder: str, rows: int) -> int:
    import pyarrow as pa

    from tests.benchmarks.bench_score import make_rows

    chunk = make_rows(min(rows, CHUNK))
    with pa.OSFile(f"{folder}/{rows}.arrow", "wb") as file, pa.ipc.new_file(file, chunk.schema) as writer:
        for first in range(0, rows, CHUNK):
            writer.write_table(chunk.slice(0, min(CHUNK, rows - first)), max_chunksize=65_536)
    return rows


def _spec(folder: str, rows: int, epochs: int, memory_fraction: float):
    from tasks.core.records import FitSpec, Inputs
    from tests.benchmarks.bench_score import NAMES, NUMBERS

    return FitSpec(
        training_set=f"{folder}/{rows}.arrow", inputs=Inputs(numeric=NUMBERS, categorical=NAMES), label="label",
        label_kind="binary", fit_rows=(0, rows), validation_rows=None, steps=None, network="mlp", network_options={},
        optimizer={"learning_rate": 1e-3, "weight_decay": 0.01, "warmup_fraction": 0.05, "schedule": "cosine"},
        batch_size=BATCH_ROWS, max_epochs=epochs, patience=epochs, gradient_clip=1.0, precision="32-true", devices=1,
        seed=7, output=f"{folder}/fit", memory_fraction=memory_fraction,
    )  # fmt: skip


def _prepare(folder: str, rows: int, epochs: int, memory_fraction: float = 0.5):
    from tasks.core import train
    from tasks.core.batches import TrainingBatches

    spec = _spec(folder, rows, epochs, memory_fraction)
    train.set_up_device(spec)
    data = train.read_data(spec)
    batches = TrainingBatches(data.fit, spec.batch_size, spec.seed)
    return spec, batches, train.make_module(spec, data, batches)


def _spent(began: tuple[float, float]) -> list[float]:
    return [time.process_time() - began[0], time.perf_counter() - began[1]]


def ours(folder: str, rows: int, epochs: int, memory_fraction: float = 0.5) -> list[float]:
    """CPU and wall seconds of the passes over the rows."""
    from tasks.core import train
    from tasks.core.checkpoints import Progress

    spec, batches, module = _prepare(folder, rows, epochs, memory_fraction)
    Path(spec.output).mkdir(exist_ok=True)
    progress = Progress(batches, Path(spec.output), spec.patience, 60.0, spec.steps)
    trainer = train.make_trainer(spec, "cpu", 1, 1, progress)
    began = time.process_time(), time.perf_counter()
    trainer.fit(module, batches, None)
    return _spent(began)


def from_disk(folder: str, rows: int, epochs: int) -> list[float]:
    return ours(folder, rows, epochs, memory_fraction=0.0)


def bare(folder: str, rows: int, epochs: int) -> list[float]:
    import torch

    spec, batches, module = _prepare(folder, rows, epochs)
    made = module.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    numeric, categorical, target = batches.rows.rows
    module.train()
    began = time.process_time(), time.perf_counter()
    for epoch in range(epochs):
        order = torch.from_numpy(batches.rows.order(spec.seed, epoch))
        for first in range(0, rows - BATCH_ROWS + 1, BATCH_ROWS):
            places = order[first : first + BATCH_ROWS]
            logits = module.network(numeric[places], categorical[places])
            loss = module.head.loss(logits, target[places]).mean()
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(module.network.parameters(), spec.gradient_clip)
            assert torch.isfinite(norm)
            optimizer.step()
            scheduler.step()
    return _spent(began)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=ROWS)
    options.add_argument("--disk-rows", type=int, default=DISK_ROWS)
    options.add_argument("--repetitions", type=int, default=3)
    options.add_argument("--disk-repetitions", type=int, default=1)
    chosen = options.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        if chosen.rows:
            compare(folder, ("ours", "bare"), chosen.rows, EPOCHS, chosen.repetitions)
        if chosen.disk_rows:
            compare(folder, ("from_disk", "ours"), chosen.disk_rows, 1, chosen.disk_repetitions)


def compare(folder: str, names: tuple[str, ...], rows: int, epochs: int, repetitions: int) -> dict[str, list[Cost]]:
    measure(f"{HERE}:make", folder=folder, rows=rows)
    functions = {name: f"{HERE}:{name}" for name in names}
    done = measure_in_turn(functions, repetitions, IMPORTS, folder=folder, rows=rows, epochs=epochs)
    costs = {
        name: [Cost(*one.result, one.import_seconds, one.peak_mb, None) for one in each] for name, each in done.items()
    }
    print(f"{rows:,} rows of 20 numbers and 10 names, batches of {BATCH_ROWS:,}, {epochs} passes")
    first = costs[names[0]]
    for name, each in costs.items():
        walls = [one.wall_seconds / other.wall_seconds for one, other in zip(first, each, strict=True)]
        beside = (
            ""
            if each is first
            else f"  {names[0]}: {ratio(first, each)} CPU, wall {sorted(walls)[len(walls) // 2]:.2f} x"
        )
        print(f"  {name:10}{typical(each)}{beside}", flush=True)
    return costs


if __name__ == "__main__":
    main()
