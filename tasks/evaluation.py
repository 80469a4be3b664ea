"""Evaluate: champion, challenger and baseline on the same unseen rows, and the gate's verdict over them."""

import ast
import dataclasses
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from prefect import task

from configs.recipe import Recipe
from configs.sections.gate import GateSection
from configs.sections.model import BaselineSection
from configs.settings import load_settings
from tasks.account import markdown_artifact, step
from tasks.baselines import Scores, baseline_scores
from tasks.core.latency import measure_latency
from tasks.core.records import Contender, Evaluation, ModelRef, Scorecard, TrainingSetRef, Window, digest
from tasks.resume import once

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from tasks.core.scorecards import ScoredModel
    from tasks.core.verdicts import Mode
    from tasks.stores.registry import Registry

CODE = Path(__file__).parent / "core"
# The modules that a fit is made by: when one of them changes, so does what is fitted.
FIT_MODULES = ("train", "networks", "ensemble", "network_inputs", "heads", "lit_module", "batches", "preprocessing")
MADE_BY = ("tables", "features", "label", "split", "model")  # and the sections of the recipe that do


class Predictor(Protocol):
    """A loaded model. `predict` gives (n,) or (n, classes); `classes` are those of its columns."""

    classes: tuple[Any, ...]

    def predict(self, rows: "pa.Table") -> "np.ndarray": ...


# --- who stands for judgement -----------------------------------------------------------------------


def trace_procedure(recipe: Recipe, features_digest: str) -> dict[str, str]:
    """Digests of what a model is made by. Equal ones are one procedure on other data, see `gate.mode_of`.

    The code of the fit counts as it runs: a comment in it changes nothing.
    """
    files = [CODE / f"{name}.py" for name in FIT_MODULES]
    if ":" in recipe.model.network:
        found = importlib.util.find_spec(recipe.model.network.partition(":")[0])
        files += [Path(found.origin)] if found and found.origin else []
    return {
        "recipe": digest(recipe.model_dump(mode="json", include=set(MADE_BY))),
        "features": features_digest,
        "code": digest([ast.unparse(ast.parse(file.read_text())) for file in files]),
    }


def registered_contender(registry: "Registry", name: str, ref: ModelRef) -> Contender:
    """A version of the registry, with its moment and its procedure from its tags."""
    tags = registry.tags(ref)
    return Contender.from_dict(
        {
            "name": name,
            "as_of": tags["perennial.as_of"],
            "ref": ref.to_dict(),
            "procedure": json.loads(tags.get("perennial.procedure", "{}")),
        }
    )


def load_contender(project: str, contender: Contender) -> Predictor:
    from tasks.stores.registry import Registry
    from tasks.stores.serving import load_model_folder, load_registered_folder

    if contender.folder is not None:
        # A registered version's folder holds the code that it was registered with.
        is_registered = (Path(contender.folder) / "MLmodel").exists()
        return (load_registered_folder if is_registered else load_model_folder)(contender.folder)
    settings = load_settings()
    assert contender.ref is not None
    return Registry(settings.mlflow_uri, settings.mlflow_artifacts, project).load(contender.ref)


# --- the task ---------------------------------------------------------------------------------------


@task(task_run_name="evaluate challenger")
def evaluate_challenger(
    project: str,
    decision_id: str,
    gate: GateSection,
    baseline: BaselineSection,
    training_set: TrainingSetRef,
    challenger: Contender,
    champion: Contender | None = None,
    anchor: Contender | None = None,
    attempts: int = 0,
) -> Evaluation:
    """Judge the challenger on the holdout rows that lie after the champion's own moment.

    `anchor` counts for a refresh only; `attempts` are the looks at a new pair of challenger and holdout before this
    one. What has been evaluated is not evaluated again.

    Raises:
        ModelError: a model does not score each row, or not with finite numbers.
        RecipeError: the gate names a column that the training set lacks.
    """
    folder = load_settings().folder("runs", project) / decision_id
    contenders = [contender for contender in (challenger, champion, anchor) if contender is not None]

    def evaluate() -> Evaluation:
        with step("evaluate", project) as line:
            made = evaluate_contenders(project, folder, gate, baseline, training_set, contenders, attempts)
            line.note(f"{made.scorecards[0].rows:,} rows · {len(made.scorecards)} models · {made.verdict.outcome}")
        return made

    evaluation = once(folder / "evaluation.json", Evaluation, evaluate)
    show_verdict(project, evaluation)
    return evaluation


def evaluate_contenders(
    project: str,
    folder: Path,
    gate: GateSection,
    baseline: BaselineSection,
    training_set: TrainingSetRef,
    contenders: Sequence[Contender],
    attempts: int,
) -> Evaluation:
    """Score all models on the same rows, judge, and write the predictions under `folder`.

    `contenders` are the challenger, then if there is one the champion, and the anchor.
    """
    from tasks.core.gate import baseline_wins, judge, judge_nothing
    from tasks.core.gate_rows import first_unseen, read_rows, rows_per_day
    from tasks.core.score_files import write_predictions

    mode, contenders = standing(contenders)
    holdout = read_rows(training_set, "holdout")
    first, window = first_unseen(training_set, holdout, [other.as_of for other in contenders[1:]])
    verdict = None
    if first == holdout.num_rows:
        # Nothing that the champion has not seen. The challenger has not seen its holdout: that much can be told.
        verdict = judge_nothing(gate, mode, rows_per_day(training_set))
        contenders, first, window = contenders[:1], 0, training_set.splits["holdout"].window
    table = holdout.slice(first)
    predictors: dict[str, Predictor] = {contender.name: load_contender(project, contender) for contender in contenders}
    raw: dict[str, Scores] = {name: (model.predict(table), model.classes) for name, model in predictors.items()}
    for name, (scores, classes) in baseline_scores(project, training_set, baseline, holdout).items():
        raw[name] = scores[first:], classes
    models = score_models(gate, training_set, table, window, raw, contenders)
    cards = [describe_model(model, gate, table, predictors, contenders) for model in models.values()]
    verdict = verdict or judge(
        gate,
        models["challenger"],
        models.get("champion"),
        models.get("anchor"),
        [model for name, model in models.items() if name not in predictors],
        card=cards[0],
        mode=mode,
        attempts=attempts,
    )
    verdict = dataclasses.replace(
        verdict, evidence={**verdict.evidence, "procedure": contenders[0].procedure, "window": window.to_dict()}
    )
    evaluation = Evaluation(
        scorecards=tuple(cards),
        verdict=verdict,
        baseline_wins=baseline_wins(verdict),
        predictions_uri=str(folder / "predictions.arrow"),
    )
    write_predictions(Path(evaluation.predictions_uri), table, models)
    return evaluation


def standing(contenders: Sequence[Contender]) -> tuple["Mode", list[Contender]]:
    """The mode, and the contenders that count in it: the anchor where it is asked, and is not the champion itself."""
    from tasks.core.gate import mode_of

    challenger, *others = contenders
    champion = next((other for other in others if other.name == "champion"), None)
    mode = mode_of(None if champion is None else champion.procedure, challenger.procedure)
    kept = [o for o in others if o is champion or (mode == "refresh" and champion and o.ref != champion.ref)]
    return mode, [challenger, *kept]


# --- scores -----------------------------------------------------------------------------------------


def score_models(
    gate: GateSection,
    training_set: TrainingSetRef,
    table: "pa.Table",
    window: Window,
    raw: Mapping[str, Scores],
    contenders: Sequence[Contender],
) -> dict[str, "ScoredModel"]:
    """All models on the gate rows, their scores checked and in one order of classes."""
    from tasks.core.gate_rows import all_classes, check_scores, gate_rows
    from tasks.core.scorecards import ScoredModel

    kind = training_set.label_kind
    classes = all_classes(table["label"], (known for _, known in raw.values())) if kind == "multiclass" else ()
    guarded = (text.partition("=")[0] for text in gate.guarded_slices)
    rows = gate_rows(
        table,
        kind,
        window,
        clusters=gate.clusters,
        entity=gate.entity,
        slices=tuple(dict.fromkeys((*gate.slices, *guarded))),
        serial=gate.serial,
        classes=classes,
    )
    versions: dict[str, int] = {other.name: other.ref.version for other in contenders if other.ref is not None}
    return {
        name: ScoredModel(name, rows, check_scores(name, scores, table.num_rows, known, classes), versions.get(name))
        for name, (scores, known) in raw.items()
    }


def describe_model(
    model: "ScoredModel",
    gate: GateSection,
    table: "pa.Table",
    predictors: Mapping[str, Predictor],
    contenders: Sequence[Contender],
) -> Scorecard:
    """The scorecard, and for a network what serving it would cost."""
    card = model.scorecard(gate.primary)
    if model.name not in predictors:
        return card
    folder = next(contender.folder for contender in contenders if contender.name == model.name)
    latency = measure_latency(predictors[model.name].predict, table)
    size = None if folder is None else sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    return dataclasses.replace(
        card, latency_one_ms=latency.one_ms, latency_one_p99_ms=latency.one_p99_ms,
        latency_batch_ms=latency.batch_ms, size_bytes=size,
    )  # fmt: skip


# --- what is left behind ----------------------------------------------------------------------------


def show_verdict(project: str, evaluation: Evaluation) -> None:
    """The verdict as an artifact of the Prefect run; outside of a run there is nowhere to show it."""
    from tasks.core.verdict_page import write_verdict

    markdown_artifact(f"verdict-{project}", write_verdict(evaluation), f"The gate's verdict on {project}")
