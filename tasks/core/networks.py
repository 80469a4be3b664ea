"""The networks a recipe may name. Each is built from widths and gives logits.

A network is a class `Net(num_numeric, cardinalities, outputs, **options)` with `forward(numeric, categorical)`:
numeric (B, num_numeric) standardised float, categorical (B, len(cardinalities)) int64 codes, logits (B, outputs).
Logits (B, K, outputs) are an ensemble of K: each member learns by its own loss and the probabilities are averaged.
A network with a method `prepare(numeric)` is shown preprocessed fit rows (N, num_numeric) once, before training.
"""

import importlib
import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.core.ensemble import Ensemble
from tasks.core.errors import FitError
from tasks.core.network_inputs import Dropout, NumericEmbedding, TabularInputs


class TabularNetwork(nn.Module):
    """What the networks here share: their inputs as one vector."""

    def __init__(
        self,
        num_numeric: int,
        cardinalities: Sequence[int],
        *,
        max_category_width: int = 16,
        input_dropout: float = 0.0,
        numeric_embedding: NumericEmbedding = "none",
        numeric_width: int = 4,
        frequencies: int = 8,
        sigma: float = 0.1,
        bins: int = 16,
    ) -> None:
        super().__init__()
        self.inputs = TabularInputs(
            num_numeric,
            cardinalities,
            max_category_width=max_category_width,
            input_dropout=input_dropout,
            numeric_embedding=numeric_embedding,
            numeric_width=numeric_width,
            frequencies=frequencies,
            sigma=sigma,
            bins=bins,
        )

    def prepare(self, numeric: Tensor) -> None:
        self.inputs.prepare(numeric)


class Mlp(TabularNetwork):
    """Embeddings and fully connected layers."""

    def __init__(
        self,
        num_numeric: int,
        cardinalities: Sequence[int],
        outputs: int,
        *,
        widths: Sequence[int] = (256, 128),
        dropout: float = 0.2,
        **inputs: Any,
    ) -> None:
        super().__init__(num_numeric, cardinalities, **inputs)
        layers: list[nn.Module] = []
        fan_in = self.inputs.width
        for width in widths:
            layers += [nn.Linear(fan_in, width), nn.ReLU(), Dropout(dropout)]
            fan_in = width
        self.layers = nn.Sequential(*layers, nn.Linear(fan_in, outputs))

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        return cast(Tensor, self.layers(self.inputs(numeric, categorical)))


class _Residual(nn.Module):
    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        # Layer norm where the paper has batch norm: a row's prediction, and a step over micro-batches or devices,
        # must not depend on which rows share its batch.
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.ReLU(), Dropout(dropout), nn.Linear(hidden, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.layers(x))


class ResNet(TabularNetwork):
    """Residual blocks over the inputs' vector.

    Source: Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data" (2021), with layer norm.
    """

    def __init__(
        self,
        num_numeric: int,
        cardinalities: Sequence[int],
        outputs: int,
        *,
        width: int = 128,
        blocks: int = 2,
        hidden_factor: float = 2.0,
        dropout: float = 0.3,
        **inputs: Any,
    ) -> None:
        super().__init__(num_numeric, cardinalities, **inputs)
        hidden = round(width * hidden_factor)
        self.first = nn.Linear(self.inputs.width, width)
        self.blocks = nn.Sequential(*(_Residual(width, hidden, dropout) for _ in range(blocks)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.blocks(self.first(self.inputs(numeric, categorical)))))


class TabM(TabularNetwork):
    """An ensemble of K MLPs that share their weights, save for a scaling of their own before and after each layer.

    Source: Gorishniy, Kotelnikov & Babenko, "TabM: Advancing Tabular Deep Learning with Parameter-Efficient
    Ensembling" (2024). Logits are (B, K, outputs).
    """

    def __init__(
        self,
        num_numeric: int,
        cardinalities: Sequence[int],
        outputs: int,
        *,
        members: int = 8,
        widths: Sequence[int] = (128, 128),
        dropout: float = 0.1,
        **inputs: Any,
    ) -> None:
        super().__init__(num_numeric, cardinalities, **inputs)
        fans = [self.inputs.width, *widths]
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(fans))
        # Members differ from the start by the first scaling alone; the others begin at 1.
        self.before = nn.ParameterList(torch.randn(members, a) if i == 0 else torch.ones(members, a)
                                       for i, a in enumerate(fans[:-1]))  # fmt: skip
        self.after = nn.ParameterList(torch.ones(members, b) for b in widths)
        self.bias = nn.ParameterList(torch.empty(members, b).uniform_(-(a**-0.5), a**-0.5)
                                     for a, b in pairwise(fans))  # fmt: skip
        bound = fans[-1] ** -0.5
        self.out_weight = nn.Parameter(torch.empty(members, fans[-1], outputs).uniform_(-bound, bound))
        self.out_bias = nn.Parameter(torch.zeros(members, outputs))

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        x = self.inputs(numeric, categorical).unsqueeze(1)  # (B, 1, F), then (B, K, width)
        for layer, before, after, bias in zip(self.layers, self.before, self.after, self.bias, strict=True):
            x = self.dropout(F.relu(layer(x * before) * after + bias))
        return torch.einsum("bki,kio->bko", x, self.out_weight) + self.out_bias


NETWORKS: dict[str, type[nn.Module]] = {"mlp": Mlp, "resnet": ResNet, "tabm": TabM}


def build_network(
    name: str, num_numeric: int, cardinalities: Sequence[int], outputs: int, options: dict[str, Any]
) -> nn.Module:
    """The network of that name, or of that import path `module:Class`; with the option `members`, an ensemble of them.

    Raises:
        FitError: no such network, or options that it does not take.
    """
    network = _find(name)
    accepted = {key for base in network.__mro__ if base not in (nn.Module, object) for key in _keywords(base)}
    members = 1 if "members" in accepted else options.get("members", 1)
    own = {key: value for key, value in options.items() if key in accepted or key != "members"}
    try:
        networks = [network(num_numeric, list(cardinalities), outputs, **own) for _ in range(members)]
        return networks[0] if members == 1 else Ensemble(networks)
    except TypeError as error:
        raise FitError(
            f"network {name!r} cannot be built with options {options}",
            got=error,
            expected=f"options among {sorted(accepted | {'members'})}",
            fix="correct model.options in the recipe",
        ) from error


def _keywords(network: type) -> list[str]:
    if "__init__" not in vars(network):
        return []
    parameters = inspect.signature(network.__init__).parameters.values()  # type: ignore[misc]
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def _find(name: str) -> type[nn.Module]:
    if name in NETWORKS:
        return NETWORKS[name]
    module, separator, attribute = name.partition(":")
    expected = f"one of {sorted(NETWORKS)}, or the import path module:Class of your own"
    if not separator:
        raise FitError(f"no network {name!r}", expected=expected, fix="correct model.network in the recipe")
    try:
        return cast(type[nn.Module], getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise FitError(f"network {name!r} cannot be imported", got=error, expected=expected) from error
