"""What is fitted, and the rival beside it."""

from typing import Any, Literal

from pydantic import Field

from configs.sections.section import Section


class OptimizerSection(Section):
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    schedule: Literal["constant", "cosine"] = "cosine"


class ModelSection(Section):
    network: str  # a name in tasks/core/networks.py, or module:Class
    options: dict[str, Any] = {}
    optimizer: OptimizerSection = OptimizerSection()
    batch_size: int = Field(default=4096, ge=1)
    max_epochs: int = Field(default=20, ge=1)
    patience: int = Field(default=3, ge=1)
    gradient_clip: float = Field(default=1.0, gt=0)
    loss: Literal["mse", "huber"] = "mse"  # of a regression; a classification has its own
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    devices: int = Field(default=1, ge=1)
    refit: Literal["none", "all"] = "none"
    warm_start: bool = False  # from the champion's weights and encodings, where there is one of the same inputs


class BaselineSection(Section):
    """An honest rival: gradient-boosted trees on the same fit rows, and where it is a series the last known value."""

    iterations: int = Field(default=200, ge=1)
    last_known_value: str | None = None  # an input column that holds the label's last known value
