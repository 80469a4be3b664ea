"""Train: from training set to verdict. Registers the challenger with its verdict, and never promotes it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prefect import flow

from flows import shell
from tasks.baselines import fit_baseline
from tasks.core.records import Contender, Evaluation, FitResult, ModelRef, TrainingSetRef
from tasks.evaluation import evaluate_challenger
from tasks.naming import run_name
from tasks.plotting import plot_evaluation
from tasks.refit import refit_if_promoted
from tasks.registering import register_challenger
from tasks.rivals import find_rivals, trace_challenger
from tasks.run import open_run
from tasks.stores import fork_server
from tasks.stores.serving import warming_up
from tasks.tables import current_tables
from tasks.tracking import track_evaluation, track_run
from tasks.training import fit_model
from tasks.training_set import build_training_set


@dataclass(frozen=True, slots=True)
class Trained:
    """A judged challenger and what it was judged on."""

    version: ModelRef
    champion: Contender | None
    training_set: TrainingSetRef
    judged: FitResult
    served: FitResult
    evaluation: Evaluation


@flow(name="train", flow_run_name=run_name)
def train(
    recipe: str,
    as_of: datetime | None = None,
    overrides: dict[str, Any] | None = None,
    attempt: int = 0,
    cause: str = "person",
    decided: str | None = None,
) -> Trained:
    """Build the training set, fit a challenger, judge it against the champion, and register it with its verdict.

    `decided` is the decision that it carries out, where one was made before.
    """
    run = open_run(recipe, as_of, overrides, attempt=attempt, cause=cause, decided=decided)
    project, sections = run.project, run.recipe
    rivals = find_rivals(project, run.as_of)
    tables = current_tables(run, rivals.features)
    fork_server.prepare()
    with warming_up():
        training_set = build_training_set(
            project, run.entity_table, sections.features, sections.label, sections.split, sections.audit,
            run.start, run.as_of, tables, rivals.features,
        )  # fmt: skip
    run_id = track_run(run, training_set)
    champion = rivals.champion.ref if rivals.champion else None
    baseline = fit_baseline.submit(project, training_set, sections.baseline)  # beside the fit
    judged = fit_model(
        project, training_set, sections.model, sections.seed, run.decision_id, run_id, champion=champion
    )  # fmt: skip
    baseline.result()
    evaluation = evaluate_challenger(
        project, run.decision_id, sections.gate, sections.baseline, training_set,
        trace_challenger(run, judged), rivals.champion, rivals.anchor, rivals.attempts,
    )  # fmt: skip
    track_evaluation(run, run_id, judged, evaluation)
    plots = plot_evaluation.submit(
        project, run.decision_id, run_id, sections.gate.primary, training_set.label_kind, judged
    )  # beside the refit
    served, evaluation = refit_if_promoted(run, run_id, training_set, judged, evaluation, champion)
    plots.result()
    version = register_challenger(run, training_set, judged, served, evaluation, tables, rivals.against)
    return Trained(version, rivals.champion, training_set, judged, served, evaluation)


if __name__ == "__main__":
    shell.main(train)
