"""What the server does by itself: `python -m flows.automations` creates it, or makes it again what it says here."""

from collections.abc import Iterable
from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from configs.settings import Settings, load_settings
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


if __name__ == "__main__":
    leftovers.clear_away(load_settings().root)  # runs that ended with the power keep no slot
    with get_client(sync_client=True) as client:
        for automation in watches(load_settings()):
            install(client, automation)
