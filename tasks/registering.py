"""Register what was judged: one version of a decision, with its pages, that serves what was judged here."""

from dataclasses import replace
from typing import TYPE_CHECKING

from prefect import task

from configs.recipe import Recipe
from configs.sections.section import format_duration
from tasks.account import step
from tasks.core.model_card import Against, CardFacts, version_tags, write_model_card
from tasks.core.records import Evaluation, FitResult, ModelRef, TableRef, TrainingSetRef
from tasks.core.replay import flat_metrics
from tasks.home import open_registry
from tasks.lineage import trace_lineage
from tasks.naming import flow_run_id
from tasks.promotion import promoting
from tasks.run import Run

if TYPE_CHECKING:
    import pyarrow as pa

EXAMPLE_ROWS = 256  # how many rows a model must predict as served before it is registered


@task(task_run_name="register challenger")
def register_challenger(
    run: Run,
    training_set: TrainingSetRef,
    judged: FitResult,
    served: FitResult,
    evaluation: Evaluation,
    tables: tuple[TableRef, ...] = (),
    against: Against | None = None,
) -> ModelRef:
    """Register `served` (the judged model, or its refit) as the one version of this decision, with its pages.

    `tables` are all of its moment, `against` who it was judged against: with them it can be replayed.

    Raises:
        ModelError: as served it does not predict what it predicts here.
    """
    from tasks.stores.serving import load_model_folder

    registry = open_registry(run.project)
    lineage = replace(
        trace_lineage(run, training_set, judged, served),
        tables=tables, against=against or Against(), metrics=flat_metrics(evaluation),
    )  # fmt: skip
    tags = version_tags(lineage, evaluation.verdict, flow_run_id())
    with step("register", run.project) as line, promoting(run.project, run.decision_id, wait_seconds=60):
        run_id = registry.run(run.decision_id)
        example = _example_rows(training_set)
        expected = load_model_folder(served.model).predict(example)
        ref = registry.register(
            run_id, served.model, decision_id=run.decision_id, tags=tags, example=example, expected=expected
        )
        registry.log_text(run_id, "recipe.json", run.recipe.model_dump_json(indent=2))
        registry.log_text(run_id, "lineage.json", lineage.to_json())
        registry.log_text(run_id, "verdict.json", evaluation.verdict.to_json())
        card = write_model_card(ref, _card_facts(run.recipe), lineage, evaluation)
        registry.log_text(run_id, "model_card.md", card)
        told = evaluation.verdict
        registry.describe(ref, card, "  \n".join([f"{told.outcome} ({told.mode})", *told.reasons]))
        line.note(f"version {ref.version} · as served it predicts the same on {example.num_rows} rows")
    return ref


def _example_rows(training_set: TrainingSetRef) -> "pa.Table":
    """Rows from all over the training set: the fit's, and the holdout's with the categories that no fit has seen."""
    import numpy as np
    import pyarrow as pa

    with pa.memory_map(training_set.uri) as file:
        rows = (
            pa.ipc.open_file(file).read_all().select([*training_set.inputs.numeric, *training_set.inputs.categorical])
        )
        return rows.take(np.linspace(0, rows.num_rows - 1, min(EXAMPLE_ROWS, rows.num_rows)).astype(np.int64))


def _card_facts(recipe: Recipe) -> CardFacts:
    return CardFacts(
        description=recipe.description,
        label=recipe.label.expression,
        label_maturity=format_duration(recipe.label.maturity),
        network=recipe.model.network,
        primary=recipe.gate.primary,
    )
