"""A champion's quality on what has matured of a window, and whether its promotion helped."""

from datetime import datetime
from typing import TYPE_CHECKING

from tasks import matured
from tasks.core.records import Contender, Window
from tasks.monitor_subject import Subject

if TYPE_CHECKING:
    from tasks.core.quality import Effect, Quality


def observe_quality(subject: Subject) -> tuple["Quality | None", int]:
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


def observe_effect(subject: Subject, previous: Contender | None) -> "Effect | None":
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


def _last_cut(subject: Subject) -> datetime:
    """Until when labels had matured at the last monitor."""
    since = subject.window.start - subject.own.label.maturity
    return min(max(since, subject.made_at), subject.matured_until)


def _scored(subject: Subject, window: Window):
    """The champion on the matured rows of a window; None where there are none."""
    if window.start >= window.end:
        return None
    versions, labels = [subject.model.version], subject.table(subject.own.label.table)
    rows = matured.read_matured(subject.run.project, subject.own, versions, window, subject.run.as_of, labels)
    if not rows.num_rows:
        return None
    return matured.scored_models(rows, subject.own, subject.run.recipe.gate, versions, window)[0]
