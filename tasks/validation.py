"""Validation, before the commit: a staged batch is audited; rows that are wrong are put aside, with reasons."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task

from configs.sections.data import TableSection
from configs.settings import load_settings
from tasks.account import step, table_artifact
from tasks.core.errors import ValidationError
from tasks.core.records import BatchRef, Finding, ValidatedBatch
from tasks.events import announce_refusal
from tasks.home import open_lake
from tasks.leftovers import keep
from tasks.stores.repeats import may_repeat
from tasks.stores.row_rules import Judged, RowRule, judge_rows, row_rules, write_clean, write_quarantine
from tasks.stores.suite_audit import audit
from tasks.stores.suite_sql import parquet_rows
from tasks.stores.suites import Suite, load_suite

if TYPE_CHECKING:
    import duckdb


@task(task_run_name="validate {batch.table}")
def validate_batch(batch: BatchRef, table: TableSection) -> ValidatedBatch:
    """Audit a staged batch: publishable rows in one file, which may be the staged one, rows to be mended in another.

    Raises:
        ValidationError: the batch may not be published. It stays staged, and every published table is as it was.
    """
    settings = load_settings()
    with step("validate", batch.table) as line, open_lake(batch.project).session() as connection:
        suite = table_suite(batch.project, batch.table)
        docs = settings.folder("docs", batch.project) / batch.table / f"{batch.batch_id}.html"
        rows = parquet_rows(batch.uri)
        standing = check_shape(connection, rows, batch, table, suite)
        limits = {"memory_limit": settings.memory_limit, "threads": settings.threads}
        findings = audit(connection, batch.uri, suite, docs=docs, standing=standing, **limits)
        refuse(batch, [_told(f) for f in findings if (f.scope, f.severity) == ("batch", "critical")], docs)
        judged = judge_rows(connection, rows, [*standing_rules(table, batch.as_of), *row_rules(suite)])
        refuse(batch, _too_many(judged, table), docs)
        publishable, quarantine = Path(batch.uri), quarantine_file(batch)
        write_quarantine(connection, quarantine, judged)
        if judged.failing_rows:
            publishable = publishable.with_name("clean.parquet")
            write_clean(connection, publishable, judged)
        line.note(f"{len(suite.expectations)} expectations")
        line.note(f"{judged.failing_rows:,} rows quarantined" if judged.failing_rows else "all rows pass")
    table_artifact(f"validation-{batch.project}-{batch.table}", [_row(f) for f in findings], f"Data Docs: {docs}")
    return ValidatedBatch(
        batch=batch, uri=str(publishable), rows=judged.rows, quarantined_rows=judged.failing_rows,
        quarantine_uri=str(quarantine) if judged.failing_rows else None, docs_uri=str(docs),
        num_expectations=len(suite.expectations), findings=tuple(findings),
    )  # fmt: skip


def table_suite(project: str, table: str) -> Suite:
    return load_suite(load_settings().expectations_folder / project / f"{table}.json")


def quarantine_file(batch: BatchRef) -> Path:
    return load_settings().folder("quarantine", batch.project) / batch.table / f"{batch.batch_id}.parquet"


def check_shape(
    connection: "duckdb.DuckDBPyConnection", rows: str, batch: BatchRef, table: TableSection, suite: Suite
) -> list[Finding]:
    """What no suite needs to say: there are rows, no column is all null, and a key does not contradict itself."""
    if batch.rows == 0:
        return [_critical("rows", None, f"the batch is empty: no row of {batch.window.start:%Y-%m-%d} or later")]
    types = {name: kind for name, kind, *_ in connection.execute(f"describe from {rows}").fetchall()}
    values = ", ".join(
        f'count(*) filter (not isnan("{name}"))' if kind in ("DOUBLE", "FLOAT") else f'count("{name}")'
        for name, kind in types.items()
    )
    present = connection.execute(f"select {values} from {rows}").fetchall()[0]
    findings = [
        _critical("not_all_null", name, f"column {name} holds no value in any of {batch.rows:,} rows")
        for name, count in zip(types, present, strict=True)
        if count == 0 and name not in suite.may_be_all_null
    ]
    if doubled := contradictions(connection, rows, table):
        reason = f"duplicate keys: {doubled:,} values of ({', '.join(_identity(table))}) come with different rows"
        findings.append(_critical("unique_key", None, reason))
    return findings


def contradictions(connection: "duckdb.DuckDBPyConnection", rows: str, table: TableSection) -> int:
    """How many keys come, for one event and known time, with different rows.

    A row that comes twice does not contradict itself: it is inserted once.
    """
    identity = [f'"{column}"' for column in _identity(table)]
    if not may_repeat(connection, rows, identity):
        return 0
    keys = f"select 1 from {rows} as r group by {', '.join(identity)} having count(distinct hash(r)) > 1"
    found = connection.execute(f"select count(*) from ({keys})")
    return int(found.fetchall()[0][0])


def standing_rules(table: TableSection, as_of: datetime) -> list[RowRule]:
    """Rules for the times and the key of every row, whatever the suite says."""
    now = f"timestamptz '{as_of.isoformat()}'"
    rules = [RowRule(f"{name} is missing", f'"{name}" is null') for name in _identity(table)]
    rules.append(RowRule("created_timestamp lies in the future", f"created_timestamp > {now}"))
    if not table.ahead:
        rules += [
            RowRule("event_timestamp lies in the future", f"event_timestamp > {now}"),
            RowRule("known before it happened", "created_timestamp < event_timestamp"),
        ]
    return rules


def _identity(table: TableSection) -> tuple[str, ...]:
    return (*table.key, "event_timestamp", "created_timestamp")


def _too_many(judged: Judged, table: TableSection) -> list[str]:
    rows = judged.rows + judged.failing_rows
    if judged.failing_rows <= table.max_quarantine_fraction * rows:
        return []
    limit = f"max_quarantine_fraction={table.max_quarantine_fraction}"
    share = f"{judged.failing_rows:,} of {rows:,} rows would be quarantined, more than {limit} allows"
    return [share, *(f"{count:,} rows: {reason}" for reason, count in judged.reasons.items())]


def refuse(batch: BatchRef, reasons: Sequence[str], docs: Path) -> None:
    """Raises ValidationError, where there is a reason to."""
    if reasons:
        keep(Path(batch.uri).parent)
        announce_refusal(batch, reasons)
        raise ValidationError(
            f"batch of table {batch.table!r} may not be published", got="\n            ".join(reasons),
            expected=f"what {batch.project}/{batch.table}.json and tables.{batch.table} of the recipe say",
            fix=f"see {docs}; mend the source or the suite; the rows are staged at {batch.uri}",
        )  # fmt: skip


def _told(finding: Finding) -> str:
    return finding.reason + (f" ({finding.failing_rows:,} rows)" if finding.failing_rows else "")


def _critical(expectation: str, column: str | None, reason: str) -> Finding:
    return Finding(
        expectation=expectation, column=column, severity="critical", scope="batch", failing_rows=0, reason=reason
    )


def _row(finding: Finding) -> dict[str, object]:
    return {
        "severity": finding.severity,
        "scope": finding.scope,
        "rows": finding.failing_rows,
        "reason": finding.reason,
    }
