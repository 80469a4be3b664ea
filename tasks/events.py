"""Events: what happened to a model or a table, for automations and whoever else listens.

An event is told once, and lost when nobody can hear it: what must not be lost stands in the ledger.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from tasks.account import in_run
from tasks.core.records import BatchRef, LedgerEntry, Wanted

MAX_REASONS, MAX_REASON_LENGTH = 10, 300  # an event is small; the whole of it stands in the ledger
OF_KIND = {"promoted": "promoted", "rejected": "rejected", "undecided": "rejected", "rolled_back": "rolled_back"}


def announce(project: str, entry: LedgerEntry) -> None:
    """Tell of a line of the ledger: `perennial.model.promoted`, `.rejected` (also undecided) or `.rolled_back`."""
    if entry.kind in OF_KIND:
        payload = {
            "project": project,
            "outcome": entry.kind,
            "version": entry.version,
            "champion": entry.champion,
            "previous": entry.previous,
            "decision_id": entry.decision_id,
            "as_of": entry.as_of.isoformat(),
            "who": entry.who,
            "reasons": _brief(entry.reasons),
        }
        key = f"{project}/{entry.number}/{entry.decision_id}/{entry.at.isoformat()}"
        emit(f"perennial.model.{OF_KIND[entry.kind]}", f"perennial.model.{project}", payload, key)


def announce_refusal(batch: BatchRef, reasons: Sequence[str]) -> None:
    """Tell that a batch may not be published: `perennial.validation.failed`."""
    payload = {
        "project": batch.project,
        "table": batch.table,
        "batch_id": batch.batch_id,
        "rows": batch.rows,
        "as_of": batch.as_of.isoformat(),
        "reasons": _brief(reasons),
    }
    emit("perennial.validation.failed", f"perennial.dataset.{batch.project}.{batch.table}", payload)


def announce_retrain(wanted: Wanted, drifted: Sequence[str]) -> None:
    """Tell of a retrain that was decided for lost quality: `perennial.quality.degraded`, and if inputs moved
    `perennial.drift.detected`. Both carry the decision, so that many who hear of it do it once."""
    if wanted.cause != "quality":
        return
    payload = {
        "project": wanted.project,
        "recipe": wanted.recipe,
        "decision_id": wanted.decision_id,
        "as_of": wanted.as_of.isoformat(),
        "reasons": _brief(wanted.reasons),
        "drifted": list(drifted[:MAX_REASONS]),
    }
    for event in ("perennial.quality.degraded", *(["perennial.drift.detected"] if drifted else [])):
        emit(event, f"perennial.model.{wanted.project}", payload, wanted.decision_id)


def announce_slow(project: str, version: int, told: str) -> None:
    """Tell that a model predicts slower than its gate allows: `perennial.serving.slow`."""
    payload = {"project": project, "version": version, "told": told}
    emit("perennial.serving.slow", f"perennial.model.{project}", payload)


def emit(event: str, resource: str, payload: Mapping[str, Any], key: str | None = None) -> None:
    """Hand an event to Prefect, which sends it in the background. The same `key` again is the same event.

    Outside a run there is no server to speak to, and one would be started only for this.
    """
    if in_run():
        from prefect.events import emit_event

        known = None if key is None else uuid5(NAMESPACE_URL, f"{event}/{key}")
        emit_event(event=event, resource={"prefect.resource.id": resource}, payload=dict(payload), id=known)


def _brief(reasons: Sequence[str]) -> list[str]:
    return [reason[:MAX_REASON_LENGTH] for reason in reasons[:MAX_REASONS]]
