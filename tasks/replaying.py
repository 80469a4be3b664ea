"""Replaying: a registered version built again from its lineage and its recipe, in a home of its own.

The home that it was made in is read and never written: the lake's tables at the versions that the lineage names, the
models of the rivals, and the pages of the version. Nothing that it keeps of its own work is used, so that no answer
is copied.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pydantic

from configs.recipe import Recipe, load_recipe
from configs.settings import load_settings
from tasks.account import logger, markdown_artifact, step, without_pages
from tasks.baselines import fit_baseline
from tasks.core import ledger as history
from tasks.core import replay
from tasks.core.errors import ModelError, PerennialError, RecipeError
from tasks.core.model_card import Lineage
from tasks.core.records import Evaluation, FitResult, ModelRef, TableRef, TrainingSetRef, Verdict
from tasks.core.replay import ReplayReport
from tasks.evaluation import evaluate_contenders, trace_procedure
from tasks.features import build_features
from tasks.home import open_lake, open_ledger, open_registry
from tasks.lineage import code_version, feature_files
from tasks.refit import check_refit, wants_refit
from tasks.rivals import Rivals, read_rivals, trace_challenger
from tasks.run import Run
from tasks.scratch_home import borrowing_home
from tasks.training import fit_under
from tasks.training_set import build_training_set

if TYPE_CHECKING:
    from tasks.stores.lake import Lake
    from tasks.stores.registry import Registry

Page = TypeVar("Page")


@dataclass(frozen=True, slots=True)
class Subject:
    """A registered version: what was written down of it, and who it was judged against."""

    model: ModelRef
    run: Run
    lineage: Lineage
    verdict: Verdict
    rivals: Rivals  # in folders of their own
    warm_start: Path | None
    lake: "Lake"  # of the home in which it was made

    @property
    def ingested(self) -> tuple[TableRef, ...]:
        return tuple(ref for ref in self.lineage.tables if ref.name in self.run.recipe.tables)

    @property
    def folder(self) -> Path:
        return load_settings().folder("replays", self.run.project)

    @property
    def scratch(self) -> Path:
        return self.folder / f"v{self.model.version}"


@dataclass(slots=True)
class Made:
    """What the replay has made so far; `stopped` says why there is no more."""

    tables: tuple[TableRef, ...] = ()
    training_set: TrainingSetRef | None = None
    judged: FitResult | None = None
    served: FitResult | None = None
    evaluation: Evaluation | None = None
    verdict: Verdict | None = None
    stopped: str | None = None


# --- what is replayed ---------------------------------------------------------------------------------


def find_subject(
    recipe: str, as_of: datetime | None, overrides: Mapping[str, Any] | None, version: int | None
) -> Subject:
    """Read what the registry has of a version; without one, of the champion.

    Raises:
        RecipeError: a moment or overrides were given: a version has its own.
        ModelError: no such version, no champion, or a page of it is missing or was written by older code.
    """
    if as_of is not None or overrides:
        raise RecipeError(
            "a replay has the moment and the recipe of its version", got={"as_of": as_of, "overrides": overrides},
            fix="name the version alone",
        )  # fmt: skip
    project = load_recipe(recipe).project
    registry = open_registry(project)
    number = version or history.champion(open_ledger(project).entries())
    if number is None:
        raise ModelError(f"{project!r} has no champion to replay", fix="run the pipeline first, or name a version")
    model = registry.version(number)
    lineage = _read(registry, model, "lineage.json", Lineage.from_json)
    if not lineage.tables:
        raise ModelError(
            f"version {number} of {project!r} cannot be replayed: its lineage does not name the tables of its moment",
            fix="replay a version that this code registered",
        )
    told = _read(registry, model, "recipe.json", Recipe.model_validate_json)
    run = Run(told, lineage.as_of, lineage.cause, lineage.attempt, decided=lineage.decision_id)
    rivals = read_rivals(project, lineage.against)
    warm = rivals.champion.ref if told.model.warm_start and rivals.champion else None
    return Subject(
        model, run, lineage, _read(registry, model, "verdict.json", Verdict.from_json), _fetch(registry, rivals),
        registry.model_folder(warm) if warm else None, open_lake(project),
    )  # fmt: skip


def _read(registry: "Registry", model: ModelRef, name: str, parse: Callable[[str], Page]) -> Page:
    try:
        return parse(registry.read_text(model.run_id, name))
    except (FileNotFoundError, TypeError, KeyError, ValueError, pydantic.ValidationError) as error:
        raise ModelError(
            f"{name} of version {model.version} of {model.name!r} cannot be read", got=error,
            expected="the page that was registered with it", fix="replay it with the code that registered it",
        ) from error  # fmt: skip


def _fetch(registry: "Registry", rivals: Rivals) -> Rivals:
    """With the folders of their models, so that the home of the replay needs no registry."""

    def fetched(name: str) -> Any:
        one = getattr(rivals, name)
        return one and dataclasses.replace(one, folder=str(registry.fetch(one.ref)))

    return dataclasses.replace(rivals, champion=fetched("champion"), anchor=fetched("anchor"))


@contextmanager
def scratch_home(subject: Subject) -> Iterator[None]:
    """In this block the settings are those of an empty home, which borrows the ingested tables and shows no pages."""
    with borrowing_home(subject.scratch, subject.ingested), without_pages():
        yield


# --- building it again --------------------------------------------------------------------------------


def rebuild(subject: Subject) -> Made:
    """Everything from the feature tables to the verdict, until the end or until a stage refuses: that is a result."""
    made = Made()
    with suppress_refusal(made), step("replay", f"{subject.run.project} v{subject.model.version}") as line:
        _rebuild_data(subject, made)
        _rebuild_model(subject, made)
        line.note("built again from its lineage and its recipe")
    return made


@contextmanager
def suppress_refusal(made: Made) -> Iterator[None]:
    try:
        yield
    except PerennialError as error:
        made.stopped = str(error)


def _rebuild_data(subject: Subject, made: Made) -> None:
    run, sections = subject.run, subject.run.recipe
    services = tuple(dict.fromkeys(one.service for one in (sections.features, *subject.rivals.features)))
    made.tables = build_features(run.project, services, subject.ingested, run.as_of)
    made.training_set = build_training_set(
        run.project, run.entity_table, sections.features, sections.label, sections.split, sections.audit,
        run.start, run.as_of, (*subject.ingested, *made.tables), subject.rivals.features,
    )  # fmt: skip


def _rebuild_model(subject: Subject, made: Made) -> None:
    run, sections, rows = subject.run, subject.run.recipe, made.training_set
    assert rows is not None
    arguments = (run.folder, rows, sections.model, sections.seed)
    beside = fit_baseline.submit(run.project, rows, sections.baseline)
    try:
        made.judged = fit_under(*arguments, warm_start=subject.warm_start)
    finally:
        beside.wait()
    beside.result()
    with step("evaluate", run.project) as line:
        made.evaluation = _evaluate(subject, rows, made.judged)
        line.note(made.evaluation.verdict.outcome)
    made.served, final = made.judged, made.evaluation
    if wants_refit(run, made.evaluation) or subject.lineage.served != subject.lineage.judged:
        made.served = fit_under(*arguments, steps=made.judged.best_step, warm_start=subject.warm_start)
    if wants_refit(run, made.evaluation):
        made.served, final = check_refit(run, rows, made.judged, made.served, made.evaluation)
    made.verdict = final.verdict


def _evaluate(subject: Subject, rows: TrainingSetRef, judged: FitResult) -> Evaluation:
    rivals, sections = subject.rivals, subject.run.recipe
    contenders = [trace_challenger(subject.run, judged), rivals.champion, rivals.anchor]
    return evaluate_contenders(
        subject.run.project, subject.run.folder, sections.gate, sections.baseline, rows,
        [one for one in contenders if one is not None], rivals.attempts,
    )  # fmt: skip


# --- then and now -------------------------------------------------------------------------------------


def compare(subject: Subject, made: Made) -> ReplayReport:
    """Every line, while the home of the replay is still there."""
    then, now = _facts_then(subject), _facts_now(subject, made)
    was, metrics = subject.lineage.metrics, replay.flat_metrics(made.evaluation) if made.evaluation else {}
    return ReplayReport(
        project=subject.run.project,
        version=subject.model.version,
        decision_id=subject.lineage.decision_id,
        as_of=subject.run.as_of,
        lines=replay.compare(then, now),
        changed_metrics=replay.changed_metrics(was, metrics) if made.evaluation else (),
        stopped=made.stopped,
    )


def _facts_then(subject: Subject) -> replay.Facts:
    told, procedure = subject.lineage, subject.verdict.evidence.get("procedure", {})
    given = replay.given_facts(
        told.code, procedure.get("code", "none"), told.judged.device, told.recipe_digest, told.seed
    )
    read = {ref.name: ref.digest for ref in subject.ingested}
    built = {
        ref.name: subject.lake.content(ref.name, ref.version, subject.run.as_of)
        for ref in told.tables
        if ref.name not in read
    }
    return {
        **given,
        **replay.table_facts("lake", read),
        **replay.table_facts("definition", told.feature_files),
        **replay.table_facts("feature table", built),
        **replay.training_set_facts(told.training_set),
        **replay.made_facts(told.judged.weights_sha256, told.metrics, told.served.weights_sha256, subject.verdict),
    }


def _facts_now(subject: Subject, made: Made) -> replay.Facts:
    run, lake = subject.run, open_lake(subject.run.project)
    code = trace_procedure(run.recipe, "")["code"]
    device = made.judged.device if made.judged else replay.NOT_MADE
    # Not what the lake's log says of a version, but what its files hold.
    read = {ref.name: lake.content(ref.name, ref.version) for ref in subject.ingested}
    built = {ref.name: lake.content(ref.name, ref.version, run.as_of) for ref in made.tables}
    facts = {
        **replay.given_facts(code_version(), code, device, run.recipe.digest, run.recipe.seed),
        **replay.table_facts("lake", read),
        **replay.table_facts("definition", feature_files(run.project)),
        **replay.table_facts("feature table", built),
    }
    if made.training_set:
        facts |= replay.training_set_facts(made.training_set)
    return facts | replay.made_facts(
        made.judged and made.judged.weights_sha256,
        made.evaluation and replay.flat_metrics(made.evaluation),
        made.served and made.served.weights_sha256,
        made.verdict,
    )


def tell(subject: Subject, report: ReplayReport) -> ReplayReport:
    """Keep the report in the home of the version, and show it: in the log, and as a page of the Prefect run."""
    path = subject.folder / f"v{report.version}.json"
    report.write(path)
    markdown_artifact(f"replay-{report.project}", replay.write_page(report), f"version {report.version}, replayed")
    logger.info(replay.write_table(report))
    for text in (*report.changed_metrics[:10], *([report.stopped] if report.stopped else [])):
        logger.info("  %s", text)
    logger.info("%-10s %-22s %s", "replayed", f"{report.project} v{report.version}", report.told)
    return report
