"""The governor: a pure function from what was seen to what should be done, with its reasons.

Three things look alike from afar and call for opposite answers: broken data (never retrain on it), inputs that moved
without harm (say so, wait), and a world from which a newer model would have learned. A cheap probe, the same trees on
the rows of then and of now, tells the last from a world in which nobody could predict, and from labels that are wrong.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from tasks.core.records import Interval, Record, Window

Cause = Literal["quality", "refresh", "event"]
LOSS = "loss of quality"  # among worries, beside the names of columns
MAX_NAMES = 5  # of drifted columns in a reason, the furthest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(Record):
    """When to retrain. Every span is counted in `as_of` time."""

    lost_windows: int  # K: a loss in so many of the last N windows, the latest among them, is worth an alert
    of_windows: int  # N
    cooldown: timedelta  # after a retrain, whatever came of it
    min_new_labels: int  # matured since the last retrain
    budget: int  # retrains, at most,
    budget_period: timedelta  # in any span of this length
    refresh_every: timedelta | None = None  # retrain after this long without one; None: never for age alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe(Record):
    """Cheap trees on the newest matured rows; higher is better.

    `no_skill` is the primary metric of a forecast that knows nothing, .5 for AUC.
    """

    score: Interval  # of trees that were fitted on rows until now
    champion: Interval
    gain: Interval  # of them over trees that were fitted on rows until the champion was made, paired
    no_skill: float
    is_worth_it: bool = False  # the gain is shown to be above the gate's margin


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation(Record):
    """What one monitor run saw."""

    window: Window
    as_of: datetime
    faults: tuple[str, ...] = ()  # why the data is broken; empty when it is whole
    drifted: tuple[str, ...] = ()  # columns, and `prediction`
    quality: Interval | None = None  # the champion on matured rows, where it shows a loss; None before there are any
    promised: float | None = None  # what it showed when it was promoted
    is_quality_lost: bool = False
    probe: Probe | None = None
    matured_labels: int = 0  # matured in this window


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrain(Record):
    """One retrain that was started, whatever came of it."""

    as_of: datetime
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Record):
    """What to do now. `cause` is set when the action is retrain.

    An alert says something new once; while it goes on and nothing is new, the action is wait. `open_since` tells since
    when a halt, or a worry that was an alert, has been going on.
    """

    action: Literal["retrain", "wait", "alert", "halt"]
    reasons: tuple[str, ...]
    as_of: datetime
    cause: Cause | None = None
    open_since: datetime | None = None


def govern(
    observations: Sequence[Observation],
    retrains: Sequence[Retrain],
    policy: Policy,
    *,
    as_of: datetime,
    requested: bool = False,
    cleared_at: datetime | None = None,
    unfinished: str | None = None,
) -> Decision:
    """Decide at `as_of`. `requested`: an event from outside asks for a retrain. `cleared_at`: a person ended a halt.
    `unfinished` tells of a retrain that was decided before and has not ended.

    Observations and retrains are in order of `as_of`; those after `as_of` do not count.
    """
    seen = [o for o in observations if o.as_of <= as_of]
    done = [r for r in retrains if r.as_of <= as_of]
    if faults := _halting(seen[-1] if seen else None, cleared_at):
        since = _first([bool(_halting(o, cleared_at)) for o in seen], seen)
        return Decision(action="halt", reasons=faults, as_of=as_of, open_since=since)
    cause, wishes = _wish(seen, done, policy, as_of, requested)
    if cause is None:
        return _alert(seen, done, policy, wishes, as_of)
    obstacles = _obstacles(seen, done, policy, as_of)
    if unfinished is not None:
        obstacles = (unfinished, *obstacles)
    if obstacles:
        return Decision(action="wait", reasons=(*wishes, *obstacles), as_of=as_of)
    return Decision(action="retrain", reasons=wishes, as_of=as_of, cause=cause)


def _alert(
    seen: Sequence[Observation], done: Sequence[Retrain], policy: Policy, wishes: tuple[str, ...], as_of: datetime
) -> Decision:
    """Tell what is new of what a person should know; what goes on as before is told, and is no other alert."""
    mine = since_retrain(seen, done)
    worries = [_worries(mine[: place + 1], policy) for place in range(len(mine))]
    if not worries or not worries[-1]:
        return Decision(action="wait", reasons=wishes, as_of=as_of)
    began = _first([bool(each) for each in worries], mine)
    known = {worry for each, o in zip(worries[:-1], mine, strict=False) if o.as_of >= began for worry in each}
    told = (*(wishes if mine[-1].is_quality_lost else ()), *_notes(mine[-1], worries[-1], known))
    is_new = not worries[-1] <= known
    return Decision(action="alert" if is_new else "wait", reasons=told, as_of=as_of, open_since=began)


def _first(holds: Sequence[bool], seen: Sequence[Observation]) -> datetime:
    """When the unbroken run that reaches the last window began."""
    run = len(list(itertools.takewhile(bool, reversed(holds))))
    return seen[-run].as_of


def _halting(latest: Observation | None, cleared_at: datetime | None) -> tuple[str, ...]:
    """Why nothing may be retrained on the latest data; a healthy window or a later word of a person ends it."""
    if latest is None or (cleared_at is not None and cleared_at >= latest.as_of):
        return ()
    if latest.faults:
        return latest.faults
    probe = latest.probe
    if latest.is_quality_lost and probe is not None and probe.score.low <= probe.no_skill:
        kind = "an inverted signal" if probe.score.high < probe.no_skill else "no signal"
        return (f"label fault: a fresh probe finds {kind} in the newest labels ({_span(probe.score)})",)
    return ()


def _wish(
    seen: Sequence[Observation], done: Sequence[Retrain], policy: Policy, as_of: datetime, requested: bool
) -> tuple[Cause | None, tuple[str, ...]]:
    """What asks for a retrain, strongest first; or None, and why nothing does."""
    recent = recent_windows(seen, done, policy)
    probe = recent[-1].probe if recent else None
    if probe is not None and probe.is_worth_it:
        return "quality", (
            *((_loss(recent),) if recent[-1].is_quality_lost else ()),
            f"a probe that knows the rows since the champion was made is better by {_span(probe.gain)}",
        )
    last = done[-1].as_of if done else None
    if policy.refresh_every is not None and last is not None and as_of - last >= policy.refresh_every:
        return "refresh", (
            f"the last retrain was {_days(as_of - last)} ago, a refresh is due every {_days(policy.refresh_every)}",
        )
    if requested:
        return "event", ("an event from outside asks for a retrain",)
    if recent and recent[-1].is_quality_lost:
        wanted = f"{policy.lost_windows} of {policy.of_windows} are needed for an alert"
        return None, (_loss(recent) + ("" if has_lost(recent, policy) else f": {wanted}"),)
    return None, ("nothing asks for a retrain",)


def since_retrain(seen: Sequence[Observation], done: Sequence[Retrain]) -> Sequence[Observation]:
    """Windows of the champion as it is: what was seen before the last retrain has been answered."""
    return [o for o in seen if not done or o.as_of > done[-1].as_of]


def recent_windows(seen: Sequence[Observation], done: Sequence[Retrain], policy: Policy) -> Sequence[Observation]:
    """The last N of them."""
    return since_retrain(seen, done)[-policy.of_windows :]


def has_lost(recent: Sequence[Observation], policy: Policy) -> bool:
    """Whether enough of the last N windows lost quality, the latest among them: a single one may be chance."""
    lost = [o.is_quality_lost for o in recent]
    return any(lost[-1:]) and sum(lost) >= policy.lost_windows


def _loss(recent: Sequence[Observation]) -> str:
    """`recent` ends with a window that lost quality."""
    latest, lost = recent[-1], sum(o.is_quality_lost for o in recent)
    told = f"quality is below its promise in {lost} of the last {len(recent)} windows"
    if latest.quality is None or latest.promised is None:
        return told
    return f"{told} ({latest.quality.value:.3f} now, {latest.promised:.3f} promised)"


def _worries(seen: Sequence[Observation], policy: Policy) -> set[str]:
    """What a person should know of the latest window although nothing is to be done: what drifted, and LOSS."""
    latest = seen[-1]
    is_helpless = latest.probe is None or not latest.probe.is_worth_it
    return {
        *map(_source, latest.drifted),
        *([LOSS] if is_helpless and has_lost(seen[-policy.of_windows :], policy) else []),
    }


def _notes(latest: Observation, worries: set[str], known: set[str]) -> tuple[str, ...]:
    """The worries in words; `known` are those of the windows before."""
    notes = []
    if LOSS in worries and latest.probe is None:
        notes.append("there are too few matured rows for a probe to tell whether a retrain would mend it")
    elif LOSS in worries and latest.probe is not None:
        found = _span(latest.probe.gain)
        notes.append(f"newer rows are not shown to be worth enough to a probe ({found}): a retrain may not mend it")
    new = [name for name in latest.drifted if _source(name) not in known]
    if latest.drifted:
        before = len(latest.drifted) - len(new)
        others = f", beside {before} that had before" if new and before else ""
        harmless = "" if latest.is_quality_lost else ", without loss of quality"
        notes.append(f"{_some(new or latest.drifted)} drifted{others or ('' if new else ' as before')}{harmless}")
    return tuple(notes)


def _source(column: str) -> str:
    """The feature view of a column, or the column: that another one of a view drifted as well is no news."""
    return column.partition("__")[0]


def _some(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _obstacles(
    seen: Sequence[Observation], done: Sequence[Retrain], policy: Policy, as_of: datetime
) -> tuple[str, ...]:
    """Why a retrain that is wanted has to wait."""
    notes = []
    last = done[-1].as_of if done else None
    if last is not None and as_of - last < policy.cooldown:
        notes.append(f"cool-down: the last retrain was {_days(as_of - last)} ago, {_days(policy.cooldown)} must pass")
    labels = sum(o.matured_labels for o in seen if last is None or o.as_of > last)
    if labels < policy.min_new_labels:
        notes.append(f"{labels:,} labels have matured since the last retrain, {policy.min_new_labels:,} are needed")
    spent = sum(as_of - r.as_of < policy.budget_period for r in done)
    if spent >= policy.budget:
        notes.append(f"budget: {spent} of {policy.budget} retrains in {_days(policy.budget_period)} are spent")
    return tuple(notes)


def _span(interval: Interval) -> str:
    return f"{interval.value:.4f}, {interval.low:.4f} to {interval.high:.4f}"


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):.4g} days"
