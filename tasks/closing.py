"""Closing: the last words of a pipeline, on the terminal and as an artifact, and where to read on."""

import shlex

from configs.settings import load_settings
from tasks.account import logger
from tasks.core.records import Evaluation, LedgerEntry
from tasks.core.summary import summarise
from tasks.promotion import EVALUATION
from tasks.run import Run


def close_run(run: Run, evaluation: Evaluation, entry: LedgerEntry) -> LedgerEntry:
    """Say how it ended."""
    return _show(run, evaluation, entry)


def show_decided(run: Run, entry: LedgerEntry) -> LedgerEntry:
    """Show a decision that was made before; nothing is done."""
    logger.info("%-10s %-22s decided before, on %s UTC", "decision", run.decision_id, f"{entry.at:%Y-%m-%d %H:%M}")
    path = run.folder / EVALUATION
    if not path.exists():
        logger.info("\n".join([f"{entry.kind}: version {entry.version}", *entry.reasons]))
        return entry
    return _show(run, Evaluation.read(path), entry)


def _show(run: Run, evaluation: Evaluation, entry: LedgerEntry) -> LedgerEntry:
    gate = run.recipe.gate
    metrics = tuple(dict.fromkeys((gate.primary, *gate.guards, *gate.floors)))
    logger.info(summarise(run.project, f"{run.as_of:%Y-%m-%d}", metrics, evaluation, entry, _next_steps(run)))
    return entry


def _next_steps(run: Run) -> list[tuple[str, str]]:
    settings = load_settings()
    # A URI that was given may hold a password, and this stands in the log.
    database = '"$PERENNIAL_TRACKING_URI"' if settings.tracking_uri else shlex.quote(settings.mlflow_uri)
    mlflow = f".venv/bin/mlflow ui --backend-store-uri {database}"
    prefect = f"PREFECT_HOME={shlex.quote(str(settings.root / 'prefect'))} .venv/bin/prefect server start"
    return [
        ("plots", str(run.folder / "plots")),
        ("data docs", str(settings.folder("docs", run.project))),
        ("ledger", str(settings.folder("ledger", run.project))),
        ("MLflow", mlflow),
        ("Prefect", prefect),
    ]
