"""What a network is given: numbers, their embeddings and the categories' embeddings, as one vector; and dropout."""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.core.errors import FitError

NumericEmbedding = Literal["none", "periodic", "piecewise_linear"]


_drawing = threading.local()  # `generator`: what this thread draws from, where it is not torch's own


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """What this thread drops in here follows from the seed."""
    _drawing.generator = torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        _drawing.generator = None


class Dropout(nn.Module):
    """Zero each value with probability p while training, and scale up the others.

    On a CPU torch draws a double for each value, on one thread: 43% of a step of four ResNets. Here a draw of 64 bits
    serves eight values, so that p is a whole number of 256ths.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise FitError("a dropout cannot be", got=p, expected="0 or more, and less than 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x  # an exported program need not know of it
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = min(round(self.p * 256), 255)
        bits = torch.empty((x.numel() + 7) // 8, dtype=torch.int64)
        bits.random_(-(2**63), None, generator=getattr(_drawing, "generator", None))
        kept = bits.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


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
        # Columns in one operation: what an export and each load of its program take goes by how many there are.
        return torch.cat([table(codes) for table, codes in zip(self.tables, categorical.unbind(1), strict=True)], dim=1)


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
        self.dropout = Dropout(input_dropout)

    def prepare(self, numeric: Tensor) -> None:
        if isinstance(self.numbers, PiecewiseLinear):
            self.numbers.prepare(numeric)

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        categories = self.categories(categorical)
        parts = [numeric, categories if categories.dtype == numeric.dtype else categories.to(numeric.dtype)]
        if self.numbers is not None:
            parts.append(self.numbers(numeric))
        return cast(Tensor, self.dropout(torch.cat(parts, dim=1)))
