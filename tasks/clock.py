"""The clock: what time it is for a run that is given none. It is real, or replays a past that a recipe names.

In a replay the time is the home's: it stands still until a monitor run moves it on by a step.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

from configs.recipe import Recipe, load_recipe
from configs.sections.loop import ReplaySection
from configs.sections.section import format_duration
from configs.settings import load_settings
from tasks.account import logger
from tasks.core import ledger as history
from tasks.core.records import Record
from tasks.home import open_ledger

if TYPE_CHECKING:
    from tasks.stores.outbox import Journal


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick(Record):
    """The simulated time from one monitor run until the next one's."""

    as_of: datetime
    flow_run: str


@dataclass(frozen=True, slots=True)
class Turn:
    """When a monitor run acts; None: at its scheduled start. `is_replayed`: the rows of the step are to be ingested."""

    as_of: datetime | None
    is_replayed: bool = False


def present(recipe: Recipe) -> datetime:
    """The flow run's scheduled start, or in a replay the home's simulated time."""
    if recipe.clock == "real":
        return _scheduled_start()
    return simulated_time(recipe.project, recipe.clock.replay)


def simulated_time(project: str, replay: ReplaySection) -> datetime:
    """The last step, or the champion's own moment if that is later, before which nothing can be done any more."""
    made = history.champion_as_of(open_ledger(project).entries())
    ticks = [tick.as_of for tick in _ticks(project).read(Tick)]
    return max([_midnight(replay.start), *ticks, *([made] if made is not None else [])])


def turn_clock(recipe: str, as_of: datetime | None, overrides: dict[str, Any] | None) -> Turn | None:
    """When this monitor run acts, in a replay a step later than the last; None where there is nothing to look at."""
    from prefect.runtime import flow_run

    loaded = load_recipe(recipe, overrides)
    if history.champion(open_ledger(loaded.project).entries()) is None:
        logger.info("%-10s %-22s there is no champion yet: run pipeline first", "monitor", loaded.project)
        return None
    if as_of is not None or loaded.clock == "real":
        return Turn(as_of)
    replay = loaded.clock.replay
    if (moment := advance(loaded.project, replay, str(flow_run.id))) is None:
        told = f"the replay is over: it ends on {replay.end}; another PERENNIAL_HOME plays it again"
        logger.info("%-10s %-22s %s", "clock", loaded.project, told)
        return None
    told = f"it is {moment:%Y-%m-%d}, in steps of {format_duration(replay.step)} until {replay.end}"
    logger.info("%-10s %-22s %s", "clock", loaded.project, told)
    return Turn(moment, is_replayed=True)


def advance(project: str, replay: ReplaySection, flow_run: str) -> datetime | None:
    """A step on from the simulated time; a flow run that comes again finds its own. None once the end is passed."""
    ticks = _ticks(project)
    while True:
        known = ticks.read(Tick)
        if (mine := next((tick.as_of for tick in known if tick.flow_run == flow_run), None)) is not None:
            return mine
        moment = simulated_time(project, replay) + replay.step
        if moment > _midnight(replay.end):
            return None
        # Where another run takes this number first, the next round takes the one after it.
        ticks.add(f"{len(known) + 1:06}", Tick(as_of=moment, flow_run=flow_run))


def _ticks(project: str) -> "Journal":
    from tasks.stores.outbox import Journal

    return Journal(load_settings().folder("clock", project))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)


def _scheduled_start() -> datetime:
    # Stable over retries and resumes, unlike the time at which a worker happens to get to it.
    from prefect.runtime import flow_run

    return flow_run.scheduled_start_time
