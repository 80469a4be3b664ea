"""Names: of runs, as the Prefect UI lists them, and of whoever started them."""

import getpass
from pathlib import Path


def flow_run_id() -> str | None:
    """The id of the flow run that this is; None outside of one."""
    from prefect.runtime import flow_run

    return flow_run.id


def caller() -> str:
    """Whoever runs this shell; a deployed run is a worker's, and knows only its own id."""
    from prefect.runtime import deployment, flow_run

    return f"whoever started run {flow_run.id}" if deployment.id else getpass.getuser()


def run_name() -> str:
    """`flights 2013-07-01`; a run that was given no moment is called by the day on which it was to start."""
    from prefect.runtime import flow_run

    given = flow_run.parameters
    moment = str(given.get("as_of") or flow_run.scheduled_start_time)
    return f"{Path(given['recipe']).stem} {moment[:10]}"
