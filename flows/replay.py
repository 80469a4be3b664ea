"""Replay: a registered version built again in a home of its own, and compared with what was registered."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from prefect import flow

from flows import shell
from tasks.naming import run_name
from tasks.replaying import compare, find_subject, rebuild, scratch_home, tell

if TYPE_CHECKING:
    from tasks.core.replay import ReplayReport


@flow(name="replay", flow_run_name=run_name)
def replay(
    recipe: str,
    as_of: datetime | None = None,
    overrides: dict[str, Any] | None = None,
    version: int | None = None,
) -> "ReplayReport":
    """Build a version again from its lineage and its recipe alone, and say of each digest whether it is the same.

    `version` defaults to the champion; moment and recipe are the version's own. Nothing but the report is written to
    the home, and a digest that differs is a result and no error.
    """
    subject = find_subject(recipe, as_of, overrides, version)
    with scratch_home(subject):
        made = rebuild(subject)
        report = compare(subject, made)
    return tell(subject, report)


if __name__ == "__main__":
    shell.main(replay)
