"""Refit: after a pass, the same procedure on everything that has matured, unless its predictions change too much."""

import dataclasses
from typing import TYPE_CHECKING

from tasks.account import step
from tasks.core.records import Evaluation, FitResult, ModelRef, TrainingSetRef
from tasks.run import Run
from tasks.training import fit_model

if TYPE_CHECKING:
    import numpy as np


def refit_if_promoted(
    run: Run,
    run_id: str,
    training_set: TrainingSetRef,
    judged: FitResult,
    evaluation: Evaluation,
    champion: ModelRef | None = None,
) -> tuple[FitResult, Evaluation]:
    """What is to be served, and the verdict that says so.

    Without a pass, or with `refit: none`, that is the model that was judged.
    """
    if not wants_refit(run, evaluation):
        return judged, evaluation
    arguments = (run.project, training_set, run.recipe.model, run.recipe.seed, run.decision_id, run_id)
    refitted = fit_model(*arguments, steps=judged.best_step, champion=champion)
    return check_refit(run, training_set, judged, refitted, evaluation)


def wants_refit(run: Run, evaluation: Evaluation) -> bool:
    return evaluation.verdict.outcome == "promote" and run.recipe.model.refit == "all"


def check_refit(
    run: Run, training_set: TrainingSetRef, judged: FitResult, refitted: FitResult, evaluation: Evaluation
) -> tuple[FitResult, Evaluation]:
    """A refit whose scores stray from the judged model's by more than `gate.max_prediction_change` is not served, and
    turns the verdict into a rejection."""
    with step("refit check", run.project) as line:
        reasons = _changes(training_set, judged, refitted, run.recipe.gate.max_prediction_change)
        line.note(reasons[0] if reasons else "its predictions stay close to those of the judged model")
    if reasons:
        verdict = dataclasses.replace(
            evaluation.verdict, outcome="reject", reasons=(*evaluation.verdict.reasons, *reasons)
        )
        return judged, dataclasses.replace(evaluation, verdict=verdict)
    note = f"the verdict judged the procedure; what is served was refitted on all {refitted.rows:,} matured rows"
    verdict = dataclasses.replace(evaluation.verdict, reasons=(*evaluation.verdict.reasons, note))
    return refitted, dataclasses.replace(evaluation, verdict=verdict)


def _changes(
    training_set: TrainingSetRef, judged: FitResult, refitted: FitResult, max_change: float
) -> tuple[str, ...]:
    from tasks.core.gate import refit_check
    from tasks.core.gate_rows import read_rows
    from tasks.stores.serving import load_model_folder

    recent = read_rows(training_set, "holdout")

    def scores(fit: FitResult) -> "np.ndarray":
        return load_model_folder(fit.model).predict(recent)

    return refit_check(scores(judged), scores(refitted), max_change, training_set.label_kind)
