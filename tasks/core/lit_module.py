"""The LightningModule: a loss, a schedule, and a stop at the first gradient that is not finite."""

import json
import math
import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from tasks.core.batches import Batch
from tasks.core.errors import FitError
from tasks.core.heads import Head
from tasks.core.preprocessing import NULL_CODE, UNSEEN_CODE
from tasks.core.records import FitSpec, write_text_atomically

# A value that fit rows never had gets the embedding of "unseen". For that one to have been learned, this share of the
# categorical values is shown as unseen while training.
UNSEEN_FRACTION = 0.05
# A gradient scaler (16-mixed) finds its scale by overflowing and skipping those steps.
MAX_SKIPPED_STEPS = 20


class LitModule(pl.LightningModule):
    """Trains `network`; validation leaves its metrics in `validation`, training its mean loss in `mean_loss()`."""

    def __init__(
        self, network: nn.Module, head: Head, spec: FitSpec, *, step_rows: int, total_steps: int, validation_rows: int
    ) -> None:
        super().__init__()
        self.network, self.head, self.spec = network, head, spec
        self.step_rows, self.total_steps, self.validation_rows = step_rows, total_steps, validation_rows
        self.validation: dict[str, float] = {}
        self._outputs: list[tuple[Tensor, Tensor]] = []
        self._loss_sum, self._loss_rows = torch.zeros(()), 0
        self._skipped_steps = 0
        self._last_loss = torch.zeros(())

    # --- training ---

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Randomness is a function of (seed, place in the fit, rank), like the order of the rows: a resumed fit needs
        # no saved generator state to go on as if it had not been interrupted, on any number of devices.
        place = self.trainer.current_epoch * int(self.trainer.num_training_batches) + batch_idx
        seed = int(np.random.SeedSequence([self.spec.seed, place, self.global_rank]).generate_state(1, np.uint32)[0])
        torch.manual_seed(seed)
        random.seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        categorical = batch.categorical
        if categorical.shape[1]:
            hidden = (torch.rand_like(categorical, dtype=torch.float32) < UNSEEN_FRACTION) & (categorical != NULL_CODE)
            categorical = categorical.masked_fill(hidden, UNSEEN_CODE)
        losses = self.head.loss(self.network(batch.numeric, categorical), batch.target)
        loss = losses.sum()
        self._last_loss = loss.detach() / len(losses)
        self._loss_sum = self._loss_sum.to(loss.device) + loss.detach()
        self._loss_rows += len(losses)
        # Lightning divides by the number of micro-batches and averages over devices; this makes the sum of it all the
        # mean over the step's rows, whatever the sizes of its micro-batches.
        return loss * (self.trainer.accumulate_grad_batches * self.trainer.world_size / self.step_rows)

    def mean_loss(self) -> float:
        """Mean training loss per row since the last call, on this device's share."""
        mean = float(self._loss_sum) / max(self._loss_rows, 1)
        self._loss_sum, self._loss_rows = torch.zeros(()), 0
        return mean

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["epoch_loss"] = [float(self._loss_sum), self._loss_rows]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # So that the mean of an epoch that is gone on with is that of all of its steps.
        total, self._loss_rows = checkpoint.get("epoch_loss", (0.0, 0))
        self._loss_sum = torch.tensor(total)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip, and stop at the first gradient norm that is not finite.

        Raises:
            FitError: with the path of a report that names step, layers and loss.
        """
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.spec.gradient_clip)
        if torch.isfinite(norm):
            self._skipped_steps = 0
            return
        self._skipped_steps += 1
        if self.spec.precision == "16-mixed" and self._skipped_steps <= MAX_SKIPPED_STEPS:
            return
        raise self._non_finite_gradient(optimizer)

    def _non_finite_gradient(self, optimizer: torch.optim.Optimizer) -> FitError:
        gradients = {name: p.grad for name, p in self.network.named_parameters() if p.grad is not None}
        weights = dict(self.network.named_parameters())
        report = {
            "step": self.global_step,
            "epoch": self.current_epoch + 1,
            "loss": repr(float(self._last_loss)),
            "learning_rate": optimizer.param_groups[0]["lr"],
            "layers_with_non_finite_gradient": [n for n, g in gradients.items() if not torch.isfinite(g).all()],
            "layers_with_non_finite_weight": [n for n, w in weights.items() if not torch.isfinite(w).all()],
            "largest_weight": {n: repr(float(w.detach().abs().max())) for n, w in weights.items() if w.numel()},
        }
        path = Path(self.spec.output) / "non_finite_gradient.json"
        if self.global_rank == 0:
            write_text_atomically(path, json.dumps(report, indent=2))
        layers = report["layers_with_non_finite_gradient"]
        return FitError(
            f"the gradient is not finite at step {self.global_step}",
            got=f"loss {report['loss']}, in {len(layers)} layers, the first {layers[:3]}; report {path}",
            expected="a finite gradient norm",
            fix="lower model.optimizer.learning_rate or model.gradient_clip, or look for extreme inputs",
        )

    # --- validation ---

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self.network(batch.numeric, batch.categorical)
        self._outputs.append((self.head.predict(logits), batch.target))

    def on_validation_epoch_end(self) -> None:
        prediction = self._all_rows(torch.cat([p for p, _ in self._outputs]))
        target = self._all_rows(torch.cat([t for _, t in self._outputs]))
        self._outputs.clear()
        self.validation = self.head.metrics(prediction, target)

    def _all_rows(self, share: Tensor) -> Tensor:
        """From each rank's every n-th row to all of them in order; the last row may have been padded."""
        if self.trainer.world_size == 1:
            return share
        shares = [torch.empty_like(share) for _ in range(self.trainer.world_size)]
        torch.distributed.all_gather(shares, share.contiguous())
        return torch.stack(shares, dim=1).flatten(0, 1)[: self.validation_rows]

    # --- optimizer ---

    def configure_optimizers(self) -> Any:
        options = self.spec.optimizer
        # Biases, norms and scalings are not pulled to zero; they cost no capacity.
        matrices = [p for p in self.network.parameters() if p.ndim > 1]
        vectors = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": options["weight_decay"]},
                  {"params": vectors, "weight_decay": 0.0}]  # fmt: skip
        optimizer = torch.optim.AdamW(groups, lr=options["learning_rate"], fused=True)
        factor = Schedule(options["schedule"], self.total_steps, options["warmup_fraction"])
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Schedule:
    """The learning rate's factor at each optimizer step: a linear warmup, then constant, or a cosine down to 0.

    Source: Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017), without restarts.
    """

    def __init__(self, kind: str, total_steps: int, warmup_fraction: float) -> None:
        self.kind, self.total_steps = kind, total_steps
        self.warmup_steps = warmup_fraction * total_steps

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.kind == "constant":
            return 1.0
        left = max(self.total_steps - self.warmup_steps, 1.0)
        return 0.5 * (1 + math.cos(math.pi * min((step - self.warmup_steps) / left, 1.0)))
