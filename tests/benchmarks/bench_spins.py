"""How long OpenMP's threads should spin before they sleep (`tasks.core.threads`): the flagship's network, alone and
beside others who keep a core busy.

A turn takes a few nanoseconds on one processor and tens on another: where fits seem slow, this shows what suits. The
last line is what fits do: the ensemble's members side by side, a thread for each (`tasks.core.ensemble`).

Run: python -m tests.benchmarks spins [--turns 300 3000 300000] [--busy 0 1 2]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tasks.core.threads import SHORT_SPINS
from tests.benchmarks.bench_fit import IMPORTS
from tests.benchmarks.measuring import machine, measure

HERE = "tests.benchmarks.bench_spins"
TURNS, BUSY, ROWS = (100, 300, 1_000, 3_000, 10_000, 300_000), (0, 1, 2), 100_000


def steps(folder: str, rows: int, beside: bool) -> list[float]:
    """CPU and wall milliseconds of a step of the flagship's network, its members in turn or `beside`."""
    import dataclasses

    import torch

    from configs.recipe import load_recipe
    from tasks.core import train
    from tasks.core.batches import TrainingBatches
    from tasks.core.ensemble import side_by_side
    from tests.benchmarks.bench_fit import _spec

    model = load_recipe("flights").model
    spec = dataclasses.replace(
        _spec(folder, rows, 1, 0.5), network=model.network, network_options=model.options, batch_size=model.batch_size
    )
    train.set_up_device(spec)
    data = train.read_data(spec)
    batches = TrainingBatches(data.fit, spec.batch_size, spec.seed)
    module = train.make_module(spec, data, batches)
    optimizer = module.configure_optimizers()["optimizer"]
    numeric, categorical, target = batches.rows.rows
    with side_by_side(module.network, torch.get_num_threads() if beside else 1):
        began = time.process_time(), time.perf_counter()
        for first in range(0, rows - spec.batch_size + 1, spec.batch_size):
            chosen = slice(first, first + spec.batch_size)
            loss = module.head.loss(module.network(numeric[chosen], categorical[chosen]), target[chosen]).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.network.parameters(), model.gradient_clip)
            optimizer.step()
    count = rows // spec.batch_size
    return [(time.process_time() - began[0]) * 1_000 / count, (time.perf_counter() - began[1]) * 1_000 / count]


@contextmanager
def busy(cores: int) -> Iterator[None]:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--turns", type=int, nargs="+", default=TURNS)
    options.add_argument("--busy", type=int, nargs="+", default=BUSY)
    options.add_argument("--rows", type=int, default=ROWS)
    chosen = options.parse_args()
    print(machine())
    print("ms of a step, wall (CPU), while so many others compute")
    print(f"{'turns':>9}" + "".join(f"{count:>18}" for count in chosen.busy))
    with tempfile.TemporaryDirectory() as folder:
        measure("tests.benchmarks.bench_fit:make", folder=folder, rows=chosen.rows)
        for turns in chosen.turns:
            print_line(f"{turns:,}", str(turns), chosen.busy, folder=folder, rows=chosen.rows, beside=False)
        turns = SHORT_SPINS["GOMP_SPINCOUNT"]
        print_line("beside", turns, chosen.busy, folder=folder, rows=chosen.rows, beside=True)


def print_line(name: str, turns: str, busy_cores: Sequence[int], **asked: Any) -> None:
    os.environ["GOMP_SPINCOUNT"] = turns
    print(f"{name:>9}", end="", flush=True)
    for others in busy_cores:
        with busy(others):
            cpu, wall = measure(f"{HERE}:steps", IMPORTS, **asked).result
        print(f"{f'{wall:.1f} ({cpu:.1f})':>18}", end="", flush=True)
    print(flush=True)


if __name__ == "__main__":
    main()
