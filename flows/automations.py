"""What the server does by itself: `python -m flows.automations` creates it, or makes it again what it says here."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.states import Crashed

from configs.settings import Settings, load_settings
from flows.services import is_loopback
from tasks import leftovers

BEAT = "heartbeat"
# A run that is in one of these states beats no more, and is not dead.
QUIET_STATES = ("Completed", "Failed", "Crashed", "Cancelled", "Paused", "Suspended", "AwaitingRetry", "Scheduled")


def watches(settings: Settings) -> tuple[AutomationCore, ...]:
    """Prefect itself looks for no dead runs: they would be shown as alive, and keep their slot, for ever."""
    silence, start = timedelta(seconds=settings.silence_seconds), timedelta(seconds=settings.start_seconds)
    return (
        _watch(
            "perennial: mark dead runs as crashed", "A run whose process is gone says nothing any more.",
            after=[BEAT], expect=[BEAT, *QUIET_STATES], within=silence,
            message=f"no heartbeat for {silence.total_seconds():g} s: its process is gone",
        ),
        _watch(
            "perennial: mark runs that never began as crashed",
            "A run that was taken by a worker, and whose process died before it could say anything.",
            # Not after Running: a run from the shell has no heartbeat at all.
            after=["Pending"], expect=["Running", *QUIET_STATES], within=start,
            message=f"no sign of life for {start.total_seconds():g} s: its process never began",
        ),
    )  # fmt: skip


def _watch(
    name: str, description: str, *, after: Iterable[str], expect: Iterable[str], within: timedelta, message: str
) -> AutomationCore:
    """A run that comes into `after` and then into none of `expect` is crashed."""
    return AutomationCore(
        name=name,
        description=description,
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            for_each={"prefect.resource.id"},
            after={f"prefect.flow-run.{one}" for one in after},
            expect={f"prefect.flow-run.{one}" for one in expect},
            threshold=1,
            within=within,
        ),
        actions=[ChangeFlowRunState(name="Crashed", state=StateType.CRASHED, message=message)],
    )


def install(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """One automation of this name, as it is here. One that is there already stays, with what it has counted so far."""
    found = client.read_automations_by_name(automation.name)
    kept = next((one for one in found if _said(one) == _said(automation)), None)
    if kept is None:
        client.create_automation(automation)
    for other in found:
        if other is not kept:
            client.delete_automation(other.id)


def _said(automation: AutomationCore) -> dict[str, object]:
    """What it does; whether a person has paused it is theirs to say."""
    return automation.model_dump(include={"name", "description", "trigger", "actions"})


def end_dead_runs(client: SyncPrefectClient, home: Path) -> None:
    """Mark deployed runs whose process is gone, without waiting for their silence: one that died with its server may
    never have been heard, and would keep its slot for ever. Only where every process is of this machine."""
    alive = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING]))
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=alive)):
        pid = run.infrastructure_pid or ""
        if pid.isdecimal() and not _is_of(int(pid), home):
            client.set_flow_run_state(run.id, Crashed(message="its process is gone"), force=True)


def _is_of(pid: int, home: Path) -> bool:
    """Whether there is such a process and it is of this home, not another one that has the number now."""
    try:
        return psutil.Process(pid).environ().get("PERENNIAL_HOME") == str(home)
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    leftovers.clear_away(load_settings().root)  # it knows of the runs within runs, and of those from a shell
    with get_client(sync_client=True) as client:
        if is_loopback(load_settings().server_host):
            end_dead_runs(client, load_settings().root)
        for automation in watches(load_settings()):
            install(client, automation)
