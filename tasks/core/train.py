"""One fit, put together: rows, network, Lightning's Trainer, and the model it leaves. Runs in the child process."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from tasks.core.arrow_files import MappedRows, map_released
from tasks.core.batches import ArrowRows, Encoder, Rows, TensorRows, TrainingBatches, ValidationBatches
from tasks.core.checkpoints import AtomicCheckpointIO, Progress, find_checkpoint
from tasks.core.ensemble import side_by_side
from tasks.core.errors import FitError
from tasks.core.export import ServedNetwork, export_model, read_encoder
from tasks.core.fit_output import add_note, read_metrics
from tasks.core.heads import Head
from tasks.core.lit_module import LitModule
from tasks.core.networks import build_network
from tasks.core.preprocessing import fit_category_table, fit_label, fit_numeric_preprocessing
from tasks.core.records import FitResult, FitSpec

VALIDATION_BATCH_ROWS = 8192
PREPARATION_ROWS = 100_000  # fit rows from which a network may learn its bins
EXAMPLE_ROWS = 64


@dataclass(frozen=True)
class Data:
    """The rows of a fit, and what was learned from the fit rows to encode them."""

    table: pa.Table  # memory mapped
    encoder: Encoder
    fit: Rows
    validation: Rows | None
    weights: dict[str, torch.Tensor] | None  # of the model that a warm start goes on from


def train(spec: FitSpec, accumulate: int, checkpoint_seconds: float) -> FitResult | None:
    """Fit, keep the best, export. Goes on from `checkpoints/last.ckpt` where there is one. None but on rank 0."""
    accelerator = set_up_device(spec)
    data = read_data(spec)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    batches = TrainingBatches(
        data.fit, spec.batch_size, spec.seed, accumulate=accumulate, rank=rank, world_size=world_size
    )
    module = make_module(spec, data, batches)
    progress = Progress(batches, Path(spec.output), spec.patience, checkpoint_seconds, spec.steps)
    trainer = make_trainer(spec, accelerator, accumulate, world_size, progress)
    validation = None
    if data.validation is not None:
        # Where memory is short, a validation asks for less of it at once too.
        validation = ValidationBatches(data.validation, -(-VALIDATION_BATCH_ROWS // accumulate), rank, world_size)
    with side_by_side(module.network, torch.get_num_threads() if accelerator == "cpu" and world_size == 1 else 1):
        trainer.fit(module, batches, validation, ckpt_path=resume_from(spec, rank), weights_only=True)
    return write_result(spec, data, module, trainer, progress) if trainer.is_global_zero else None


def resume_from(spec: FitSpec, rank: int) -> Path | None:
    """All ranks find the same; the first one tells what was lost."""
    output = Path(spec.output)
    return find_checkpoint(
        output,
        is_selected=spec.validation_rows is not None,
        tell=lambda text: add_note(output, text) if rank == 0 else None,
    )


def set_up_device(spec: FitSpec) -> str:
    """Which accelerator, how many threads, and the same numbers each time."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory guards against reading it unwritten, which nothing here does.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(threads_of_a_device(spec.devices))
    return "cuda" if torch.cuda.is_available() else "cpu"


def threads_of_a_device(devices: int) -> int:
    """This process's cores, shared by the devices; more than 16 only get in each other's way at these sizes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")  # a container's share of a machine whose cores it all sees
    if quota.exists():
        limit, _, period = quota.read_text().partition(" ")
        cores = cores if limit == "max" else min(cores, max(1, int(limit) // int(period)))
    return max(1, min(16, cores // devices))


def read_data(spec: FitSpec) -> Data:
    """Fit the encoder on the fit rows, or take a warm start's, and encode: into memory where it fits."""
    mapped = read_table(spec)
    table = mapped.table
    fit_table = table.slice(spec.fit_rows[0], spec.fit_rows[1] - spec.fit_rows[0])
    weights = None
    if spec.warm_start is not None:
        encoder, weights = read_encoder(Path(spec.warm_start), spec.inputs, spec.label, spec.label_kind)
    else:
        encoder = _fit_encoder(spec, fit_table, mapped)
    validation_rows = spec.validation_rows or (0, 0)
    validation_table = table.slice(validation_rows[0], validation_rows[1] - validation_rows[0])
    fits = (len(fit_table) + len(validation_table)) * encoder.bytes_per_row() <= spec.memory_fraction * memory_bytes()

    def rows(part: pa.Table) -> Rows:
        if fits:
            return TensorRows(encoder.encode_blocks(part, mapped.release))
        return ArrowRows(part, encoder, release=mapped.release)

    return Data(table, encoder, rows(fit_table), rows(validation_table) if len(validation_table) else None, weights)


def _fit_encoder(spec: FitSpec, rows: pa.Table, mapped: MappedRows) -> Encoder:
    categories = []
    for name in spec.inputs.categorical:
        categories.append(fit_category_table(name, rows[name]))
        mapped.release()
    preprocessing = fit_numeric_preprocessing(rows, spec.inputs.numeric)
    mapped.release()
    label = fit_label(spec.label_kind, rows[spec.label])
    return Encoder(spec.inputs.numeric, tuple(categories), preprocessing, spec.label, label)


def read_table(spec: FitSpec) -> MappedRows:
    """The training set, memory mapped.

    Raises:
        FitError: no such file, a column that is not there, or no rows to fit on.
    """
    try:
        mapped = map_released(spec.training_set)
    except (OSError, ValueError) as error:  # Arrow's own errors are ValueErrors
        raise FitError("the training set cannot be read", got=error, expected="an Arrow IPC file") from error
    table = mapped.table
    wanted = [*spec.inputs.numeric, *spec.inputs.categorical, spec.label]
    if missing := [name for name in wanted if name not in table.column_names]:
        raise FitError(f"{spec.training_set} lacks columns {missing}", got=table.column_names)
    for start, stop in filter(None, (spec.fit_rows, spec.validation_rows)):
        if not 0 <= start < stop <= table.num_rows:
            raise FitError("no such rows", got=f"[{start}, {stop})", expected=f"some of [0, {table.num_rows})")
    return mapped


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def make_module(spec: FitSpec, data: Data, batches: TrainingBatches) -> LitModule:
    """The network of the spec, seeded, or with the weights of a warm start."""
    encoder = data.encoder
    torch.manual_seed(spec.seed)
    cardinalities = [table.cardinality for table in encoder.categories]
    network = build_network(
        spec.network, encoder.preprocessing.width, cardinalities, encoder.label.outputs, spec.network_options
    )
    if data.weights is not None:
        load_weights(network, data.weights)
    elif callable(prepare := getattr(network, "prepare", None)):
        seen = np.linspace(0, len(data.fit) - 1, min(len(data.fit), PREPARATION_ROWS)).astype(np.int64)
        prepare(data.fit.take(seen).numeric)
    return LitModule(
        network,
        Head(encoder.label, spec.loss),
        spec,
        step_rows=batches.step_rows,
        # A refit stops short of its schedule's end where the judged fit did: at the same share of it, not annealed.
        total_steps=max(spec.steps or 0, spec.max_epochs * batches.steps_per_epoch),
        validation_rows=len(data.validation) if data.validation is not None else 0,
    )


def load_weights(network: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise FitError(
            "warm start from a model of another architecture",
            got=error,
            expected="the same model.network and model.options",
            fix="start cold: leave warm_start out",
        ) from error


def make_trainer(spec: FitSpec, accelerator: str, accumulate: int, world_size: int, progress: Progress) -> pl.Trainer:
    """Lightning without what costs time or writes by itself: no logger, bar, sanity check or checkpoints of its own."""
    backend = "nccl" if accelerator == "cuda" else "gloo"
    return pl.Trainer(
        accelerator=accelerator,
        devices=world_size,
        strategy=DDPStrategy(process_group_backend=backend) if world_size > 1 else "auto",
        precision=choose_precision(spec.precision, accelerator),
        # Not Lightning's `max_steps`: with it, a fit that goes on from the end of an epoch makes a step too many of it.
        max_epochs=-1 if spec.steps else spec.max_epochs,
        accumulate_grad_batches=accumulate,
        callbacks=[progress],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=spec.output,
    )


def choose_precision(wanted: str, accelerator: str) -> Any:
    if wanted != "auto":
        return wanted
    return "bf16-mixed" if accelerator == "cuda" and torch.cuda.is_bf16_supported() else "32-true"


def write_result(spec: FitSpec, data: Data, module: LitModule, trainer: pl.Trainer, progress: Progress) -> FitResult:
    """Export the best weights, or a refit's last ones, and say what came of it."""
    if data.validation is not None:
        best = trainer.strategy.checkpoint_io.load_checkpoint(progress.best)
        module.load_state_dict(best["state_dict"])
    folder = Path(spec.output) / "model"
    served = ServedNetwork(data.encoder.preprocessing, module.network, module.head)
    example = data.encoder.raw(data.table.slice(spec.fit_rows[0], EXAMPLE_ROWS))
    digest = export_model(served, data.encoder, folder, example)
    lines = read_metrics(progress.output)
    best_line = next(line for line in lines if line["epoch"] == progress.best_epoch)
    seconds = lines[-1]["seconds"]
    share = -(-module.step_rows // (trainer.world_size * trainer.accumulate_grad_batches))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return FitResult(
        model=str(folder),
        weights_sha256=digest,
        best_step=progress.best_step,
        best_epoch=progress.best_epoch,
        epochs=progress.epochs,
        rows=len(data.fit),
        seconds=seconds,
        rows_per_second=trainer.global_step * module.step_rows / seconds,
        num_parameters=sum(p.numel() for p in module.network.parameters()),
        device=f"{trainer.world_size} x {device}, {torch.get_num_threads()} threads, {trainer.precision}",
        micro_batch_size=share,
        metrics={name: value for name, value in best_line.items() if name not in ("epoch", "step", "seconds")},
    )
