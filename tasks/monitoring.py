"""Monitor: what a champion's window was like. Inputs and scores, tables, quality; one record, written once."""

from datetime import datetime
from typing import TYPE_CHECKING

from prefect import task

from configs.settings import load_settings
from tasks import home, joins, matured, scoring
from tasks.account import Step, step
from tasks.core import ledger as history
from tasks.core.errors import PerennialError
from tasks.core.records import Contender, TableRef, Window
from tasks.evaluation import registered_contender
from tasks.lineage import feature_files
from tasks.monitor_drift import count_inputs, count_scores, drift_of
from tasks.monitor_quality import observe_effect, observe_quality
from tasks.monitor_subject import Subject
from tasks.probing import Probed, run_probe
from tasks.references import champion_reference
from tasks.refusals import open_refusals
from tasks.run import Run
from tasks.table_health import judge_tables

if TYPE_CHECKING:
    from tasks.core.observation import MonitorReport
    from tasks.stores.outbox import Journal

MAX_SHAPES = 12  # columns whose histograms are kept for the page


def reports(project: str) -> "Journal":
    from tasks.stores.outbox import Journal

    return Journal(load_settings().folder("monitor", project))


def past_reports(project: str, as_of: datetime) -> list["MonitorReport"]:
    """What monitors saw until `as_of`, in order."""
    from tasks.core.observation import MonitorReport

    return [report for report in reports(project).read(MonitorReport) if report.as_of <= as_of]


def stamp(moment: datetime) -> str:
    """A moment as a name that sorts in order of time."""
    return f"{moment:%Y%m%dT%H%M%S}Z"


def find_previous(project: str, champion: Contender | None) -> Contender | None:
    """The champion before this one, while it is registered. None where another one was promoted meanwhile."""
    registry, entries = home.open_registry(project), home.open_ledger(project).entries()
    number = history.previous(entries)
    is_champion = (
        champion is not None and champion.ref is not None and champion.ref.version == history.champion(entries)
    )
    if not is_champion or number is None or not registry.has_version(number):
        return None
    return registered_contender(registry, "anchor", registry.version(number))


@task(task_run_name="score previous")
def score_previous(run: Run, champion: Contender, previous: Contender, tables: tuple[TableRef, ...]) -> None:
    """Score with the champion before this one, on the rows that will tell whether the change helped."""
    found = scoring.unscored_window(run.project, previous, run.as_of)
    wanted = matured.effect_window(run.recipe.monitor, champion.as_of)
    window = Window(start=max(found.start, wanted.start), end=min(run.as_of, wanted.end))
    if window.start < window.end and previous.ref is not None:
        scoring.score_window.fn(run.project, previous.ref, window, run.as_of, tables)


@task(task_run_name="observe window")
def observe_window(
    run: Run, champion: Contender, previous: Contender | None, tables: tuple[TableRef, ...]
) -> "MonitorReport | None":
    """Look at the window since the last monitor, and keep what was seen. What was seen before is not looked at again.

    None where no time has passed since the champion was made.

    Raises:
        PerennialError: a later moment was monitored before.
    """
    from tasks.core.observation import monitored_window

    seen = past_reports(run.project, datetime.max.replace(tzinfo=run.as_of.tzinfo))
    if seen and seen[-1].as_of > run.as_of:
        raise PerennialError(
            f"{run.project!r} was monitored at a later moment", got=run.as_of.isoformat(),
            expected=f"{seen[-1].as_of.isoformat()} or later", fix="choose a later as_of",
        )  # fmt: skip
    if seen and seen[-1].as_of == run.as_of:
        return seen[-1]
    window = monitored_window(champion.as_of, seen[-1].as_of if seen else None, run.as_of)
    if window.start == window.end or champion.ref is None:
        return None
    reference = champion_reference(run.project, champion.ref)
    own = joins.read_model_rows(run.project, champion.ref)
    subject = Subject(run, champion.ref, champion.as_of, own, reference, window, seen, tables)
    with step("monitor", f"{run.project} v{champion.ref.version}") as line:
        report = _observe(subject, previous, line)
    return reports(run.project).add(stamp(run.as_of), report)


def _observe(subject: Subject, previous: Contender | None, line: Step) -> "MonitorReport":
    from tasks.core import observation
    from tasks.core.drift import ColumnDrift
    from tasks.core.reference import PREDICTION

    run, window, monitor = subject.run, subject.window, subject.run.recipe.monitor
    line.progress("inputs and scores")
    inputs, predicted = count_inputs(subject), count_scores(subject)
    columns: tuple[ColumnDrift, ...] = drift_of(subject, inputs, predicted)
    line.progress("tables")
    ingested = [subject.table(name) for name in run.recipe.tables]
    tables = judge_tables(run.project, ingested, window, monitor)
    whole = [report.quantiles for report in subject.before if report.is_whole]
    refused = {refusal.table: refusal.told for refusal in open_refusals(run.project, run.as_of)}
    faults = [
        *observation.definition_faults(subject.reference.feature_files, feature_files(run.project)),
        *refused.values(),
        # That a table which is refused has no new rows needs no saying.
        *(fault for table in tables if table.table not in refused for fault in table.faults),
        *observation.unpredicted_faults(inputs.rows, predicted.rows, max_unpredicted=monitor.max_unpredicted_fraction),
        *observation.input_faults(
            [drift for drift in columns if drift.column != PREDICTION], subject.reference.columns, inputs.quantiles,
            whole, max_null_increase=monitor.max_null_increase,
        ),
    ]  # fmt: skip
    line.progress("quality")
    quality, matured_labels = observe_quality(subject)
    probed = _probe(subject) if quality is not None and not faults else Probed(None, ())
    shown = [drift.column for drift in observation.by_drift(columns)][:MAX_SHAPES]
    counts = {**inputs.counts, **predicted.counts}
    line.note(f"{inputs.rows:,} rows")
    line.note(f"{sum(drift.is_drifted for drift in columns)} of {len(columns)} columns drifted")
    line.note("the data is whole" if not faults else f"{len(faults)} faults")
    return observation.MonitorReport(
        project=run.project, version=subject.model.version, window=window, as_of=run.as_of, rows=inputs.rows,
        predicted_rows=predicted.rows, columns=columns, tables=tables, quality=quality,
        effect=observe_effect(subject, previous), quantiles=inputs.quantiles,
        shapes={name: tuple(counts[name].tolist()) for name in shown if name in counts},
        observation=observation.observe(
            window, faults=[*faults, *probed.faults], columns=columns, quality=quality, probe=probed.probe,
            matured_labels=matured_labels,
        ),
    )  # fmt: skip


def _probe(subject: Subject) -> Probed:
    run = subject.run
    return run_probe(
        run.project, subject.model, subject.own, run.recipe.monitor, run.recipe.gate, subject.made_at,
        subject.window.start, run.as_of, subject.tables,
    )  # fmt: skip
