"""Rivals: who a challenger has to stand against, and what they read."""

from dataclasses import dataclass
from datetime import datetime

from prefect import task

from configs.sections.rows import FeaturesSection
from tasks.core import ledger as history
from tasks.core.model_card import Against
from tasks.core.records import Contender, FitResult, digest
from tasks.evaluation import registered_contender, trace_procedure
from tasks.home import open_ledger, open_registry
from tasks.joins import read_model_rows
from tasks.lineage import feature_files
from tasks.promotion import current_champion
from tasks.run import Run


@dataclass(frozen=True, slots=True)
class Rivals:
    """The champion, the anchor of its refreshes, the looks spent so far, and the features that both are pinned to."""

    champion: Contender | None
    anchor: Contender | None
    attempts: int
    features: tuple[FeaturesSection, ...]

    @property
    def against(self) -> Against:
        champion, anchor = (one.ref if one else None for one in (self.champion, self.anchor))
        return Against(champion=champion, anchor=anchor, attempts=self.attempts)


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
        return read_rivals(project, Against(attempts=attempts))
    anchor = registry.version(history.anchor(entries) or champion.version)
    return read_rivals(project, Against(champion=champion, anchor=anchor, attempts=attempts))


def read_rivals(project: str, against: Against) -> Rivals:
    """The same, of versions that are given."""
    registry = open_registry(project)
    found = {name: getattr(against, name) for name in ("champion", "anchor")}
    features = {ref.version: read_model_rows(project, ref).features for ref in found.values() if ref is not None}
    champion, anchor = (ref and registered_contender(registry, name, ref) for name, ref in found.items())
    return Rivals(champion, anchor, against.attempts, tuple(features.values()))


def trace_challenger(run: Run, judged: FitResult) -> Contender:
    """The fit that was just made, as one that stands for judgement."""
    features = digest([run.recipe.features.service, feature_files(run.project)])
    procedure = trace_procedure(run.recipe, features)
    return Contender(name="challenger", as_of=run.as_of, folder=judged.model, procedure=procedure)
