"""Approve: a person's word on a version that waits for it, from the shell or the Prefect UI."""

from datetime import datetime
from typing import Any

from prefect import flow

from flows import shell
from tasks.approval import answer_verdict
from tasks.core.records import LedgerEntry
from tasks.naming import run_name
from tasks.run import open_run


@flow(name="approve", flow_run_name=run_name)
def approve(
    recipe: str,
    version: int,
    as_of: datetime | None = None,
    overrides: dict[str, Any] | None = None,
    who: str = "",
    why: str = "",
    reject: bool = False,
) -> LedgerEntry:
    """Promote the version that waits for approval, or with `reject` do not. Who and why go to the ledger."""
    run = open_run(recipe, as_of, overrides)
    return answer_verdict(run.project, version, not reject, who, why)


if __name__ == "__main__":
    shell.main(approve)
