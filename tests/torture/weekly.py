"""Flights from April to December 2013, week by week through the replay's clock: what the loop says and what it does.

    python -m tests.torture.weekly HOME    # some minutes; a line of a Markdown table for each week

One process and one temporary Prefect server: the first champion, then a monitor run a week and the retrains it decides.
"""

import dataclasses
import json
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# One small network that is not refitted: the loop is what is looked at. All else is the flagship's recipe.
SMALL = {
    "model.options": {"members": 1, "width": 64, "dropout": 0.5, "input_dropout": 0.1, "max_category_width": 4},
    "govern.refresh_every": "56d",  # so that a retrain for age is seen too
    "model.max_epochs": 2, "model.refit": "none", "gate.max_latency_ms": 10000,
}  # fmt: skip
HEAD = """| week to | decision | auc: newest, trailing, promised | drifted, furthest | other reasons | what came of it |
|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Week:
    """What the monitor saw and decided, and what a retrain came to."""

    as_of: str
    action: str
    reasons: tuple[str, ...]
    newest: float | None
    trailing: float | None
    promised: float
    is_lost: bool
    is_worth_it: bool  # what newer rows are worth to the probe
    cause: str | None  # of a retrain
    drifted: tuple[str, ...]
    faults: tuple[str, ...]
    effect: str | None  # of the last promotion, once enough has matured
    outcome: str | None  # of the retrain
    outcome_reason: str | None

    @property
    def line(self) -> str:
        values = (self.newest, self.trailing, self.promised)
        quality = ", ".join("–" if value is None else f"{value:.3f}" for value in values)
        drifted = f"{len(self.drifted)}: {self.drifted[0]}" if self.drifted else "0"
        reasons = [reason for reason in self.reasons if " drifted" not in reason]
        came = [told for told in (self.outcome, self.outcome_reason, self.effect) if told]
        cells = [self.as_of, self.action, quality, drifted, "; ".join(reasons), "; ".join(came)]
        return f"| {' | '.join(cells)} |"


def play(home: Path, overrides: dict[str, Any]) -> list[Week]:
    """The whole replay in an empty home."""
    os.environ["PERENNIAL_HOME"] = str(home)
    home.mkdir(parents=True, exist_ok=True)
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows import shell
    from flows.monitor import monitor
    from flows.pipeline import pipeline
    from flows.retrain import retrain
    from tasks.core.observation import MonitorReport
    from tasks.monitoring import reports

    shell.show_account()
    logging.getLogger("perennial").setLevel(logging.WARNING)
    weeks = []
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        pipeline("flights", overrides=overrides)
        print(HEAD)
        while (decision := monitor("flights", overrides=overrides)) is not None:
            entry = retrain("flights", decision.as_of, overrides) if decision.action == "retrain" else None
            *_, before, report = [None, *reports("flights").read(MonitorReport)]
            weeks.append(_week(report, decision, entry, None if before is None else before.effect))
            print(weeks[-1].line, flush=True)
    return weeks


def _week(report: Any, decision: Any, entry: Any, told: Any) -> Week:
    """`told` is the effect that the report before this one told of already."""
    quality, seen = report.quality, report.observation
    return Week(
        as_of=f"{decision.as_of:%Y-%m-%d}",
        action=decision.action,
        reasons=decision.reasons,
        newest=quality.newest.value if quality.newest else None,
        trailing=quality.value.value if quality.value else None,
        promised=quality.promised.value,
        is_lost=quality.is_lost,
        is_worth_it=seen.probe is not None and seen.probe.is_worth_it,
        cause=decision.cause,
        drifted=seen.drifted,
        faults=seen.faults,
        effect=report.effect.told if report.effect and report.effect != told else None,
        outcome=entry.kind if entry else None,
        outcome_reason=entry.reasons[0] if entry else None,
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    played = play(folder, SMALL)
    (folder / "weeks.json").write_text(json.dumps([dataclasses.asdict(week) for week in played], indent=1))
    from flows.shell import leave

    leave(0)
