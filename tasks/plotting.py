"""Plots: the pictures of a judgement, drawn beside the refit by a process that gives way to it."""

import json
from pathlib import Path
from typing import Literal

from prefect import task

from configs.settings import load_settings
from tasks.core.errors import PerennialError
from tasks.core.forks import CAN_FORK
from tasks.core.records import FitResult
from tasks.home import open_registry
from tasks.stores.fork_server import carry_out


@task(task_run_name="plot evaluation")
def plot_evaluation(
    project: str,
    decision_id: str,
    run_id: str,
    primary: str,
    label_kind: Literal["binary", "multiclass", "regression"],
    judged: FitResult,
) -> None:
    """Every figure of what was evaluated as PNG, among the decision's files and in its MLflow run."""
    folder = load_settings().folder("runs", project) / decision_id
    draw(folder, Path(judged.model).parent / "metrics.jsonl", primary, label_kind)
    registry = open_registry(project)
    for figure in sorted((folder / "plots").glob("*.png")):
        registry.log_file(run_id, figure, "plots")


def draw(folder: Path, stream: Path, primary: str, label_kind: Literal["binary", "multiclass", "regression"]) -> None:
    """Draw the evaluation in `folder` into its `plots`; `stream` are the metrics of the judged fit.

    Raises:
        PerennialError: the process that draws failed; the error has the end of its words.
    """
    files = {"evaluation": str(folder / "evaluation.json"), "stream": str(stream), "folder": str(folder / "plots")}
    told = json.dumps({**files, "primary": primary, "label_kind": label_kind})
    if not CAN_FORK:
        from tasks.core import plots

        plots.main(told)
    elif said := carry_out("plots", told, folder / "plots.log"):
        raise PerennialError("the plots could not be drawn", got=said)
