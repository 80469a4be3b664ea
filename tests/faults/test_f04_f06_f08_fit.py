"""F4, the newest checkpoint is lost or half written. F6, gradients explode. F8, memory runs out."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.errors import FitError
from tasks.core.fit import fit
from tasks.core.fit_output import read_notes
from tasks.core.records import FitResult
from tasks.training import fit_under
from tests.faults.plant import MADE, tell

REPOSITORY = Path(__file__).parents[2]
POWER_CUT = """
import os
from tasks.core.networks import Mlp

class PowerCut(Mlp):
    '''Ends at forward number $CUT_AT.'''
    calls = 0
    def forward(self, numeric, categorical):
        self.calls += 1
        if self.calls == int(os.environ.get("CUT_AT", 0)):
            raise RuntimeError("the power is cut")
        return super().forward(numeric, categorical)
"""
LITTLE_MEMORY = """
import resource, sys
import psutil, lightning.pytorch, torch
import tasks.core.train
from tasks.core.fit import fit
from tasks.core.records import FitSpec
torch.nn.Linear(8, 8)(torch.zeros(64, 8)).sum().backward()  # what it sets up at the first time is there now
limit = psutil.Process().memory_info().data + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
fit(FitSpec.read(sys.argv[1]))
"""


def test_f4_a_lost_or_truncated_checkpoint_costs_steps_and_not_the_fit(make_fit_spec, tmp_path, monkeypatch):
    (tmp_path / "power.py").write_text(POWER_CUT)
    monkeypatch.syspath_prepend(tmp_path)
    spec = make_fit_spec(network="power:PowerCut")
    undisturbed = fit(dataclasses.replace(spec, output=str(tmp_path / "undisturbed")))
    monkeypatch.setenv("CUT_AT", "25")  # 10 steps and one validation to an epoch: in the third
    with pytest.raises(RuntimeError, match="the power is cut"):
        fit(spec)
    monkeypatch.delenv("CUT_AT")
    kept = shutil.copytree(spec.output, tmp_path / "kept")

    def resume(*lost, truncated=()):
        """Go on without some of the checkpoints, or with half of them; what the log says, and the epochs it took up."""
        shutil.rmtree(spec.output)
        shutil.copytree(kept, spec.output)
        folder = Path(spec.output) / "checkpoints"
        for name in lost:
            (folder / f"{name}.ckpt").unlink()
        for name in truncated:
            content = (folder / f"{name}.ckpt").read_bytes()
            (folder / f"{name}.ckpt").write_bytes(content[: len(content) // 2])
        assert fit(spec).weights_sha256 == undisturbed.weights_sha256
        return read_notes(Path(spec.output))

    assert resume() == []
    for said in (resume("last"), resume(truncated=["last"])):
        assert [note.startswith("checkpoint last.ckpt lost") for note in said] == [True]
    for said in (
        resume("last", "previous"), resume(truncated=["last", "previous"]), resume(truncated=["best"]),
    ):  # fmt: skip
        assert "begins again" in said[-1]
    tell(
        "F4 checkpoint loss", f"log “{said[0][:70]}…”",
        "on from the checkpoint before, or from the beginning where none is whole",
        "the same weights to the bit, in six ways of losing them",
    )  # fmt: skip


def test_f6_exploding_gradients_stop_the_fit_and_harm_nothing(plant, tmp_path):
    lineage, ledger, recipe = plant.lineage(1), plant.ledger(), plant.run(MADE).recipe
    wild = recipe.model.model_copy(
        update={"optimizer": recipe.model.optimizer.model_copy(update={"learning_rate": 1e30, "warmup_fraction": 0.0})}
    )
    with pytest.raises(FitError, match="the gradient is not finite") as caught:
        fit_under(tmp_path / "wild", lineage.training_set, wild, recipe.seed)
    report = json.loads((tmp_path / "wild" / "fit" / "non_finite_gradient.json").read_text())
    assert report["loss"] in ("nan", "inf")
    assert report["layers_with_non_finite_gradient"]
    assert "learning_rate" in caught.value.fix
    assert not (tmp_path / "wild" / "fit" / "result.json").exists()
    assert plant.ledger() == ledger
    assert plant.serves()
    tame = fit_under(tmp_path / "tame", lineage.training_set, recipe.model, recipe.seed)
    assert tame.weights_sha256 == lineage.judged.weights_sha256
    tell(
        "F6 exploding gradients",
        f"loss {report['loss']} at step {report['step']}, in {report['layers_with_non_finite_gradient'][0]} and others",
        "stopped before a model was left; clipped and at the recipe's learning rate the same rows fit",
        "the champion serves on, and its own fit comes again bit by bit",
    )  # fmt: skip


def test_f8_out_of_memory_halves_the_micro_batch_and_the_fit_ends(make_fit_spec, tmp_path):
    wide = {"widths": [4096], "dropout": 0.0}
    spec = make_fit_spec(rows=12_000, batch_size=5_000, network_options=wide, max_epochs=1)
    spec.write(tmp_path / "spec.json")
    (tmp_path / "little.py").write_text(LITTLE_MEMORY)
    command = [sys.executable, str(tmp_path / "little.py"), str(tmp_path / "spec.json"), str(240 * 2**20)]
    told = {"PYTHONPATH": str(REPOSITORY), "MALLOC_ARENA_MAX": "1"}  # each thread's arena would be counted too
    done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = FitResult.read(Path(spec.output) / "result.json")
    notes = read_notes(Path(spec.output))
    assert notes[0].startswith("out of memory with micro-batches of 5000 rows: anew with 2500")
    assert "Traceback" in done.stderr
    assert "allocate memory" in done.stderr
    assert result.micro_batch_size == math.ceil(5_000 / 2 ** len(notes))
    assert (result.best_step, result.rows) == (2, 10_000), "the steps of the whole batch, on all rows"
    tell(
        "F8 out of memory", f"OOM event “{notes[0][:60]}…” with its traceback in the log",
        f"micro-batches of {result.micro_batch_size} rows, {2 ** len(notes)} to a step",
        f"{result.rows:,} rows in {result.best_step} steps, as with memory enough",
    )  # fmt: skip
