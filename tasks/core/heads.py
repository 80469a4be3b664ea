"""What the logits mean: the loss, the prediction and the validation metrics of each kind of label."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.core.preprocessing import UNKNOWN_CLASS, Label


@dataclass(frozen=True)
class Head:
    """`loss` is huber or mse for a regression; classifications have the one that is theirs."""

    label: Label
    regression_loss: Literal["mse", "huber"] = "mse"

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """One loss per row, (B,): the mean over an ensemble's members, who each learn by themselves.

        `logits` (B, O) or (B, K, O); `target` (B,). A row of a class that the fit rows lack weighs nothing.
        """
        logits = _members(logits).float()  # (B, K, O)
        if self.label.kind == "multiclass":
            repeated = target[:, None].expand(logits.shape[:2])
            losses = F.cross_entropy(
                logits.flatten(0, 1), repeated.flatten(), ignore_index=UNKNOWN_CLASS, reduction="none"
            )
            return losses.view(logits.shape[:2]).mean(1)
        score, target = logits.squeeze(-1), target[:, None].expand(logits.shape[:2])
        if self.label.kind == "binary":
            return F.binary_cross_entropy_with_logits(score, target, reduction="none").mean(1)
        return self._number_loss(score, target).mean(1)

    def predict(self, logits: Tensor) -> Tensor:
        """Probability of class 1 (B,), of each class (B, C), or the number in the label's units (B,)."""
        logits = _members(logits).float()
        match self.label.kind:
            case "binary":
                return logits.squeeze(-1).sigmoid().mean(1)
            case "multiclass":
                return logits.softmax(-1).mean(1)
            case _:
                return logits.squeeze(-1).mean(1) * self.label.scale + self.label.mean

    def prediction_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of what is served, one per row; for an ensemble that is not the mean of its members' losses."""
        match self.label.kind:
            case "binary":
                return F.binary_cross_entropy(prediction, target, reduction="none")
            case "multiclass":
                return F.nll_loss(
                    prediction.clamp_min(1e-12).log(), target, ignore_index=UNKNOWN_CLASS, reduction="none"
                )
            case _:
                return self._number_loss((prediction - self.label.mean) / self.label.scale, target)

    def _number_loss(self, score: Tensor, target: Tensor) -> Tensor:
        if self.regression_loss == "huber":
            return F.huber_loss(score, target, reduction="none")
        return F.mse_loss(score, target, reduction="none")

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Validation metrics over all rows at once; `loss` is the mean that selects the best epoch."""
        if self.label.kind == "multiclass":
            known = target != UNKNOWN_CLASS
            prediction, target = prediction[known], target[known]
        values = {"loss": self.prediction_loss(prediction, target).double().mean().item()}
        match self.label.kind:
            case "binary":
                values["auc"] = area_under_curve(prediction, target)
            case "multiclass":
                values["accuracy"] = (prediction.argmax(1) == target).double().mean().item()
            case _:
                error = prediction.double() - (target.double() * self.label.scale + self.label.mean)
                values["mae"] = error.abs().mean().item()
                values["rmse"] = error.square().mean().sqrt().item()
        return values


def _members(logits: Tensor) -> Tensor:
    return logits.unsqueeze(1) if logits.ndim == 2 else logits


def area_under_curve(score: Tensor, target: Tensor) -> float:
    """ROC AUC by ranks, ties shared; nan where one class is absent.

    Source: Hanley & McNeil, "The Meaning and Use of the Area under a ROC Curve" (1982).
    """
    _, place, counts = torch.unique(score, return_inverse=True, return_counts=True)
    mean_rank = counts.cumsum(0).double() - (counts.double() - 1) / 2
    positive = target > 0.5
    n1 = int(positive.sum())
    n0 = len(target) - n1
    if not n1 or not n0:
        return float("nan")
    return float((mean_rank[place[positive]].sum().item() - n1 * (n1 + 1) / 2) / (n1 * n0))
