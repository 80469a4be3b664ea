"""Roll back: put the previous champion back, in one guarded step."""

from datetime import datetime
from typing import Any

from prefect import flow

from flows import shell
from tasks.core.records import LedgerEntry
from tasks.naming import run_name
from tasks.rollback import roll_back
from tasks.run import open_run
from tasks.stores.tracking_database import preload

# While the process starts: in the flow there is then nothing to wait for.
preload()


@flow(name="rollback", flow_run_name=run_name)
def rollback(
    recipe: str,
    as_of: datetime | None = None,
    overrides: dict[str, Any] | None = None,
    reason: str = "",
    who: str = "",
    version: int | None = None,
) -> LedgerEntry:
    """Put the previous champion back. `version`: refuse if that one is not the champion any more."""
    run = open_run(recipe, as_of, overrides)
    return roll_back(run.project, run.as_of, who, reason, version)


if __name__ == "__main__":
    shell.main(rollback)
