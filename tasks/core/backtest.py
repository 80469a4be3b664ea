"""Backtest: what a retraining policy would have done in a span of the past, as a simulation over a world that answers.

A policy is a wish for a retrain, put to the governor like an event from outside, so that halts hold for every one of
them; the recipe's own is the governor with the recipe's limits. What a window looked like and what a retrain gave are
asked of a `World`: on disk the kept scores of real fits, in tests made-up ones.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, Protocol

from tasks.core.governor import Decision, Observation, Policy, Retrain, govern, has_lost, recent_windows
from tasks.core.records import FitResult, Interval, Record, Window

MAX_PSI = 0.2  # of any input. Source: the rule in common use, Siddiqi, Credit Risk Scorecards (2006)
NEVER = "never"
UNREACHED = 1_000_000  # windows, or retrains: a limit that is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Incumbent(Record):
    """A model that serves, or did: the rows until `made_at` count as seen by it."""

    name: str
    made_at: datetime
    fit: FitResult
    judged: FitResult  # what the verdict was over; its scores say what the served model is worth
    judged_from: datetime  # the first of the rows that it was judged on
    promise: dict[str, Interval]  # metric -> what it showed there


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(Record):
    """One retrain: the fit, the verdict, and with a pass what is served from then on."""

    outcome: Literal["promote", "reject", "undecided"]
    reasons: tuple[str, ...]
    is_superior: bool
    seconds: float  # of its fits, as one policy alone would have spent them
    made: Incumbent | None  # None: the champion stays


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen(Record):
    """One monitored window of one champion."""

    observation: Observation
    psi: float  # the largest of any input, against the rows that the champion was fitted on
    psi_column: str
    quantiles: dict[str, tuple[float, ...]]
    seconds: float = 0.0  # of the probe, if there was one


class World(Protocol):
    """Answers what would have been seen and made; the same question has the same answer."""

    def train(
        self, as_of: datetime, champion: Incumbent | None, anchor: Incumbent | None, *, is_gated: bool
    ) -> Trial: ...

    def observe(self, champion: Incumbent, window: Window, before: Sequence[Seen], *, is_probed: bool) -> Seen: ...

    def did_harm(self, champion: Incumbent, displaced: Incumbent, as_of: datetime) -> bool | None:
        """Whether the rows since a promotion show the model before it to be better; None until enough have matured."""


@dataclass(frozen=True, slots=True)
class Rule:
    """When to retrain: `wants` asks for it as an event does, within the limits of `policy`."""

    name: str
    policy: Policy
    wants: Callable[[Sequence[Seen], Sequence[Retrain]], bool] = lambda seen, retrains: False
    is_probed: bool = False  # whether it looks at the probe, which costs a fit of trees


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Record):
    """One window: who served it, what was decided at its end, and what came of a retrain."""

    window: Window
    model: str
    decision: Decision
    trial: Trial | None = None
    taken_off: str | None = None  # a model that gave its place back at the end of the window


@dataclass(frozen=True, slots=True, kw_only=True)
class Path(Record):
    """What one policy did in the span."""

    rule: str
    is_gated: bool
    steps: tuple[Step, ...]
    models: dict[str, Incumbent]
    seconds: float

    @property
    def name(self) -> str:
        if self.rule == NEVER:
            return self.rule  # a gate has nothing to judge
        return f"{self.rule}, {'gate' if self.is_gated else 'no gate'}"

    @property
    def trials(self) -> list[Trial]:
        return [step.trial for step in self.steps if step.trial is not None]

    def count(self, outcome: str) -> int:
        return sum(trial.outcome == outcome for trial in self.trials)

    @property
    def halts(self) -> int:
        return sum(step.decision.action == "halt" for step in self.steps)


def make_rules(own: Policy, every: timedelta) -> tuple[Rule, ...]:
    """Never, every N, PSI, K of N windows on quality, and the recipe's own.

    The two in the middle keep the recipe's cool-down: without one, a column that moved for good asks each window.
    """
    free = Policy(
        lost_windows=UNREACHED, of_windows=UNREACHED, cooldown=timedelta(0), min_new_labels=0, budget=UNREACHED,
        budget_period=timedelta(days=1),
    )  # fmt: skip
    cooled, regular = replace(free, cooldown=own.cooldown), replace(free, refresh_every=every)
    lost = f"{own.lost_windows} of {own.of_windows} windows on quality"

    def has_moved(seen: Sequence[Seen], retrains: Sequence[Retrain]) -> bool:
        return seen[-1].psi > MAX_PSI

    def has_lost_windows(seen: Sequence[Seen], retrains: Sequence[Retrain]) -> bool:
        return has_lost(recent_windows([one.observation for one in seen], retrains, own), own)

    return (
        Rule(NEVER, free),
        Rule(f"every {every / timedelta(days=1):g} days", regular),
        Rule(f"PSI > {MAX_PSI:g}", cooled, has_moved),
        Rule(lost, cooled, has_lost_windows),
        Rule("the recipe's own", own, is_probed=True),
    )


def moments_of(span: Window, step: timedelta) -> list[datetime]:
    """From the start in steps to the end; a rest shorter than a step belongs to the last."""
    count = max(1, (span.end - span.start) // step)
    return [*(span.start + number * step for number in range(count)), span.end]


def simulate(
    rule: Rule,
    world: World,
    moments: Sequence[datetime],
    *,
    is_gated: bool,
    progress: Callable[[int, Incumbent], None] = lambda number, champion: None,
) -> Path:
    """Play the windows between the moments. A model that is made at a moment serves from it on.

    The first champion is the same for all: made at the first moment, whatever the gate says of it, because every policy
    has to begin with something. At the last moment nothing is trained: no row would be served by it.
    """
    made = world.train(moments[0], None, None, is_gated=False).made
    assert made is not None
    champion = anchor = made
    displaced: Incumbent | None = None
    models, retrains = {made.name: made}, [Retrain(as_of=moments[0], cause="first")]
    seen: list[Seen] = []
    steps: list[Step] = []
    for number, (start, end) in enumerate(itertools.pairwise(moments)):
        progress(number, champion)
        window, served, trial, taken_off = Window(start=start, end=end), champion, None, None
        seen.append(world.observe(champion, window, seen, is_probed=rule.is_probed))
        harm = world.did_harm(champion, displaced, end) if is_gated and displaced is not None else None
        if harm is not None and displaced is not None:
            champion, taken_off = (displaced, champion.name) if harm else (champion, None)
            anchor, displaced = champion if harm else anchor, None
        observations = [one.observation for one in seen]
        decision = govern(observations, retrains, rule.policy, as_of=end, requested=rule.wants(seen, retrains))
        if decision.action == "retrain" and end < moments[-1]:
            retrains.append(Retrain(as_of=end, cause=decision.cause or "event"))
            trial = world.train(end, champion, anchor, is_gated=is_gated)
            if trial.made is not None:
                champion, displaced = trial.made, champion
                models[champion.name] = champion
                anchor = champion if trial.is_superior else anchor
        steps.append(Step(window=window, model=served.name, decision=decision, trial=trial, taken_off=taken_off))
    seconds = sum(step.trial.seconds for step in steps if step.trial is not None) + sum(one.seconds for one in seen)
    return Path(rule=rule.name, is_gated=is_gated, steps=tuple(steps), models=models, seconds=seconds)
