"""A model that stands alone: an exported program that starts at raw numbers, and a JSON page about its inputs."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from tasks.core.batches import Encoder
from tasks.core.errors import FitError
from tasks.core.heads import Head
from tasks.core.preprocessing import CategoryTable, Label, NumericPreprocessing
from tasks.core.records import Inputs, write_text_atomically

FORMAT = 1
PROGRAM, PAGE = "program.pt2", "model.json"


class ServedNetwork(nn.Module):
    """From what a caller has to what a caller wants.

    numeric (B, F) float32 with NaN for missing, categorical (B, C) int64 codes -> probability (B,), probabilities
    (B, classes), or the number in the label's units (B,).
    """

    def __init__(self, preprocessing: NumericPreprocessing, network: nn.Module, head: Head) -> None:
        super().__init__()
        self.preprocessing, self.network, self.head = preprocessing, network, head

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        return self.head.predict(self.network(self.preprocessing(numeric), categorical))


def export_model(served: ServedNetwork, encoder: Encoder, folder: Path, example: tuple[Tensor, Tensor]) -> str:
    """Write program and page, check that the program predicts as the network does; returns the weights' sha256.

    `example` are some raw rows.

    Raises:
        FitError: a network that cannot be exported with a free batch size, or changes by it.
    """
    served = served.cpu().float().eval()
    rows = {0: Dim("rows", min=1)}
    try:
        with torch.no_grad():
            program = torch.export.export(served, example, dynamic_shapes={"numeric": rows, "categorical": rows})
            expected, got = served(*example), program.module()(*example)
    except Exception as error:
        raise FitError(
            f"network {type(served.network).__name__} cannot be exported",
            got=f"{type(error).__name__}: {error}",
            expected="a forward without Python branches on values, for any number of rows",
        ) from error
    if not torch.allclose(expected, got, rtol=1e-5, atol=1e-6, equal_nan=True):
        raise FitError("the exported program predicts differently", got=f"by {float((expected - got).abs().max()):.2g}")
    folder.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, folder / PROGRAM)
    digest = weights_sha256(served)
    write_text_atomically(folder / PAGE, json.dumps(_page(encoder, digest), indent=2) + "\n")
    return digest


def warm_up() -> None:
    """Export something small, for nobody: the first export of a process imports half a thousand modules."""
    rows = {0: Dim("rows", min=1)}
    program = torch.export.export(nn.Linear(2, 1).eval(), (torch.zeros(4, 2),), dynamic_shapes={"input": rows})
    torch.export.save(program, io.BytesIO())


def _page(encoder: Encoder, digest: str) -> dict[str, Any]:
    label = encoder.label
    return {
        "format": FORMAT,
        "label_kind": label.kind,
        "classes": list(label.classes),
        "label_mean": label.mean,
        "label_scale": label.scale,
        "inputs": {"numeric": list(encoder.numeric), "categorical": [table.name for table in encoder.categories]},
        # A value's code: 0 for null, 1 for one that is not listed, its place in the list plus 2.
        "categories": {table.name: list(table.values) for table in encoder.categories},
        "weights_sha256": digest,
    }


def weights_sha256(module: nn.Module) -> str:
    """sha256 over names and bytes of all parameters and buffers, in order of name."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def read_encoder(folder: Path, inputs: Inputs, label_column: str, label_kind: str) -> tuple[Encoder, dict[str, Tensor]]:
    """The encoder and the weights of an earlier fit's model folder, for a warm start.

    Raises:
        FitError: no such model, or one of other inputs or another kind of label.
    """
    try:
        page = json.loads((folder / PAGE).read_text())
        weights: dict[str, Tensor] = torch.export.load(folder / PROGRAM).state_dict
    except (OSError, ValueError, RuntimeError) as error:
        raise FitError(
            f"no model to start warm from in {folder}", got=error, expected=f"{PAGE} and {PROGRAM}"
        ) from error
    named = page["inputs"]
    categories = tuple(CategoryTable(name, tuple(page["categories"][name])) for name in named["categorical"])
    was = (tuple(named["numeric"]), tuple(named["categorical"]), page["label_kind"])
    if was != (inputs.numeric, inputs.categorical, label_kind):
        raise FitError(
            "warm start from a model of other inputs or label",
            got=f"numeric {was[0]}, categorical {was[1]}, label {was[2]}",
            expected=f"numeric {inputs.numeric}, categorical {inputs.categorical}, label {label_kind}",
            fix="start cold: leave warm_start out",
        )
    preprocessing = NumericPreprocessing(len(inputs.numeric), len(weights["preprocessing.indicated"]))
    preprocessing.load_state_dict(_part(weights, "preprocessing."))
    label = Label(label_kind, tuple(page["classes"]), page["label_mean"], page["label_scale"])
    return Encoder(inputs.numeric, categories, preprocessing, label_column, label), _part(weights, "network.")


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value.detach() for name, value in weights.items() if name.startswith(prefix)}
