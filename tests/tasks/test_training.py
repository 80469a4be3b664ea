"""The parent's side of a fit: live metrics, a child that ends with its parent, and reasons that reach the reader."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from configs.sections.model import ModelSection
from tasks.core.errors import FitError
from tasks.core.records import FitResult, FitSpec, ModelRef, RowRange, TrainingSetRef, Window
from tasks.stores import fork_server
from tasks.training import died, fit_model, launch_fit, metric_rows

MakeFitSpec = Callable[..., FitSpec]
REPOSITORY = Path(__file__).resolve().parents[2]

SLOW = """
import os
import time
from tasks.core.networks import Mlp
class Slow(Mlp):
    def forward(self, numeric, categorical):
        time.sleep(0.2)
        return super().forward(numeric, categorical)
class Leaves(Mlp):
    def forward(self, numeric, categorical):
        raise SystemExit("I am leaving")
class Tells(Mlp):
    def forward(self, numeric, categorical):
        raise SystemExit(os.environ["TOLD"])
"""


@pytest.fixture(autouse=True)
def own_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_nets.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)


def test_metrics_are_reported_once_while_it_runs_and_a_finished_fit_returns_at_once(make_fit_spec: MakeFitSpec) -> None:
    spec = make_fit_spec(network="slow_nets:Slow", max_epochs=2)
    reports: list[tuple[float, list[dict[str, Any]]]] = []
    result = launch_fit(spec, lambda lines: reports.append((time.monotonic(), lines)))
    assert [line["epoch"] for _, lines in reports for line in lines] == [1, 2]
    assert len(reports) == 2  # an epoch takes two seconds: the first line came before the second was there
    started = time.monotonic()
    assert launch_fit(spec, reports.append) == result
    assert time.monotonic() - started < 1
    assert len(reports) == 2


def test_the_childs_own_error_comes_back_whole(make_fit_spec: MakeFitSpec) -> None:
    with pytest.raises(FitError) as caught:
        launch_fit(make_fit_spec(network="nonesuch"), lambda lines: None)
    assert caught.value.what == "no network 'nonesuch'"
    assert caught.value.fix == "correct model.network in the recipe"


def test_a_child_that_dies_leaves_its_code_and_last_words(make_fit_spec: MakeFitSpec) -> None:
    with pytest.raises(FitError, match=r"ended with exit code 1[\s\S]*I am leaving"):
        launch_fit(make_fit_spec(network="slow_nets:Leaves"), lambda lines: None)


def test_an_interrupted_parent_ends_the_child_and_the_next_goes_on(make_fit_spec: MakeFitSpec) -> None:
    spec = make_fit_spec(network="slow_nets:Slow", max_epochs=2)

    def interrupt(lines: list[dict[str, Any]]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch_fit(spec, interrupt)
    assert not children_of(spec)
    (Path(spec.output) / "metrics.jsonl").unlink()
    lines: list[dict[str, Any]] = []
    launch_fit(spec, lines.extend)
    assert [line["epoch"] for line in lines] == [2]


def test_a_second_fit_begins_without_the_imports_and_knows_its_own_surroundings(
    make_fit_spec: MakeFitSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    launch_fit(make_fit_spec(max_epochs=1, output=str(tmp_path / "first")), lambda lines: None)
    server = fork_server.forks.server
    assert server is not None
    monkeypatch.setenv("TOLD", "by the parent")
    with pytest.raises(FitError, match="by the parent"):
        launch_fit(make_fit_spec(network="slow_nets:Tells", output=str(tmp_path / "second")), lambda lines: None)
    assert fork_server.forks.server is server, "the process that had imported everything forked the second as well"


def test_a_server_that_was_killed_is_replaced(make_fit_spec: MakeFitSpec, tmp_path: Path) -> None:
    launch_fit(make_fit_spec(max_epochs=1, output=str(tmp_path / "first")), lambda lines: None)
    server = fork_server.forks.server
    assert server is not None
    server.process.kill()
    server.process.wait()
    assert launch_fit(make_fit_spec(max_epochs=1, output=str(tmp_path / "second")), lambda lines: None).rows > 0


def test_a_killed_fit_says_so(make_fit_spec: MakeFitSpec) -> None:
    spec = make_fit_spec(network="slow_nets:Slow", max_epochs=50)

    def kill(lines: list[dict[str, Any]]) -> None:
        (child,) = children_of(spec)
        os.kill(child, signal.SIGKILL)

    with pytest.raises(FitError, match="ended with signal SIGKILL"):
        launch_fit(spec, kill)


def test_a_fit_that_was_killed_before_its_first_word_says_so(tmp_path: Path) -> None:
    assert "ended with signal SIGKILL" in str(died(-signal.SIGKILL, tmp_path / "child.log"))


def test_a_killed_parent_takes_the_child_with_it(make_fit_spec: MakeFitSpec, tmp_path: Path) -> None:
    spec = make_fit_spec(network="slow_nets:Slow", max_epochs=50)
    spec.write(tmp_path / "spec.json")
    code = (
        "import sys; from tasks.core.records import FitSpec; from tasks.training import launch_fit;"
        "launch_fit(FitSpec.read(sys.argv[1]), lambda lines: print(lines, flush=True))"
    )
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{tmp_path}", "PREFECT_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code, str(tmp_path / "spec.json")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert children_of(spec)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while children_of(spec):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.1)


def children_of(spec: FitSpec) -> list[int]:
    """Processes that write the log of the spec's output folder."""
    log = f"{spec.output}/child.log"
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(file) == log for file in (folder / "fd").iterdir()):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def training_set_of(spec: FitSpec) -> TrainingSetRef:
    window = Window(start=datetime(2024, 1, 1, tzinfo=UTC), end=datetime(2024, 2, 1, tzinfo=UTC))
    splits = {"fit": (0, 600), "validation": (600, 720), "holdout": (0, 0), "all": (0, 720)}
    return TrainingSetRef(
        uri=spec.training_set,
        digest="0" * 16,
        rows=720,
        as_of=window.end,
        service="made_up",
        inputs=spec.inputs,
        label_kind="binary",
        key=("id",),
        splits={name: RowRange(start=a, stop=b, window=window) for name, (a, b) in splits.items()},
        unlabelled_rows=0,
        tables=(),
    )


def test_the_task_fits_then_refits_and_logs_both_curves(
    make_fit_spec: MakeFitSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.stores.registry import Registry

    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    spec = make_fit_spec()
    training_set = training_set_of(spec)
    model = ModelSection(network="mlp", options={"widths": [8]}, batch_size=60, max_epochs=2)
    home = tmp_path / "home"
    registry = Registry(f"sqlite:///{home}/mlflow.db", str(home / "mlartifacts"), "made_up")
    run_id = registry.run("decision")
    fitted = fit_model.fn("made_up", training_set, model, 7, "decision", run_id)
    refitted = fit_model.fn("made_up", training_set, model, 7, "decision", run_id, steps=fitted.best_step)
    assert (fitted.rows, refitted.rows, refitted.best_step) == (600, 720, round(fitted.best_step * 1.2))
    assert Path(refitted.model) == home / "runs" / "made_up" / "decision" / "refit" / "model"
    curve = registry.client.get_metric_history(run_id, "validation_loss")
    assert [(metric.step, metric.value) for metric in curve][-1] == (2, fitted.metrics["validation_loss"])
    assert registry.client.get_metric_history(run_id, "refit_train_loss")


def test_a_warm_start_begins_where_the_champion_is(
    make_fit_spec: MakeFitSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.stores.registry import Registry

    given: list[FitSpec] = []

    def launch(spec: FitSpec, report: Any) -> FitResult:
        given.append(spec)
        raise FitError("enough")

    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tasks.training.launch_fit", launch)
    monkeypatch.setattr(Registry, "model_folder", lambda self, ref: tmp_path / f"version {ref.version}")
    champion, spec = ModelRef(name="made_up", version=3, run_id="run", uri=""), make_fit_spec()
    for asked, known in ((True, champion), (True, None), (False, champion)):
        model = ModelSection(network="mlp", warm_start=asked)
        with pytest.raises(FitError):
            fit_model.fn("made_up", training_set_of(spec), model, 7, "decision", "run", champion=known)
    assert [spec.warm_start for spec in given] == [str(tmp_path / "version 3"), None, None]


def test_an_epoch_that_is_done_again_after_a_kill_is_the_same_row_of_the_curve() -> None:
    line = {"epoch": 2, "step": 20, "seconds": 1.5, "train_loss": 0.4, "learning_rate": 0.1}
    rows = metric_rows([line], "refit")
    assert rows == metric_rows([line | {"seconds": 7.5}], "refit")
    assert rows == [("refit_train_loss", 0.4, 2), ("refit_learning_rate", 0.1, 2)]
