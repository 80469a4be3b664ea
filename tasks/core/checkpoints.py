"""Checkpoints that are whole or not there, and the callback that decides when and which."""

import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import CheckpointIO

from tasks.core.batches import TrainingBatches
from tasks.core.errors import FitError
from tasks.core.fit_output import append_metrics, keep_metrics, read_metrics
from tasks.core.lit_module import LitModule
from tasks.core.owners import unfinished

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class AtomicCheckpointIO(CheckpointIO):
    """Write beside, flush to disk, rename, flush the folder. Lightning's own writes in place, or moves from $TMPDIR.

    The last but one is kept too: what a disk has lost of the newest is then a few steps and not the fit.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises: FitError where the disk is full or refuses; the checkpoint that was there stays as it was."""
        path = Path(path)
        # Through memory, because torch's own writer turns a full disk into an error without a reason.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        temporary = unfinished(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            if path.name == LAST and path.exists():
                path.replace(path.with_name(PREVIOUS))
            temporary.replace(path)
            _flush_folder(path.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise FitError(
                f"checkpoint {path} cannot be written",
                got=error,
                expected=f"room for {buffer.tell():,} bytes",
                fix="make room on that disk and start again: the fit goes on from the checkpoint before",
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        # On the CPU, since the loops and the optimizer move their own parts; no pickled code is run.
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def find_checkpoint(output: Path, *, is_selected: bool, tell: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that can be read; None: begin. A loss is told, with what is done about it.

    `is_selected`: the fit ends with its best epoch, so that a checkpoint is of no use without the best one.
    """
    folder = output / "checkpoints"
    found = [folder / name for name in (LAST, PREVIOUS)]
    if not any(path.exists() for path in found):
        if read_metrics(output):
            tell("checkpoint lost: there is none, though epochs were finished; the fit begins again")
        return None
    for path in found:
        try:
            progress = _read(path)["callbacks"]["Progress"]
            if is_selected and progress["best_epoch"]:
                _read(folder / BEST)
        except Exception as error:  # whatever half a file makes of its reader
            reason = f"{type(error).__name__}: {error}".splitlines()[0].partition(". ")[0]
            tell(f"checkpoint {path.name} lost: {reason}; the fit goes on from the one before, if that is whole")
            continue
        return path
    tell("no checkpoint is whole; the fit begins again")
    return None


def _read(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return checkpoint


def _flush_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder, and needs not
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Progress(pl.Callback):
    """After each epoch: a line of metrics, the best and the last checkpoint, and whether it is time to stop.

    In between a last checkpoint every `checkpoint_seconds`, so that little of a long epoch can be lost.
    """

    def __init__(
        self, batches: TrainingBatches, output: Path, patience: int, checkpoint_seconds: float, steps: int | None
    ) -> None:
        self.batches, self.output = batches, output
        self.steps = steps  # of a refit, which ends there
        self.last, self.best = output / "checkpoints" / LAST, output / "checkpoints" / BEST
        self.patience, self.checkpoint_seconds = patience, checkpoint_seconds
        self.best_loss, self.best_epoch, self.best_step = float("inf"), 0, 0
        self.epochs, self.is_stopped = 0, False
        self.seconds_before = 0.0  # spent by the attempts that this one goes on from
        self._started = self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        names = ("best_loss", "best_epoch", "best_step", "epochs", "is_stopped")
        own = {name: getattr(self, name) for name in names} | {"seconds_before": self.seconds}
        return own | {"batches": self.batches.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning brings back the batches' place by itself in the middle of an epoch, but not at the end of one.
        self.batches.load_state_dict(state_dict.pop("batches"))
        vars(self).update(state_dict)

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self._started

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = self._saved = time.monotonic()
        trainer.should_stop = self.is_stopped
        if trainer.is_global_zero:
            # A killed attempt may have written the line of an epoch that its last checkpoint does not hold.
            keep_metrics(self.output, self.epochs)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.steps is not None and trainer.global_step >= self.steps:
            self.is_stopped = trainer.should_stop = True
            return  # the end of the epoch follows, and saves
        ends_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        ends_epoch = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        # Ranks agree on the moment by rank 0's clock, since all of them take part in a save.
        if ends_step and not ends_epoch and self._is_due(trainer):
            trainer.save_checkpoint(self.last, weights_only=False)
            self._saved = time.monotonic()

    def _is_due(self, trainer: pl.Trainer) -> bool:
        due = time.monotonic() - self._saved >= self.checkpoint_seconds
        return due if trainer.world_size == 1 else bool(trainer.strategy.broadcast(due))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, LitModule)
        self.epochs = trainer.current_epoch + 1
        line = {"epoch": self.epochs, "step": trainer.global_step, "seconds": round(self.seconds, 3)}
        line |= {"train_loss": pl_module.mean_loss(), "learning_rate": trainer.optimizers[0].param_groups[0]["lr"]}
        line |= {f"validation_{name}": value for name, value in pl_module.validation.items()}
        if trainer.is_global_zero:
            append_metrics(self.output, line)
        loss = pl_module.validation.get("loss")
        if loss is None:  # a refit has nothing to select by: its last weights are its result
            self.best_epoch, self.best_step = self.epochs, trainer.global_step
        elif loss < self.best_loss:
            self.best_loss, self.best_epoch, self.best_step = loss, self.epochs, trainer.global_step
            trainer.save_checkpoint(self.best, weights_only=True)
        elif self.epochs - self.best_epoch >= self.patience:
            self.is_stopped = trainer.should_stop = True
        trainer.save_checkpoint(self.last, weights_only=False)
        self._saved = time.monotonic()
