"""Clear: a person says that a halt is over, and why; it is kept, and the next decision goes by it."""

from datetime import datetime
from typing import Any

from prefect import flow

from flows import shell
from tasks.deciding import Clearance, clear_halt
from tasks.naming import run_name
from tasks.run import open_run


@flow(name="clear", flow_run_name=run_name)
def clear(
    recipe: str, as_of: datetime | None = None, overrides: dict[str, Any] | None = None, who: str = "", reason: str = ""
) -> Clearance:
    """End a halt by a person's word. A fault that is seen after `as_of` halts again."""
    run = open_run(recipe, as_of, overrides)
    return clear_halt(run, who, reason)


if __name__ == "__main__":
    shell.main(clear)
