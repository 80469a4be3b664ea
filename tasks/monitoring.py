"""Monitor: what a champion's window was like. Inputs and scores, tables, quality; one record, written once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from prefect import task

from configs.settings import load_settings
from tasks import home, joins, matured, scoring
from tasks.account import Step, step
from tasks.core import ledger as history
from tasks.core.errors import PerennialError
from tasks.core.records import Contender, Inputs, ModelRef, TableRef, Window
from tasks.evaluation import registered_contender
from tasks.lineage import feature_files
from tasks.probing import Probed, run_probe
from tasks.references import champion_reference
from tasks.refusals import open_refusals
from tasks.run import Run
from tasks.table_health import judge_tables

if TYPE_CHECKING:
    from tasks.core.drift import ColumnDrift
    from tasks.core.observation import MonitorReport
    from tasks.core.quality import Effect, Quality
    from tasks.core.reference import Reference, WindowCounts
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


@dataclass(frozen=True, slots=True)
class _Subject:
    """One champion in one window, and all that is read of it."""

    run: Run
    model: ModelRef
    made_at: datetime
    own: joins.ModelRows
    reference: "Reference"
    window: Window
    before: Sequence["MonitorReport"]
    tables: tuple[TableRef, ...]

    @property
    def matured_until(self) -> datetime:
        return self.run.as_of - self.own.label.maturity

    def table(self, name: str) -> TableRef:
        return next(table for table in self.tables if table.name == name)


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
    subject = _Subject(run, champion.ref, champion.as_of, own, reference, window, seen, tables)
    with step("monitor", f"{run.project} v{champion.ref.version}") as line:
        report = _observe(subject, previous, line)
    return reports(run.project).add(stamp(run.as_of), report)


def _observe(subject: _Subject, previous: Contender | None, line: Step) -> "MonitorReport":
    from tasks.core import observation
    from tasks.core.drift import ColumnDrift
    from tasks.core.reference import PREDICTION

    run, window, monitor = subject.run, subject.window, subject.run.recipe.monitor
    line.progress("inputs and scores")
    inputs, predicted = _count_inputs(subject), _count_scores(subject)
    columns: tuple[ColumnDrift, ...] = _measure(subject, inputs, predicted)
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
    quality, matured_labels = _quality(subject)
    probed = _probe(subject) if quality is not None and not faults else Probed(None, ())
    shown = [drift.column for drift in observation.by_drift(columns)][:MAX_SHAPES]
    counts = {**inputs.counts, **predicted.counts}
    line.note(f"{inputs.rows:,} rows")
    line.note(f"{sum(drift.is_drifted for drift in columns)} of {len(columns)} columns drifted")
    line.note("the data is whole" if not faults else f"{len(faults)} faults")
    return observation.MonitorReport(
        project=run.project, version=subject.model.version, window=window, as_of=run.as_of, rows=inputs.rows,
        predicted_rows=predicted.rows, columns=columns, tables=tables, quality=quality,
        effect=_effect(subject, previous), quantiles=inputs.quantiles,
        shapes={name: tuple(counts[name].tolist()) for name in shown if name in counts},
        observation=observation.observe(
            window, faults=[*faults, *probed.faults], columns=columns, quality=quality, probe=probed.probe,
            matured_labels=matured_labels,
        ),
    )  # fmt: skip


# --- drift ----------------------------------------------------------------------------------------


def _count_inputs(subject: _Subject) -> "WindowCounts":
    """The inputs of the window's rows, joined anew as they were known at each prediction time, in one pass."""
    from tasks.core.reference import count_window

    run, columns = subject.run, subject.reference.columns
    numeric = tuple(name for name, column in columns.items() if column.binning.kind == "numeric")
    inputs = Inputs(numeric=numeric, categorical=tuple(name for name in columns if name not in numeric))
    with joins.join_model_rows(
        run.project, subject.model, subject.own, subject.window, run.as_of, subject.tables
    ) as joined:
        return count_window(columns, joined.read(inputs, is_sorted=False))  # counts know no order


def _count_scores(subject: _Subject) -> "WindowCounts":
    from tasks.core.reference import PREDICTION, count_window
    from tasks.references import prediction_rows

    log = matured.read_log(subject.run.project, subject.own.table.key, subject.model.version, subject.window)
    scores, classes = matured.log_scores(log)
    times = log["event_timestamp"]
    rows = prediction_rows(times, scores, classes)
    return count_window({PREDICTION: subject.reference.prediction}, rows.to_batches())


def _measure(subject: _Subject, inputs: "WindowCounts", predicted: "WindowCounts") -> tuple["ColumnDrift", ...]:
    """Drift of every input and of the scores. The family's rate of false alarms is shared between the two references,
    which span different days and cannot be resampled together."""
    from tasks.core.observation import days_of
    from tasks.core.reference import PREDICTION, measure_drift

    if not inputs.rows:
        return ()
    days, rate = days_of(subject.window), subject.run.recipe.monitor.false_alarm_rate
    share, columns = 1 / (1 + len(subject.reference.columns)), subject.reference.columns
    drift = measure_drift(columns, inputs.counts, window_days=days, false_alarm_rate=rate * (1 - share))
    if not predicted.rows:
        return drift
    scores = {PREDICTION: subject.reference.prediction}
    return (*drift, *measure_drift(scores, predicted.counts, window_days=days, false_alarm_rate=rate * share))


# --- quality --------------------------------------------------------------------------------------


def _quality(subject: _Subject) -> tuple["Quality | None", int]:
    """Of the trailing window and of what matured since the last monitor; and how many labels did."""
    from tasks.core import quality
    from tasks.core.estimates import estimate_quality

    run, monitor, cut = subject.run, subject.run.recipe.monitor, subject.matured_until
    metric, reference = run.recipe.gate.primary, subject.reference
    if metric not in reference.promise:
        return None, 0
    promised, since = reference.promise[metric], max(subject.made_at, cut - monitor.quality_window)
    rules = {"tolerance": monitor.tolerance, "level": monitor.loss_level}
    found = [
        _scored(subject, window) for window in (Window(start=since, end=cut), Window(start=_last_cut(subject), end=cut))
    ]
    values = [None if model is None else quality.measure(model, metric) for model in found]
    log = matured.read_log(
        run.project,
        subject.own.table.key,
        subject.model.version,
        Window(start=max(cut, subject.made_at), end=run.as_of),
    )
    scores, _ = matured.log_scores(log)
    calibration = reference.calibration
    lost = [model is not None and quality.is_lost(model, metric, promised.value, **rules) for model in found]
    made = quality.Quality(
        metric=metric,
        window=Window(start=min(since, cut), end=cut),
        rows=0 if found[0] is None else len(found[0].rows.label),
        value=values[0],
        newest=values[1],
        promised=promised,
        is_lost=any(lost),
        is_newest_lost=lost[1],
        estimated=None if calibration is None else estimate_quality(metric, calibration, scores),
        estimated_rows=log.num_rows,
    )
    return made, 0 if found[1] is None else len(found[1].rows.label)


def _last_cut(subject: _Subject) -> datetime:
    """Until when labels had matured at the last monitor."""
    since = subject.window.start - subject.own.label.maturity
    return min(max(since, subject.made_at), subject.matured_until)


def _scored(subject: _Subject, window: Window):
    """The champion on the matured rows of a window; None where there are none."""
    if window.start >= window.end:
        return None
    versions, labels = [subject.model.version], subject.table(subject.own.label.table)
    rows = matured.read_matured(subject.run.project, subject.own, versions, window, subject.run.as_of, labels)
    if not rows.num_rows:
        return None
    return matured.scored_models(rows, subject.own, subject.run.recipe.gate, versions, window)[0]


def _probe(subject: _Subject) -> Probed:
    run = subject.run
    return run_probe(
        run.project, subject.model, subject.own, run.recipe.monitor, run.recipe.gate, subject.made_at,
        subject.window.start, run.as_of, subject.tables,
    )  # fmt: skip


def _effect(subject: _Subject, previous: Contender | None) -> "Effect | None":
    """Whether the promotion helped, once enough has matured; the rows from then on say nothing new of it."""
    from tasks.core import quality
    from tasks.core.gate import shown_worse

    run, gate = subject.run, subject.run.recipe.gate
    window = matured.effect_window(run.recipe.monitor, subject.made_at)
    if previous is None or previous.ref is None or subject.matured_until < window.end:
        return None
    versions, labels = [subject.model.version, previous.ref.version], subject.table(subject.own.label.table)
    rows = matured.read_matured(run.project, subject.own, versions, window, run.as_of, labels)
    if not rows.num_rows:
        return None
    models = matured.scored_models(rows, subject.own, gate, versions, window)
    if (found := quality.compare(*models, gate.primary)) is None:
        return None
    return quality.Effect(
        version=versions[0], previous=versions[1], metric=gate.primary, window=window, rows=rows.num_rows,
        difference=found, worse=shown_worse(gate, *models),
    )  # fmt: skip
