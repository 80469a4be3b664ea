"""Backtest: a span of the past played as if it were production, for several retraining policies side by side."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from prefect import flow

from flows import shell
from flows.ingest import ingest
from tasks.backtesting import join_span, open_backtest, play_policies
from tasks.naming import run_name
from tasks.tables import current_tables

if TYPE_CHECKING:
    from tasks.core.backtest_results import Backtest


@flow(name="backtest", flow_run_name=run_name)
def backtest(
    recipe: str,
    as_of: datetime | None = None,
    overrides: dict[str, Any] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    step_days: float = 7.0,
    every_days: float = 28.0,
) -> "Backtest":
    """Replay a span in simulated time and say which retraining policy would have served it best.

    `start` and `end` default to what the recipe's clock replays; each step ends with a monitor's look. `every_days` is
    the policy "every N days". Nothing is registered or promoted.
    """
    replayed = open_backtest(recipe, as_of, overrides, start, end, step_days, every_days)
    ingest(recipe, as_of=replayed.run.as_of, overrides=overrides)
    tables = current_tables(replayed.run)
    whole = join_span(replayed, tables)
    return play_policies(replayed, whole, tables)


if __name__ == "__main__":
    shell.main(backtest)
