"""What the server does by itself: `python -m flows.automations` creates it, or makes it again what it says here."""

from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

SILENCE = timedelta(seconds=90)  # three heartbeats
# A run that is in one of these states beats no more, and is not dead.
QUIET_STATES = ("Completed", "Failed", "Crashed", "Cancelled", "Paused", "Suspended", "AwaitingRetry", "Scheduled")
DEAD_RUNS = AutomationCore(
    name="perennial: mark dead runs as crashed",
    description="A run whose process is gone says nothing any more, and would be shown as running for ever.",
    trigger=EventTrigger(
        posture=Posture.Proactive,
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        for_each={"prefect.resource.id"},
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{state}" for state in QUIET_STATES)},
        threshold=1,
        within=SILENCE,
    ),
    actions=[
        ChangeFlowRunState(
            name="Crashed",
            state=StateType.CRASHED,
            message=f"no heartbeat for {SILENCE.seconds} s: its process is gone",
        )
    ],
)


def install(client: SyncPrefectClient, automation: AutomationCore = DEAD_RUNS) -> None:
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


if __name__ == "__main__":
    with get_client(sync_client=True) as client:
        install(client)
