"""The recipe's own policy beside "every N", over several starts, and beside every schedule there is.

One span is one draw: which spacing happens to hit the right moments is chance. So each policy is played from each of
several first moments, a step apart, by the functions of `flows.backtest` itself. And with a model of each moment, all
schedules with as many retrains as the recipe's own can be looked at: that is what a policy could have had at best.

Run: python -m tests.benchmarks.backtest_starts --recipe flights --start 2013-05-01 --end 2014-01-01 [--starts 9]
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import mean
from typing import Any

import numpy as np
from prefect import flow

from flows import shell
from flows.ingest import ingest
from tasks.backtest_world import ReplayedWorld
from tasks.backtesting import Replayed, join_span, open_arena, open_backtest
from tasks.core.backtest import NEVER, Path, Rule, make_rules, moments_of, simulate
from tasks.core.backtest_results import interval, total
from tasks.core.clusters import Estimate
from tasks.core.metrics import Floats
from tasks.core.records import Interval, Window
from tasks.core.summary import format_interval, text_table
from tasks.deciding import read_policy
from tasks.tables import current_tables

SPACINGS = (28, 35, 42, 49, 56, 63, 70, 77, 84, 112)  # days


@dataclass(frozen=True)
class Played:
    """One rule from one start: the path, and its leads in the windows that can tell."""

    path: Path
    gain: list[Estimate]  # over the first model of that start
    behind: list[Estimate]  # the recipe's own minus this one


def make_all_rules(replayed: Replayed) -> dict[str, Rule]:
    own = read_policy(replayed.run.recipe)
    by_name = {rule.name: rule for days in SPACINGS for rule in make_rules(own, timedelta(days=days))}
    alone = replace(by_name["the recipe's own"], name="the probe alone", policy=replace(own, refresh_every=None))
    kept = [NEVER, *(f"every {days} days" for days in SPACINGS), "the recipe's own"]
    return {name: by_name[name] for name in kept} | {alone.name: alone}


def play_start(
    replayed: Replayed, world: ReplayedWorld, rules: Mapping[str, Rule], moments: Sequence[datetime], is_gated: bool
) -> dict[str, Played]:
    paths = {name: simulate(rule, world, moments, is_gated=is_gated) for name, rule in rules.items()}
    windows = [step.window for step in paths[NEVER].steps]
    models = {name: model for path in paths.values() for name, model in path.models.items()}
    arena = open_arena(replayed, world, windows, models)
    served = {name: [step.model for step in path.steps] for name, path in paths.items()}
    return {
        name: Played(
            path, arena.lead(served[name], served[NEVER]), arena.lead(served["the recipe's own"], served[name])
        )
        for name, path in paths.items()
    }


def average(parts: Sequence[list[Estimate]]) -> Interval:
    """The mean of several totals a window. They share their days, so that their errors are taken to be one error."""
    totals = [total(one) for one in parts]
    counts = [sum(np.isfinite(part.value) for part in one) for one in parts]
    value = mean(found.value / count for found, count in zip(totals, counts, strict=True))
    error = mean(found.standard_error / count for found, count in zip(totals, counts, strict=True))
    return interval(Estimate(value, float(error), min(found.df for found in totals), totals[0].clusters))


# --- every schedule ---------------------------------------------------------------------------------


def values_of_all(replayed: Replayed, world: ReplayedWorld, moments: Sequence[datetime]) -> Floats:
    """(models, windows): what a model of each moment is worth in each window; without windows that cannot tell."""
    made = [world.train(moment, None, None, is_gated=False).made for moment in moments[:-1]]
    models = {one.name: one for one in made if one is not None}
    windows = [Window(start=start, end=end) for start, end in itertools.pairwise(moments)]
    arena = open_arena(replayed, world, windows, models)
    names = list(models)
    values = np.array(
        [[arena.value(name, w) if w >= n else 0.0 for w in range(len(windows))] for n, name in enumerate(names)]
    )
    return np.where(np.isnan(values[0]), 0.0, values)


def gains_of(values: Floats, schedules: np.ndarray, told: int) -> Floats:
    """(schedules,): mean gain over the first model. `schedules` (S, K) are the windows at whose start is retrained."""
    sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
    edges = np.concatenate(
        [np.zeros((len(schedules), 1), int), schedules, np.full((len(schedules), 1), values.shape[1])], axis=1
    )
    worth = sum(sums[edges[:, k], edges[:, k + 1]] - sums[edges[:, k], edges[:, k]] for k in range(edges.shape[1] - 1))
    return np.asarray((worth - sums[0, -1]) / told)


def tell_schedules(values: Floats, path: Path, spaced: Mapping[str, Path], apart: int) -> None:
    """Where the recipe's own stands among all schedules with as many retrains, and those a cool-down would allow."""
    told, windows = int(np.count_nonzero(values[0])), values.shape[1]
    mine = schedule_of(path)
    everything = np.array(list(itertools.combinations(range(1, windows), len(mine))))
    kept = everything[(np.diff(everything, axis=1, prepend=0) >= apart).all(axis=1)]
    own = gains_of(values, np.array([mine]), told)[0]
    for what, schedules in (("all", everything), (f"those at least {apart} windows apart", kept)):
        gains = gains_of(values, schedules, told)
        print(
            f"{len(mine)} retrains, {what}, {len(schedules):,} schedules: best {gains.max():.4f}, median"
            f" {np.median(gains):.4f}; the recipe's own {own:.4f} is ahead of {np.mean(gains < own):.1%}"
        )
        for name, other in spaced.items():
            found = gains_of(values, np.array([schedule_of(other)]), told)[0]
            print(f"  {name}: {found:.4f}, ahead of {np.mean(gains < found):.1%}")


def schedule_of(path: Path) -> list[int]:
    return [number + 1 for number, step in enumerate(path.steps) if step.trial is not None]


# --- all of it --------------------------------------------------------------------------------------


def tell_starts(starts: Sequence[Mapping[str, Played]], title: str) -> None:
    print(f"\n{title}, {len(starts)} starts")
    rows = []
    for name in starts[0]:
        retrains = mean(len(start[name].path.trials) for start in starts)
        cells = [
            format_interval(average([getattr(start[name], what) for start in starts])) for what in ("gain", "behind")
        ]
        rows.append((name, f"{retrains:.1f}", *cells))
    print("\n".join(text_table(("policy", "retrains", "gain a window", "the recipe's own is ahead by"), rows)))


def tell_matched(start: Mapping[str, Played], title: str) -> None:
    """Beside every spacing with exactly as many retrains, none of which could have been known to be the best one."""
    many = len(start["the recipe's own"].path.trials)
    matched = [name for name in start if name.startswith("every") and len(start[name].path.trials) == many]
    if matched:
        found = format_interval(average([start[name].behind for name in matched]))
        print(
            f"{title}: beside {', '.join(matched)}, {many} retrains each, the recipe's own is ahead by {found} a window"
        )


@flow(name="backtest-starts")
def backtest_starts(
    recipe: str,
    as_of: datetime | None = None,
    overrides: dict[str, Any] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    starts: int = 9,
) -> None:
    """Play the policies from each of several starts, and look at every schedule with as many retrains."""
    replayed = open_backtest(recipe, as_of, overrides, start, end, 7.0, 28.0)
    ingest(recipe, as_of=replayed.run.as_of, overrides=overrides)
    tables = current_tables(replayed.run)
    world = ReplayedWorld(replayed.run, join_span(replayed, tables), tables)
    rules, moments = make_all_rules(replayed), moments_of(replayed.span, replayed.step)
    told = {}
    for is_gated, title in ((False, "without the gate"), (True, "with the gate")):
        told[title] = [play_start(replayed, world, rules, moments[n:], is_gated) for n in range(starts)]
    for title, played in told.items():
        tell_starts(played, title)
        tell_starts(played[:1], title)
        tell_matched(played[0], title)
    first = told["without the gate"][0]
    spaced = {name: first[name].path for name in first if name.startswith("every")}
    own = first["the recipe's own"].path
    tell_schedules(
        values_of_all(replayed, world, moments), own,
        {name: path for name, path in spaced.items() if len(path.trials) == len(own.trials)},
        math.ceil(read_policy(replayed.run.recipe).cooldown / replayed.step),
    )  # fmt: skip


def main() -> None:
    shell.main(backtest_starts)


if __name__ == "__main__":
    main()
