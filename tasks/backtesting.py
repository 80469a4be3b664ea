"""Backtest: several retraining policies over one span of the past, and one page that compares them."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from prefect import task

from configs.recipe import load_recipe
from configs.settings import load_settings
from tasks.account import logger, markdown_artifact, step
from tasks.backtest_world import ReplayedWorld
from tasks.core.errors import RecipeError
from tasks.core.records import RowRange, TableRef, TrainingSetRef, Window, digest, write_text_atomically
from tasks.core.splits import row_range
from tasks.deciding import read_policy
from tasks.run import Run, open_run, to_utc
from tasks.training_set import build_training_set

if TYPE_CHECKING:
    import numpy as np

    from tasks.core.backtest import Incumbent, Path
    from tasks.core.backtest_results import Arena, Backtest


@dataclass(frozen=True, slots=True)
class Replayed:
    """The run, which knows all labels of the span, and the span that is played in steps."""

    run: Run
    span: Window
    step: timedelta
    every: timedelta


def open_backtest(
    recipe: str,
    as_of: datetime | None,
    overrides: dict[str, Any] | None,
    start: datetime | None,
    end: datetime | None,
    step_days: float,
    every_days: float,
) -> Replayed:
    """The span: as given, or else the one that the recipe's clock replays.

    Raises:
        RecipeError: no span, one that does not go forward, or one whose last labels are not known at `as_of`.
    """
    loaded = load_recipe(recipe, overrides)
    overrides = {f"model.{key}": value for key, value in loaded.backtest.model.items()} | (overrides or {})
    replay = None if loaded.clock == "real" else loaded.clock.replay
    if (start is None or end is None) and replay is None:
        raise RecipeError("the backtest has no span", expected="--start and --end, or a recipe whose clock replays one")
    first = start or datetime.combine(replay.start, time())
    last = end or datetime.combine(replay.end, time())
    span = Window(start=to_utc(first), end=to_utc(last))
    step_, every = timedelta(days=step_days), timedelta(days=every_days)
    if not (span.start < span.end and step_ > timedelta(0) and every > timedelta(0)):
        raise RecipeError(
            "the backtest does not go forward", got=f"{span.start} to {span.end} in steps of {step_days:g} days"
        )
    known = span.end + loaded.label.maturity
    if as_of is not None and to_utc(as_of) < known:
        raise RecipeError(
            "the last labels of the span are not known yet", got=f"as_of {to_utc(as_of)}", expected=f"{known} or later",
            fix="choose an earlier --end, or a later --as-of",
        )  # fmt: skip
    return Replayed(open_run(recipe, known, overrides, cause="backtest"), span, step_, every)


def join_span(replayed: Replayed, tables: tuple[TableRef, ...]) -> TrainingSetRef:
    """Every labelled row until the end of the span, joined and audited once; each moment takes a range of it."""
    run, sections = replayed.run, replayed.run.recipe
    split = sections.split.model_copy(update={"window": "expanding"})  # a moment's own window is a part of it
    return build_training_set(
        run.project, run.entity_table, sections.features, sections.label, split, sections.audit,
        run.start, run.as_of, tables,
    )  # fmt: skip


@task(task_run_name="play policies")
def play_policies(replayed: Replayed, whole: TrainingSetRef, tables: tuple[TableRef, ...]) -> "Backtest":
    """Simulate every policy with and without the gate, compare them, and write the page.

    A run that was killed goes on: fits, scores, verdicts and monitored windows are records on disk.
    """
    from tasks.core.backtest import NEVER, Incumbent, make_rules, moments_of, simulate

    run, moments = replayed.run, moments_of(replayed.span, replayed.step)
    world = ReplayedWorld(run, whole, tables)
    paths: list[Path] = []
    for rule in make_rules(read_policy(run.recipe), replayed.every):
        for is_gated in (True,) if rule.name == NEVER else (True, False):
            with step("backtest", f"{rule.name}{'' if is_gated else ', no gate'}") as line:

                def show(number: int, champion: Incumbent, line=line) -> None:
                    done = f"window {number + 1} of {len(moments) - 1}"
                    line.progress(
                        f"{done}, until {moments[number + 1]:%Y-%m-%d} · champion of {champion.made_at:%Y-%m-%d}"
                    )

                world.fits.tell = line.progress
                paths.append(simulate(rule, world, moments, is_gated=is_gated, progress=show))
                line.note(f"{len(paths[-1].trials)} retrains, {paths[-1].count('promote')} promoted")
                line.note(f"{paths[-1].halts} windows halted")
    with step("compare", run.project) as line:
        made = compare_paths(replayed, world, paths)
        line.note(f"{len(paths)} policies, {len(moments) - 1} windows")
    logger.info("%-10s %-22s %s", "page", run.project, made.page)
    markdown_artifact(f"backtest-{run.project}", made.recommendation, f"backtest of {run.project}")
    return made


def open_arena(
    replayed: Replayed, world: ReplayedWorld, windows: "Sequence[Window]", models: "Mapping[str, Incumbent]"
) -> "Arena":
    """Where these models are compared, window by window."""
    from tasks.core.backtest_results import Arena
    from tasks.core.gate_rows import gate_rows

    gate = replayed.run.recipe.gate
    rows = gate_rows(world.rows, world.whole.label_kind, replayed.span, clusters="day", classes=world.fits.classes)
    parts = [row_range(world.times, window) for window in windows]
    scores = functools.cache(lambda name: _whole_scores(world, models[name]))
    return Arena(rows, world.times, _bounds(parts), scores, gate.primary)


def compare_paths(replayed: Replayed, world: ReplayedWorld, paths: "Sequence[Path]") -> "Backtest":
    from tasks.core.backtest_page import table, write_page
    from tasks.core.backtest_results import Backtest, recommend, sum_up

    run, gate = replayed.run, replayed.run.recipe.gate
    windows = [step.window for step in paths[0].steps]
    models = {name: model for path in paths for name, model in path.models.items()}
    arena = open_arena(replayed, world, windows, models)
    results, oracle = sum_up(paths, arena, list(gate.guards), gate.margin)
    said = recommend(paths, results, arena, gate.margin)
    folder = load_settings().folder("backtest", run.project) / digest([run.recipe.digest, windows, replayed.every])
    best = [arena.value(name, number) for number, name in enumerate(oracle)]
    title = f"{run.project}: {replayed.span.start:%Y-%m-%d} to {replayed.span.end:%Y-%m-%d}"
    about = _about(replayed, world.whole)
    write_text_atomically(
        folder / "backtest.html", write_page(title, about, said, gate.primary, paths, results, best)
    )  # fmt: skip
    for line in [*table(results, gate.primary), "", said]:
        logger.info("%s", line)
    made = Backtest(
        project=run.project, recommendation=said, results=tuple(results), page=str(folder / "backtest.html")
    )
    made.write(folder / "results.json")
    return made


def _whole_scores(world: ReplayedWorld, model: "Incumbent") -> "np.ndarray":
    """By row of the whole file; nan before the model was made, where nobody may look."""
    import numpy as np

    from tasks.core.gate_rows import check_scores

    since = row_range(world.times, Window(start=model.made_at, end=world.run.as_of))
    since = RowRange(start=since.start, stop=len(world.times), window=since.window)
    raw, known = world.served_scores(model, since)
    found = check_scores(model.name, raw, len(raw), known, world.fits.classes)
    return np.concatenate([np.full((since.start, *found.shape[1:]), math.nan), found])


def _bounds(parts: Sequence[RowRange]) -> "np.ndarray":
    import numpy as np

    return np.array([(part.start, part.stop) for part in parts], dtype=np.int64)


def _about(replayed: Replayed, whole: TrainingSetRef) -> str:
    model = replayed.run.recipe.model
    options = ", ".join(f"{name} {value}" for name, value in model.options.items())
    return (
        f"{whole.rows:,} labelled rows in all; windows of {replayed.step / timedelta(days=1):g} days; each fit a"
        f" {model.network} ({options}), at most {model.max_epochs} epochs, refit: {model.refit}."
    )
