"""The fit, for real: what it learns, how it stops, and how it goes on."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tasks.core import checkpoints, fit_output, train
from tasks.core.batches import TrainingBatches
from tasks.core.errors import FitError
from tasks.core.fit import fit
from tasks.core.lit_module import Schedule
from tasks.core.records import FitResult, FitSpec, Inputs

MakeFitSpec = Callable[..., FitSpec]
REPOSITORY = Path(__file__).resolve().parents[2]

NETWORKS = '''
import os, signal
import torch
from tasks.core.networks import Mlp

class Dies(Mlp):
    """Kills its process at forward number $DIE_AT."""
    calls = 0
    def forward(self, numeric, categorical):
        self.calls += 1
        if self.calls == int(os.environ.get("DIE_AT", 0)):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(numeric, categorical)

class Hungry(Mlp):
    """Has memory for 20 rows."""
    most_rows = 20
    def forward(self, numeric, categorical):
        if self.training and len(numeric) > self.most_rows:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return super().forward(numeric, categorical)

class Starving(Hungry):
    """Has memory for 4 rows."""
    most_rows = 4

class Explodes(Mlp):
    """Its loss is nan from the fifth step on."""
    calls = 0
    def forward(self, numeric, categorical):
        self.calls += 1
        return super().forward(numeric, categorical) * (float("nan") if self.calls > 4 else 1.0)
'''


@pytest.fixture(autouse=True)
def own_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_nets.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)


def run(spec: FitSpec, **options: Any) -> FitResult:
    result = fit(spec, **options)
    assert result is not None
    return result


def predict(result: FitResult, numeric: list[list[float]], codes: list[list[int]]) -> np.ndarray:
    program = torch.export.load(Path(result.model) / "program.pt2").module()
    with torch.no_grad():
        scores: np.ndarray = program(torch.tensor(numeric), torch.tensor(codes)).numpy()
    return scores


def weights(result: FitResult) -> torch.Tensor:
    state = torch.export.load(Path(result.model) / "program.pt2").state_dict
    return torch.cat([value.detach().flatten().double() for value in state.values()])


def test_a_fit_learns_and_leaves_a_model_that_stands_alone(make_fit_spec: MakeFitSpec) -> None:
    spec = make_fit_spec()
    result = run(spec)
    assert result == FitResult.read(Path(spec.output) / "result.json")
    assert result.metrics["validation_auc"] > 0.9
    assert (result.rows, result.epochs, result.micro_batch_size) == (600, 3, 60)
    page = json.loads((Path(result.model) / "model.json").read_text())
    assert page["inputs"] == {"numeric": ["signal", "noise"], "categorical": ["group"]}
    assert page["categories"] == {"group": ["a", "b", "c"]}  # "new" is in the validation rows only
    nan = float("nan")
    one = predict(result, [[3000.0, 0.0]], [[3]])
    assert one.shape == (1,)
    assert one[0] > 0.9
    many = predict(result, [[3000.0, 0.0], [nan, nan], [nan, 0.0], [-3000.0, 0.0]] * 50, [[3], [0], [1], [2]] * 50)
    assert many.shape == (200,)
    assert many[0] == pytest.approx(one[0])
    assert ((many > 0) & (many < 1)).all()
    assert many[3] < 0.1


def test_nothing_is_learned_from_rows_beyond_the_fit_rows(make_fit_spec: MakeFitSpec, tmp_path: Path) -> None:
    spec = make_fit_spec(max_epochs=1)
    first = run(spec)
    table = pa.ipc.open_file(spec.training_set).read_all()
    fit_part, rest = table.slice(0, 600), table.slice(600)
    changed = rest.set_column(0, "signal", pa.array(np.full(len(rest), 1e9)))
    with pa.OSFile(str(tmp_path / "other.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(pa.concat_tables([fit_part, changed]))
    other = dataclasses.replace(spec, training_set=str(tmp_path / "other.arrow"), output=str(tmp_path / "other"))
    assert run(other).weights_sha256 == first.weights_sha256


@pytest.mark.parametrize("network", ["resnet", "tabm"])
def test_an_equal_spec_gives_equal_weights_and_another_seed_others(
    make_fit_spec: MakeFitSpec, tmp_path: Path, network: str
) -> None:
    options: dict[str, Any] = {"network": network, "network_options": {"dropout": 0.3}, "max_epochs": 1}
    digests = [
        run(make_fit_spec(output=str(tmp_path / str(i)), seed=seed, **options)).weights_sha256
        for i, seed in enumerate((1, 1, 2))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_fit_killed_twice_ends_in_the_same_weights_to_the_bit(make_fit_spec: MakeFitSpec, tmp_path: Path) -> None:
    spec = make_fit_spec(network="own_nets:Dies")
    undisturbed = run(dataclasses.replace(spec, output=str(tmp_path / "undisturbed")))
    spec.write(tmp_path / "spec.json")
    code = (
        "import sys; from tasks.core.fit import fit; from tasks.core.records import FitSpec;"
        "fit(FitSpec.read(sys.argv[1]), checkpoint_seconds=0)"
    )
    # 10 steps to an epoch: first in the middle of one; then, after its other 5 steps, within its validation.
    for die_at, epochs in (("6", 0), ("6", 0), ("6", 1)):
        environment = os.environ | {"DIE_AT": die_at, "PYTHONPATH": f"{REPOSITORY}:{tmp_path}"}
        killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "spec.json")], env=environment, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert len(fit_output.read_metrics(Path(spec.output))) == epochs
    resumed = run(spec)
    assert resumed.weights_sha256 == undisturbed.weights_sha256
    assert resumed.metrics == undisturbed.metrics
    assert [line["epoch"] for line in fit_output.read_metrics(Path(spec.output))] == [1, 2, 3]


def test_a_finished_fit_is_not_done_again_but_another_spec_is(make_fit_spec: MakeFitSpec) -> None:
    spec = make_fit_spec(max_epochs=1)
    first = run(spec)
    written = (Path(first.model) / "program.pt2").stat().st_mtime_ns
    assert run(spec) == first
    assert (Path(first.model) / "program.pt2").stat().st_mtime_ns == written
    assert run(dataclasses.replace(spec, max_epochs=2)).epochs == 2


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_effective_one(
    make_fit_spec: MakeFitSpec, tmp_path: Path
) -> None:
    inputs = Inputs(numeric=("signal", "noise"), categorical=())  # no row is shown as unseen, so that only the
    options = {"widths": [16], "dropout": 0.0}  # order of summation can differ
    spec = make_fit_spec(network="own_nets:Hungry", network_options=options, inputs=inputs)
    halved = run(spec)
    assert halved.micro_batch_size == 15
    whole = run(dataclasses.replace(spec, network="mlp", output=str(tmp_path / "whole")))
    assert halved.best_step == whole.best_step
    torch.testing.assert_close(weights(halved), weights(whole), rtol=1e-4, atol=1e-5)
    with pytest.raises(FitError, match=r"even for the smallest micro-batch[\s\S]*model.options"):
        run(dataclasses.replace(spec, network="own_nets:Starving", output=str(tmp_path / "floor")))


def test_a_gradient_that_is_not_finite_stops_the_fit_with_a_report(make_fit_spec: MakeFitSpec) -> None:
    spec = make_fit_spec(network="own_nets:Explodes")
    with pytest.raises(FitError, match=r"not finite at step 4[\s\S]*learning_rate"):
        run(spec)
    report = json.loads((Path(spec.output) / "non_finite_gradient.json").read_text())
    assert (report["step"], report["epoch"], report["loss"]) == (4, 1, "nan")
    assert "layers.0.weight" in report["layers_with_non_finite_gradient"]
    assert report["layers_with_non_finite_weight"] == []  # it stopped before the step was taken


def test_a_full_disk_stops_the_fit_and_leaves_the_checkpoint_before(
    make_fit_spec: MakeFitSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_fit_spec()
    undisturbed = run(dataclasses.replace(spec, output=spec.output + "-undisturbed"))
    real_fsync, writes = os.fsync, []

    def full_from_the_fourth_file_on(descriptor: int) -> None:
        writes.append(descriptor)
        if len(writes) > 8:  # a checkpoint flushes its file and its folder
            raise OSError(28, "No space left on device")
        real_fsync(descriptor)

    monkeypatch.setattr(checkpoints.os, "fsync", full_from_the_fourth_file_on)
    with pytest.raises(FitError, match=r"(?i)cannot be written[\s\S]*no space left[\s\S]*room for|no room left"):
        run(spec)
    monkeypatch.undo()
    folder = Path(spec.output) / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert run(spec).weights_sha256 == undisturbed.weights_sha256


def test_a_refit_takes_exactly_the_steps_it_is_given(make_fit_spec: MakeFitSpec) -> None:
    result = run(make_fit_spec(validation_rows=None, steps=14, fit_rows=(0, 720)))
    assert (result.best_step, result.best_epoch, result.epochs, result.rows) == (14, 2, 2, 720)
    assert "validation_loss" not in result.metrics


def test_a_fit_is_the_plain_loop(make_fit_spec: MakeFitSpec) -> None:
    spec = make_fit_spec(
        inputs=Inputs(numeric=("signal", "noise"), categorical=()),
        network_options={"widths": [16], "dropout": 0.0},
        validation_rows=None,
        steps=25,
    )
    fitted = run(spec)
    data = train.read_data(spec)
    batches = TrainingBatches(data.fit, spec.batch_size, spec.seed)
    module = train.make_module(spec, data, batches)
    network, schedule = module.network, Schedule("cosine", 30, 0.05)  # 3 epochs of 10 steps, left after 25
    matrices, vectors = ([p for p in network.parameters() if (p.ndim > 1) == is_matrix] for is_matrix in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0}])
    for step, batch in zip(range(25), chain.from_iterable(iter(batches) for _ in range(3)), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * schedule(step)
        optimizer.zero_grad()
        score = network(batch.numeric, batch.categorical).squeeze(1)
        torch.nn.functional.binary_cross_entropy_with_logits(score, batch.target).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    expected = torch.cat([value.detach().flatten() for value in network.state_dict().values()])
    state = torch.export.load(Path(fitted.model) / "program.pt2").state_dict
    got = torch.cat([state[f"network.{name}"].detach().flatten() for name in network.state_dict()])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


_DIE_AT_THE_END_OF_AN_EPOCH = """
import os, sys
from tasks.core import checkpoints, fit
from tasks.core.records import FitSpec
whole = checkpoints.Progress.on_train_epoch_end
def dying(self, trainer, module):
    whole(self, trainer, module)
    if self.epochs == int(sys.argv[2]):
        os._exit(9)
checkpoints.Progress.on_train_epoch_end = dying
fit.fit(FitSpec.read(sys.argv[1]))
"""


def test_a_refit_killed_at_the_end_of_an_epoch_ends_in_the_same_weights_to_the_bit(
    make_fit_spec: MakeFitSpec, tmp_path: Path
) -> None:
    spec = make_fit_spec(validation_rows=None, steps=25)  # 10 steps to an epoch
    undisturbed = run(dataclasses.replace(spec, output=str(tmp_path / "undisturbed")))
    spec.write(tmp_path / "spec.json")
    for epoch in ("1", "2", "3"):
        command = [sys.executable, "-c", _DIE_AT_THE_END_OF_AN_EPOCH, str(tmp_path / "spec.json"), epoch]
        assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 9
    resumed = run(spec)
    assert resumed.weights_sha256 == undisturbed.weights_sha256
    lines = [(line["epoch"], line["step"]) for line in fit_output.read_metrics(Path(spec.output))]
    assert lines == [(1, 10), (2, 20), (3, 25)]


def test_patience_ends_a_fit_and_the_best_epoch_is_kept(make_fit_spec: MakeFitSpec) -> None:
    steep = {"learning_rate": 0.3, "weight_decay": 0.0, "warmup_fraction": 0.0, "schedule": "constant"}
    result = run(make_fit_spec(max_epochs=40, patience=2, optimizer=steep))
    lines = fit_output.read_metrics(Path(result.model).parent)
    losses = [line["validation_loss"] for line in lines]
    assert result.epochs == len(losses) == result.best_epoch + 2 < 40
    assert result.metrics["validation_loss"] == min(losses)


@pytest.mark.parametrize("memory_fraction", [0.5, 0.0])
def test_multiclass_and_regression_in_memory_and_from_the_file(
    make_fit_spec: MakeFitSpec, tmp_path: Path, memory_fraction: float
) -> None:
    options: dict[str, Any] = {"memory_fraction": memory_fraction, "max_epochs": 8}
    classes = run(make_fit_spec("multiclass", **options))
    assert classes.metrics["validation_accuracy"] > 0.75
    scores = predict(classes, [[0.0, 0.0]] * 3, [[2]] * 3)
    assert scores.shape == (3, 3)
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    number = run(make_fit_spec("regression", output=str(tmp_path / "number"), loss="huber", **options))
    assert number.metrics["validation_mae"] < 35  # the label's standard deviation is 110
    # 100 + 50 * (2*2 + 2 - 1)
    assert predict(number, [[2005.0, 0.0]], [[3]]).tolist() == pytest.approx([350.0], abs=60)


def test_a_warm_start_goes_on_from_an_earlier_model(make_fit_spec: MakeFitSpec, tmp_path: Path) -> None:
    earlier = run(make_fit_spec())
    still = {"learning_rate": 1e-9, "weight_decay": 0.0, "warmup_fraction": 0.0, "schedule": "constant"}
    spec = make_fit_spec(warm_start=earlier.model, output=str(tmp_path / "warm"), optimizer=still, max_epochs=1)
    torch.testing.assert_close(weights(run(spec)), weights(earlier), rtol=0, atol=1e-6)
    with pytest.raises(FitError, match="another architecture"):
        run(dataclasses.replace(spec, network_options={"widths": [8]}))
    with pytest.raises(FitError, match="other inputs"):
        run(dataclasses.replace(spec, inputs=Inputs(numeric=("signal",), categorical=())))
    with pytest.raises(FitError, match="no model to start warm from"):
        run(dataclasses.replace(spec, warm_start=str(tmp_path)))


def test_a_training_set_that_cannot_be_is_refused(make_fit_spec: MakeFitSpec, tmp_path: Path) -> None:
    spec = make_fit_spec()
    for changes, message in (
        ({"training_set": str(tmp_path / "none.arrow")}, "cannot be read"),
        ({"inputs": Inputs(numeric=("sgnal",), categorical=())}, r"lacks columns \['sgnal'\]"),
        ({"fit_rows": (0, 721)}, r"no such rows[\s\S]*\[0, 721\)"),
    ):
        with pytest.raises(FitError, match=message):
            run(dataclasses.replace(spec, **changes))


def test_two_processes_fit_what_one_does(make_fit_spec: MakeFitSpec, tmp_path: Path) -> None:
    inputs = Inputs(numeric=("signal", "noise"), categorical=())
    spec = make_fit_spec(inputs=inputs, network_options={"widths": [16], "dropout": 0.0}, max_epochs=2)
    alone = run(spec)
    both = dataclasses.replace(spec, devices=2, output=str(tmp_path / "both"))
    both.write(tmp_path / "both.json")
    command = [sys.executable, "-m", "tasks.core.fit", str(tmp_path / "both.json")]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=180)
    together = FitResult.read(tmp_path / "both" / "result.json")
    assert together.device.startswith("2 x ")
    assert together.micro_batch_size == 30
    assert together.metrics["validation_auc"] == pytest.approx(alone.metrics["validation_auc"], abs=1e-4)
    torch.testing.assert_close(weights(together), weights(alone), rtol=1e-4, atol=1e-5)
    assert len(fit_output.read_metrics(tmp_path / "both")) == 2  # one process writes


def test_two_processes_that_are_killed_go_on_to_the_same_weights_to_the_bit(
    make_fit_spec: MakeFitSpec, tmp_path: Path
) -> None:
    (tmp_path / "rank.py").write_text(
        "import sys; from tasks.core.fit import fit; from tasks.core.records import FitSpec\n"
        "fit(FitSpec.read(sys.argv[1]), checkpoint_seconds=0)\n"
    )

    def launch(spec: FitSpec, die_at: int = 0) -> int:
        page = tmp_path / f"{Path(spec.output).name}.json"
        spec.write(page)
        fit_output.open_output(spec)
        told = {"DIE_AT": str(die_at), "PYTHONPATH": f"{REPOSITORY}:{tmp_path}", "OMP_NUM_THREADS": "1"}
        command = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", str(tmp_path / "rank.py"), str(page)]
        done = subprocess.run([sys.executable, "-m", *command], env=os.environ | told, capture_output=True, check=False)
        return done.returncode

    spec = make_fit_spec(network="own_nets:Dies", devices=2, max_epochs=2)
    undisturbed = dataclasses.replace(spec, output=str(tmp_path / "undisturbed"))
    assert launch(undisturbed) == 0
    assert launch(spec, die_at=16) != 0  # both of them, in the second epoch: ten steps and a validation to each
    assert [line["epoch"] for line in fit_output.read_metrics(Path(spec.output))] == [1]
    assert launch(spec) == 0
    one, other = (FitResult.read(Path(each.output) / "result.json") for each in (spec, undisturbed))
    assert one.weights_sha256 == other.weights_sha256
    assert one.metrics == other.metrics


def test_the_learning_rate_warms_up_and_comes_down() -> None:
    schedule = Schedule("cosine", total_steps=100, warmup_fraction=0.1)
    factors = [schedule(step) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[10] == 1.0 == max(factors)
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0)
    assert {Schedule("constant", 100, 0.1)(step) for step in range(10, 200)} == {1.0}


def test_precision_is_mixed_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert train.choose_precision("auto", "cpu") == "32-true"
    for has_it, chosen in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has_it=has_it: has_it)
        assert train.choose_precision("auto", "cuda") == chosen
    assert train.choose_precision("16-mixed", "cuda") == "16-mixed"
