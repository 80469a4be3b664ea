"""Rivals: who a challenger has to stand against, and what they read."""

from dataclasses import dataclass
from datetime import datetime

from prefect import task

from configs.recipe import FeaturesSection
from tasks.core import ledger as history
from tasks.core.records import Contender, FitResult, digest
from tasks.evaluation import registered_contender, trace_procedure
from tasks.home import open_ledger, open_registry
from tasks.joins import read_model_rows
from tasks.promotion import current_champion, feature_files
from tasks.run import Run


@dataclass(frozen=True, slots=True)
class Rivals:
    """The champion, the anchor of its refreshes, the looks spent so far, and the features that both are pinned to."""

    champion: Contender | None
    anchor: Contender | None
    attempts: int
    features: tuple[FeaturesSection, ...]


@task(task_run_name="find rivals")
def find_rivals(project: str, as_of: datetime) -> Rivals:
    """By the ledger, after it has been repaired; nobody before the first promotion.

    Raises:
        PromotionError: `as_of` lies before the champion's own.
    """
    champion = current_champion.fn(project, as_of)
    entries, registry = open_ledger(project).entries(), open_registry(project)
    attempts = len(history.attempts(entries, "change"))
    if champion is None:
        return Rivals(None, None, attempts, ())
    anchor = registry.version(history.anchor(entries) or champion.version)
    features = {ref.version: read_model_rows(project, ref).features for ref in (champion, anchor)}
    return Rivals(
        registered_contender(registry, "champion", champion),
        registered_contender(registry, "anchor", anchor),
        attempts,
        tuple(features.values()),
    )


def trace_challenger(run: Run, judged: FitResult) -> Contender:
    """The fit that was just made, as one that stands for judgement."""
    features = digest([run.recipe.features.service, feature_files(run.project)])
    procedure = trace_procedure(run.recipe, features)
    return Contender(name="challenger", as_of=run.as_of, folder=judged.model, procedure=procedure)
