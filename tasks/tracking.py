"""Tracking: the run of a decision in MLflow, with its parameters and its judgement."""

from typing import Any

from prefect import task

from tasks.core.records import Evaluation, FitResult, TrainingSetRef
from tasks.home import open_registry
from tasks.run import Run


@task(task_run_name="track run")
def track_run(run: Run, training_set: TrainingSetRef) -> str:
    """The MLflow run of this decision: made on first use, taken up again after a kill."""
    sections = run.recipe.model_dump(mode="json", include={"model", "split", "label", "seed"})
    params = {"as_of": run.as_of.isoformat(), "rows": training_set.rows, **_flat(sections)}
    tags = {
        "perennial.training_set_digest": training_set.digest,
        "perennial.feature_service": training_set.service,
        "perennial.as_of": run.as_of.isoformat(),
        "perennial.cause": run.cause,
    }
    name = f"{run.as_of:%Y-%m-%d} {run.decision_id[:6]}"
    return open_registry(run.project).run(run.decision_id, name=name, params=params, tags=tags)


@task(task_run_name="track evaluation")
def track_evaluation(run: Run, run_id: str, judged: FitResult, evaluation: Evaluation) -> None:
    """Log every model's metrics on the gate rows, and the verdict."""
    registry = open_registry(run.project)
    rows = [
        (f"{card.model}_{name}", interval.value, 0)
        for card in evaluation.scorecards
        for name, interval in card.metrics.items()
    ]
    fit = [("fit_seconds", judged.seconds, 0), ("fit_rows_per_second", judged.rows_per_second, 0)]
    registry.log_metrics(run_id, [*rows, *fit])
    registry.log_text(run_id, "verdict.json", evaluation.verdict.to_json())


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
