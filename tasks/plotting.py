"""Plots: the pictures of a judgement, drawn from what the evaluation left on disk, beside the refit."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prefect import task

from configs.settings import load_settings
from tasks.core.records import Evaluation, FitResult
from tasks.home import open_registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@task(task_run_name="plot evaluation")
def plot_evaluation(
    project: str,
    decision_id: str,
    run_id: str,
    primary: str,
    label_kind: Literal["binary", "multiclass", "regression"],
    judged: FitResult,
    evaluation: Evaluation,
) -> None:
    """Every figure as PNG, among the decision's files and in its MLflow run."""
    from tasks.core.arrow_files import appearing

    folder, registry = load_settings().folder("runs", project) / decision_id / "plots", open_registry(project)
    for name, figure in draw(primary, label_kind, judged, evaluation).items():
        with appearing(folder / f"{name}.png") as path:
            figure.savefig(path, format="png")
        registry.log_file(run_id, folder / f"{name}.png", "plots")


def draw(
    primary: str, label_kind: Literal["binary", "multiclass", "regression"], judged: FitResult, evaluation: Evaluation
) -> dict[str, "Figure"]:
    """Figures by the names of their files; the learning curve from the metrics stream beside the judged model."""
    from tasks.core.plots import judgement_figures, plot_learning_curve
    from tasks.core.score_files import read_predictions

    cards, comparisons = evaluation.scorecards, evaluation.verdict.comparisons
    models = [card.model for card in cards]
    label, scores = read_predictions(Path(evaluation.predictions_uri), label_kind, models)
    figures = judgement_figures(label_kind, label, scores, cards, comparisons, primary)
    stream = Path(judged.model).parent / "metrics.jsonl"
    if stream.exists():
        figures["learning_curve"] = plot_learning_curve([json.loads(line) for line in stream.read_text().splitlines()])
    return figures
