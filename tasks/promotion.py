"""Promote: register what was judged, and let the ledger say who is champion.

The ledger is the truth; MLflow's aliases are last-writer-wins and are put back to what it says at every start.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task

from tasks.account import step
from tasks.core import ledger as history
from tasks.core.errors import ModelError, PromotionError
from tasks.core.records import Evaluation, FitResult, LedgerEntry, ModelRef, TrainingSetRef
from tasks.events import announce
from tasks.home import open_ledger, open_registry
from tasks.run import Run

if TYPE_CHECKING:
    from tasks.stores.ledger import Ledger
    from tasks.stores.registry import Registry

ROOT = Path(__file__).parents[1]
EVALUATION = "final_evaluation.json"  # of a decision, among the records of its steps
EXAMPLE_ROWS = 256  # how many rows a model must predict as served before it is registered
LIBRARIES = ("torch", "lightning", "numpy", "pyarrow", "duckdb", "feast", "mlflow")


@contextmanager
def promoting(project: str, decision_id: str, wait_seconds: float = 0) -> Iterator[None]:
    """Hold the project's promotion for a whole run, so that a second one is refused before it has trained.

    Raises:
        PromotionError: another run holds it; the error names which.
    """
    with open_ledger(project).lock(decision_id, wait_seconds):
        yield


# --- what has been decided ------------------------------------------------------------------------


@task(task_run_name="past decision")
def past_decision(project: str, decision_id: str) -> LedgerEntry | None:
    """How this decision ended, if it has been made: it is then shown, not made again."""
    return history.decided(_recover(project), decision_id)


@task(task_run_name="current champion")
def current_champion(project: str, as_of: datetime | None = None) -> ModelRef | None:
    """The champion by the ledger; None before the first promotion. Ends what a kill cut off and repairs the aliases.

    Raises:
        PromotionError: `as_of` lies before the champion's own.
    """
    entries = _recover(project)
    if as_of is not None:
        _check_moment(entries, project, as_of)
    version = history.champion(entries)
    return None if version is None else open_registry(project).version(version)


def _recover(project: str) -> tuple[LedgerEntry, ...]:
    from tasks.stores.ledger import LockHeldError

    ledger, registry = open_ledger(project), open_registry(project)
    registry.reap()
    entries = ledger.entries()
    if history.unfinished(entries) is None and not _alias_changes(registry, entries):
        return entries
    try:
        with ledger.writing("recovery", wait_seconds=0):
            return settle(ledger, registry)
    except LockHeldError:
        # Someone is writing at this moment, so nothing is broken; until they are done the old champion stands.
        return entries


def settle(ledger: "Ledger", registry: "Registry") -> tuple[LedgerEntry, ...]:
    """End an intent that was cut off, then make the aliases what the ledger says. Needs `Ledger.writing`."""
    entries = ledger.entries()
    if (intent := history.unfinished(entries)) is not None:
        entries = (*entries, _end_intent(ledger, registry, entries, intent))
    _write_aliases(registry, entries)
    return entries


def _end_intent(
    ledger: "Ledger", registry: "Registry", entries: Sequence[LedgerEntry], intent: LedgerEntry
) -> LedgerEntry:
    """An intent was decided in full, so it is carried out; only a version that is gone cannot become champion."""
    ended = history.follow(entries, intent, kind=intent.intends, at=datetime.now(UTC))
    try:
        registry.version(ended.champion or 0)
    except ModelError as error:
        reasons = (*intent.reasons, f"abandoned: {error.what}")
        return ledger.append(history.follow(entries, intent, kind="abandoned", reasons=reasons, at=datetime.now(UTC)))
    _write_aliases(registry, (*entries, ended))
    announce(registry.project, ledger.append(ended))
    return ended


def _alias_changes(registry: "Registry", entries: Sequence[LedgerEntry]) -> dict[str, int | None]:
    """Alias -> the version it has to be set to, or None where it has to go. Aliases of people's own stay."""
    found, wanted = registry.aliases(), history.aliases(entries)
    return {alias: wanted.get(alias) for alias in history.ALIASES if found.get(alias) != wanted.get(alias)}


def _write_aliases(registry: "Registry", entries: Sequence[LedgerEntry]) -> None:
    for alias, version in _alias_changes(registry, entries).items():
        if version is None:
            registry.delete_alias(alias)
        elif alias == "champion" or registry.has_version(version):
            # A champion that someone deleted is an error; that of another alias may be deleted, to make room.
            registry.set_alias(alias, version)


def _check_moment(entries: Sequence[LedgerEntry], project: str, as_of: datetime) -> None:
    moment = history.champion_as_of(entries)
    if moment is not None and as_of < moment:
        raise PromotionError(
            f"as_of is before the champion of {project!r} was made",
            got=as_of.isoformat(),
            expected=f"{moment.isoformat()} or later: version {history.champion(entries)} has seen the rows until then",
            fix="choose a later as_of, or use another PERENNIAL_HOME to play the past again",
        )


# --- promoting ------------------------------------------------------------------------------------


@task(task_run_name="promote")
def promote(
    run: Run,
    challenger: ModelRef,
    judged_against: ModelRef | None,
    training_set: TrainingSetRef,
    judged: FitResult,
    served: FitResult,
    evaluation: Evaluation,
) -> LedgerEntry:
    """Write the verdict into the ledger and, if it says so, make the challenger champion and keep the old as previous.

    Where the recipe asks for approval, a challenger that passes waits. A decision that the ledger knows is returned as
    it stands there.

    Raises:
        PromotionError: the champion is no longer the one it was judged against, or was made after `as_of`; another
            run of the project is promoting.
    """
    verdict = evaluation.verdict
    passed = "waiting" if run.recipe.gate.approval == "person" else "intent"
    entry = LedgerEntry(
        number=0,
        kind={"promote": passed, "reject": "rejected", "undecided": "undecided"}[verdict.outcome],
        decision_id=run.decision_id,
        as_of=run.as_of,
        version=challenger.version,
        champion=None,
        previous=None,
        reasons=verdict.reasons,
        digests={
            "training_set": training_set.digest,
            "judged_weights": judged.weights_sha256,
            "promoted_weights": served.weights_sha256,
            "recipe": run.recipe.digest,
        },
        at=datetime.now(UTC),
        mode=verdict.mode,
        is_superior=any(c.role == "primary" and c.outcome == "superior" for c in verdict.comparisons),
    )
    with step("promote", run.project) as line:
        # Before the ledger says it: what is decided is never taken up again, so a kill may leave nothing to be done.
        evaluation.write(run.folder / EVALUATION)
        open_registry(run.project).finish(challenger.run_id)
        written = record_outcome(run.project, entry, judged_against.version if judged_against else None)
        champion = f"version {written.champion} is champion" if written.champion else "there is no champion yet"
        line.note(f"version {written.version} {written.kind} · {champion}")
    return written


def record_outcome(project: str, entry: LedgerEntry, judged_against: int | None) -> LedgerEntry:
    """Append what was decided, under the lock: an intent is carried out before this returns.

    A decision is made once; one that waits is ended by an entry that names who.
    """
    ledger, registry = open_ledger(project), open_registry(project)
    with ledger.writing(entry.decision_id):
        entries = settle(ledger, registry)
        done = history.decided(entries, entry.decision_id)
        if done is not None and not (done.kind == "waiting" and entry.who):
            return done
        if not entry.who or entry.kind == "intent":  # a person may reject whatever has happened since
            _check_moment(entries, project, entry.as_of)
            _check_champion(entries, project, judged_against)
        written = ledger.append(history.follow(entries, _unless_barred(entries, entry)))
        announce(project, written)
        return settle(ledger, registry)[-1]


def _unless_barred(entries: Sequence[LedgerEntry], entry: LedgerEntry) -> LedgerEntry:
    """A model that was rolled back does not come back by itself, whatever the gate says of it."""
    barring = history.bar(entries, entry) if entry.kind in ("intent", "waiting") else None
    if barring is None:
        return entry
    told = f"rejected: these weights are those of version {barring.version}, {history.told(barring)}"
    return replace(entry, kind="rejected", reasons=(*entry.reasons, told))


def _check_champion(entries: Sequence[LedgerEntry], project: str, judged_against: int | None) -> None:
    if (champion := history.champion(entries)) != judged_against:
        raise PromotionError(
            f"the champion of {project!r} changed while the challenger was being judged",
            got="no champion" if champion is None else f"version {champion}",
            expected="no champion"
            if judged_against is None
            else f"version {judged_against}, which it was judged against",
            fix="run again: the challenger is then judged against the champion that is there now",
        )
