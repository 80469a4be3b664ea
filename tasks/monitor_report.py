"""The monitor's page: on disk, in MLflow with the champion's run, and in a few lines in the Prefect run."""

from typing import TYPE_CHECKING

from prefect import task

from configs.settings import load_settings
from tasks.account import logger, markdown_artifact
from tasks.core.governor import Decision
from tasks.core.records import Contender, write_text_atomically
from tasks.home import open_registry
from tasks.monitoring import past_reports, stamp
from tasks.references import champion_reference
from tasks.run import Run

if TYPE_CHECKING:
    from tasks.core.observation import MonitorReport

SHOWN_WINDOWS = 26


@task(task_run_name="show report")
def show_report(run: Run, champion: Contender, report: "MonitorReport | None", decision: Decision) -> None:
    """Write the page and say where it is."""
    from tasks.core.monitor_page import write_page, write_summary

    if report is None or champion.ref is None:
        return
    since = decision.open_since
    told = f"{since:%Y-%m-%d}" if since is not None and since < decision.as_of else None
    reference = champion_reference(run.project, champion.ref)
    history = past_reports(run.project, run.as_of)[-SHOWN_WINDOWS:]
    path = load_settings().folder("monitor", run.project) / "pages" / f"{stamp(run.as_of)}.html"
    write_text_atomically(path, write_page(report, decision, reference, history, told))
    open_registry(run.project).log_file(champion.ref.run_id, path, "monitor")
    summary = write_summary(report, decision, told, str(path))
    markdown_artifact(f"monitor-{run.project}", summary, f"monitor of {run.project}: {decision.action}")
    logger.info("%-10s %-22s %s", "report", run.project, path)
