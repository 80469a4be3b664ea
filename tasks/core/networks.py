"""The networks a recipe may name. Each is built from widths and gives logits.

A network is a class `Net(num_numeric, cardinalities, outputs, **options)` with `forward(numeric, categorical)`:
numeric (B, num_numeric) standardised float, categorical (B, len(cardinalities)) int64 codes, logits (B, outputs).
Logits (B, K, outputs) are an ensemble of K: each member learns by its own loss and the probabilities are averaged.
A network with a method `prepare(numeric)` is shown preprocessed fit rows (N, num_numeric) once, before training.
"""

import importlib
import inspect
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.core.errors import FitError

NumericEmbedding = Literal["none", "periodic", "piecewise_linear"]


class CategoryEmbeddings(nn.Module):
    """One embedding per categorical input, side by side: (B, C) codes -> (B, width)."""

    def __init__(self, cardinalities: Sequence[int], max_width: int) -> None:
        super().__init__()
        # Wide where there is much to tell apart; the exponent is fastai's, found on many tables.
        widths = [min(max_width, round(1.6 * cardinality**0.56)) for cardinality in cardinalities]
        self.tables = nn.ModuleList(nn.Embedding(c, width) for c, width in zip(cardinalities, widths, strict=True))
        for table in self.tables:
            nn.init.normal_(cast(nn.Embedding, table).weight, std=0.1)
        self.width = sum(widths)

    def forward(self, categorical: Tensor) -> Tensor:
        if not len(self.tables):
            return categorical.new_empty((categorical.shape[0], 0), dtype=torch.float32)
        return torch.cat([table(categorical[:, place]) for place, table in enumerate(self.tables)], dim=1)


class _PerInputLinear(nn.Module):
    """A linear layer of its own for each input: (B, F, K) -> (B, F, D)."""

    def __init__(self, inputs: int, fan_in: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, fan_in, width) / math.sqrt(fan_in))
        self.bias = nn.Parameter(torch.zeros(inputs, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bfk,fkd->bfd", x, self.weight) + self.bias


class Periodic(nn.Module):
    """sin and cos of learned frequencies of each number: (B, F) -> (B, F * width).

    Source: Gorishniy, Rubachev & Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning" (2022), PLR.
    """

    def __init__(self, num_numeric: int, width: int, frequencies: int, sigma: float) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(num_numeric, frequencies) * sigma)
        self.linear = _PerInputLinear(num_numeric, 2 * frequencies, width)

    def forward(self, numeric: Tensor) -> Tensor:
        angle = 2 * math.pi * numeric.unsqueeze(-1) * self.frequencies  # (B, F, K)
        return F.relu(self.linear(torch.cat([angle.cos(), angle.sin()], dim=-1))).flatten(1)


class PiecewiseLinear(nn.Module):
    """How far each number reaches through each quantile bin of the fit rows: (B, F) -> (B, F * width).

    Source: Gorishniy, Rubachev & Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning" (2022), PLE.
    """

    low: Tensor
    size: Tensor

    def __init__(self, num_numeric: int, width: int, bins: int) -> None:
        super().__init__()
        self.register_buffer("low", torch.linspace(-2, 2, bins + 1)[:-1].repeat(num_numeric, 1))
        self.register_buffer("size", torch.full((num_numeric, bins), 4 / bins))
        self.linear = _PerInputLinear(num_numeric, bins, width)

    def prepare(self, numeric: Tensor) -> None:
        """Set the bins to quantiles of the fit rows. A bin that ties leave empty becomes a step."""
        bins = self.low.shape[1]
        edges = torch.quantile(numeric.double(), torch.linspace(0, 1, bins + 1, dtype=torch.float64), dim=0).T
        self.low.copy_(edges[:, :-1])
        self.size.copy_((edges[:, 1:] - edges[:, :-1]).clamp_min(1e-6))

    def forward(self, numeric: Tensor) -> Tensor:
        reached = ((numeric.unsqueeze(-1) - self.low) / self.size).clamp(0, 1)  # (B, F, K)
        return F.relu(self.linear(reached)).flatten(1)


class TabularInputs(nn.Module):
    """All inputs as one vector: the numbers, their embeddings, and the categories' embeddings."""

    def __init__(
        self,
        num_numeric: int,
        cardinalities: Sequence[int],
        *,
        max_category_width: int,
        input_dropout: float,
        numeric_embedding: NumericEmbedding,
        numeric_width: int,
        frequencies: int,
        sigma: float,
        bins: int,
    ) -> None:
        super().__init__()
        self.categories = CategoryEmbeddings(cardinalities, max_category_width)
        self.numbers: nn.Module | None
        match numeric_embedding if num_numeric else "none":
            case "none":
                self.numbers, numeric_width = None, 0
            case "periodic":
                self.numbers = Periodic(num_numeric, numeric_width, frequencies, sigma)
            case "piecewise_linear":
                self.numbers = PiecewiseLinear(num_numeric, numeric_width, bins)
            case unknown:
                raise FitError(
                    f"no numeric embedding {unknown!r}",
                    expected="none, periodic or piecewise_linear",
                    fix="correct model.options.numeric_embedding in the recipe",
                )
        self.width = num_numeric * (1 + numeric_width) + self.categories.width
        # Against leaning on a few inputs that happen to tell one fit day from another.
        self.dropout = nn.Dropout(input_dropout)

    def prepare(self, numeric: Tensor) -> None:
        if isinstance(self.numbers, PiecewiseLinear):
            self.numbers.prepare(numeric)

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        parts = [numeric, self.categories(categorical).to(numeric.dtype)]
        if self.numbers is not None:
            parts.append(self.numbers(numeric))
        return cast(Tensor, self.dropout(torch.cat(parts, dim=1)))


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
            layers += [nn.Linear(fan_in, width), nn.ReLU(), nn.Dropout(dropout)]
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
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width)
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
        self.dropout = dropout
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
            x = F.dropout(F.relu(layer(x * before) * after + bias), self.dropout, self.training)
        return torch.einsum("bki,kio->bko", x, self.out_weight) + self.out_bias


class Ensemble(nn.Module):
    """Networks that share nothing but their batches, side by side: (B, K, outputs)."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def prepare(self, numeric: Tensor) -> None:
        for member in self.members:
            if callable(prepare := getattr(member, "prepare", None)):
                prepare(numeric)

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        return torch.stack([member(numeric, categorical) for member in self.members], dim=1)


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
