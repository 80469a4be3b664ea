"""Nothing is reported on the flagship's real data, at either date of the main job: no false alarm stops it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.core.audit import AuditReport
from tasks.features import build_features
from tasks.home import open_lake
from tasks.ingestion import stage_table
from tasks.run import Run, open_run
from tasks.training_set import build_training_set

DATES = (datetime(2013, 4, 1, tzinfo=UTC), datetime(2013, 7, 1, tzinfo=UTC))


def test_nothing_is_reported_on_flights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path))
    run, lake = open_run("flights", DATES[-1], None), open_lake("flights")
    for name, table in run.recipe.tables.items():
        batch = stage_table.fn("flights", name, table, run.start, run.as_of)
        lake.insert(name, batch.uri, key=table.key)
    tables = tuple(lake.latest(name) for name in run.recipe.tables)
    tables += build_features.fn("flights", (run.recipe.features.service,), tables, run.as_of)
    reports = [_audit(run, tables, as_of) for as_of in DATES]
    assert [(report.leaks, report.allowed) for report in reports] == [((), ())] * 2
    assert all(0.6 < max(report.scores.values()) < 0.75 for report in reports), "far from the limit of .9"


def _audit(run: Run, tables: tuple, as_of: datetime) -> AuditReport:
    """As it was known then: what the lake has learned since is not read."""
    sections = run.recipe
    made = build_training_set.fn(
        "flights", run.entity_table, sections.features, sections.label, sections.split, sections.audit, run.start,
        as_of, tables,
    )  # fmt: skip
    return AuditReport.read(Path(made.uri).with_name("audit.json"))
