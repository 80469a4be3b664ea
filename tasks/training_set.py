"""Training set: matured rows with point-in-time features and labels, split by time, audited, in one Arrow file."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task

from configs.sections.data import TableSection
from configs.sections.rows import AuditSection, FeaturesSection, LabelSection, SplitSection
from configs.settings import load_settings
from tasks import home, joins
from tasks.account import markdown_artifact, step
from tasks.core import model_rows
from tasks.core.arrow_files import appearing, map_rows, write_rows
from tasks.core.audit import AuditReport, LabelDelays, audit_training_set, refuse_leaks
from tasks.core.errors import RecipeError
from tasks.core.expressions import refuse_statements
from tasks.core.model_rows import LabelPlan, RowPlan
from tasks.core.records import Inputs, RowRange, TableRef, TrainingSetRef, Window, digest
from tasks.core.splits import ALL, PARTS, split_rows, split_windows
from tasks.core.training_set_page import write_page
from tasks.resume import once

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from tasks.stores.feature_store import FeatureStore

RECORD, ROWS, AUDIT = "training_set.json", "rows.arrow", "audit.json"


@dataclass(frozen=True, slots=True)
class _Request:
    """All that a training set follows from. `features` are the challenger's, then those of its rivals."""

    project: str
    table: TableSection
    features: tuple[FeaturesSection, ...]
    label: LabelSection
    split: SplitSection
    audit: AuditSection
    start: datetime
    as_of: datetime
    tables: dict[str, TableRef]

    @property
    def digest(self) -> str:
        sections = (self.table, *self.features, self.label, self.split, self.audit)
        # The file's text, because Feast takes seconds to import, only to find that nothing is to be done.
        definitions = (load_settings().feature_repo / f"{self.project}.py").read_text()
        plain = [section.model_dump(mode="json") for section in sections]
        return digest([plain, self.start, self.as_of, self.tables, definitions])

    @property
    def plans(self) -> list[RowPlan]:
        return [joins.row_plan(f"service {section.service}", self.table, section) for section in self.features]

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(section.service for section in self.features))


@task(task_run_name="build training set")
def build_training_set(
    project: str,
    table: TableSection,
    features: FeaturesSection,
    label: LabelSection,
    split: SplitSection,
    audit: AuditSection,
    start: datetime,
    as_of: datetime,
    tables: tuple[TableRef, ...],
    rivals: tuple[FeaturesSection, ...] = (),
) -> TrainingSetRef:
    """Join, label, split, audit and write the matured rows, once for equal sections, `as_of` and table versions.

    `table` is the entity rows' table; `tables` are the versions to read: entity rows, labels and feature tables.
    `rivals` are the features sections of the models it will be compared with: the file holds their inputs too.

    Raises:
        RecipeError: a split without rows, an expression that fails, two meanings of one name.
        LeakageError: the audit found leaks; the error lists all of them.
    """
    versions = {ref.name: ref for ref in tables}
    request = _Request(project, table, (features, *rivals), label, split, audit, start, as_of, versions)
    folder = load_settings().folder("training", project) / request.digest
    with step("dataset", project) as line:
        is_new = not (folder / RECORD).exists()
        made = once(folder / RECORD, TrainingSetRef, lambda: _build(request, folder))
        line.note(f"{made.rows:,} rows" + ("" if is_new else ", as built before"))
        line.note(", ".join(f"{name} {made.splits[name].stop - made.splits[name].start:,}" for name in PARTS))
        line.note(f"{made.unlabelled_rows:,} without a label")
    show_training_set(project, made, AuditReport.read(folder / AUDIT))
    return made


def _build(request: _Request, folder: Path) -> TrainingSetRef:
    """Write rows and audit; the record, which makes them a training set, is written by the caller."""
    plans, label, windows = request.plans, joins.label_plan(request.label), _windows(request)
    for plan in plans:
        model_rows.check_names(plan)
    refuse_statements({"label.expression": label.expression})
    model_rows.check_agreement(plans)
    store = home.open_feature_store(request.project)
    read = joins.feature_tables(store, request.services, request.tables) | {plans[0].table, label.table}
    entities = _labelled_entities(plans, label, windows[ALL], request.as_of)
    with (
        appearing(folder / ROWS) as path,
        joins.join_features(store, entities, request.services, request.tables) as connection,
    ):
        unlabelled = _count_unlabelled(connection, request.label)
        derived = model_rows.derived_query(joins.JOINED, plans)
        inputs = _choose_inputs(store, connection, request)
        _check_audit_names(request, inputs[0])
        query = model_rows.rows_query(derived, plans[0].key, model_rows.merge_inputs(inputs), label)
        rows, content = write_rows(connection.sql(query).to_arrow_reader(joins.BATCH_ROWS), path)
        known_times = _suspicious_known_times(connection)
        table = map_rows(path)
        splits = split_rows(table["prediction_time"].to_numpy(), windows)
        report = _audit(request, table, inputs[0], splits, known_times, _label_delays(connection, request))
        report.write(folder / AUDIT)
        refuse_leaks(report)
    return TrainingSetRef(
        uri=str(folder / ROWS),
        digest=content,
        rows=rows,
        as_of=request.as_of,
        service=request.services[0],
        inputs=inputs[0],
        label_kind=request.label.kind,
        key=plans[0].key,
        splits=splits,
        unlabelled_rows=unlabelled,
        tables=tuple(request.tables[name] for name in sorted(read)),
    )


def _windows(request: _Request) -> dict[str, Window]:
    split = request.split
    return split_windows(
        start=request.start,
        as_of=request.as_of,
        maturity=request.label.maturity,
        holdout=split.holdout,
        validation=split.validation,
        embargo=split.embargo,
        reach=None if split.window == "expanding" else split.window,
    )


def _labelled_entities(plans: list[RowPlan], label: LabelPlan, window: Window, as_of: datetime) -> str:
    columns = {name: expression for plan in reversed(plans) for name, expression in plan.columns.items()}
    entities = model_rows.entity_query(replace(plans[0], columns=columns), window, as_of)
    return model_rows.labelled_query(entities, plans[0].key, label, as_of)


def _choose_inputs(store: "FeatureStore", connection: "duckdb.DuckDBPyConnection", request: _Request) -> list[Inputs]:
    """The inputs of each model."""
    # The label is out of sight here, so that a derived column that uses it is refused.
    unlabelled = f"(select * exclude ({model_rows.LABEL}) from {joins.JOINED})"
    types = joins.column_types(connection, model_rows.derived_query(unlabelled, request.plans))
    return [
        model_rows.choose_inputs(plan, joins.service_features(store, section.service), types)
        for plan, section in zip(request.plans, request.features, strict=True)
    ]


def _check_audit_names(request: _Request, inputs: Inputs) -> None:
    """Raises: RecipeError: the audit section names what is not there, so that it would check or allow nothing."""
    names = {*inputs.numeric, *inputs.categorical}
    # A segment is allowed by `input=value`.
    allowed = {name.partition("=")[0] for name in request.audit.allow}
    for key, given in (("allow", allowed), ("disjoint_entities", {*request.audit.disjoint_entities})):
        known = names | {model_rows.LABEL} if key == "allow" else names | {*request.table.key}
        if unknown := sorted(given - known):
            raise RecipeError(f"audit.{key} names what is not in the training set", got=unknown, expected=sorted(known))


def _count_unlabelled(connection: "duckdb.DuckDBPyConnection", label: LabelSection) -> int:
    """Matured rows without a label.

    Raises:
        RecipeError: labels that are not of the recipe's kind.
    """
    number = f"try_cast({model_rows.LABEL} as double)"
    is_good = {"binary": f"{number} in (0, 1)", "regression": f"isfinite({number})", "multiclass": "true"}[label.kind]
    unlabelled, bad, example = connection.sql(
        f"select count(*) filter ({model_rows.LABEL} is null), count(*) filter (is_bad),"
        f" any_value({model_rows.LABEL}) filter (is_bad) from (select {model_rows.LABEL},"
        f" {model_rows.LABEL} is not null and not coalesce({is_good}, false) as is_bad from {joins.JOINED})"
    ).fetchall()[0]
    if bad:
        expected = {"binary": "0 or 1", "regression": "finite numbers"}[label.kind]
        raise RecipeError(
            f"label.expression does not give a {label.kind} label",
            got=f"{example!r} and the like in {bad:,} rows",
            expected=expected,
            fix="correct label.expression or label.kind",
        )
    return int(unlabelled)


def _suspicious_known_times(connection: "duckdb.DuckDBPyConnection") -> "pa.Table":
    """Prediction time and known time of each view, where a joined feature row was known after the prediction time."""
    columns = {name: name.removesuffix(joins.KNOWN_TIME) for name in joins.column_types(connection, joins.JOINED)}
    known = [f'"{name}"' for name, view in columns.items() if view != name]
    late = f"greatest({', '.join(known)}) > {model_rows.EVENT}" if known else "false"
    named = "".join(f', "{name}" as "{view}"' for name, view in columns.items() if view != name)
    query = f"select {model_rows.EVENT} as {model_rows.TIME}{named} from {joins.JOINED} where {late}"
    return connection.sql(query).to_arrow_table()


def _label_delays(connection: "duckdb.DuckDBPyConnection", request: _Request) -> LabelDelays:
    """Of rows that are older than twice the maturity: of newer ones the slowest labels are not there yet; and what the
    last day before the cut lacks."""
    maturity, event = request.label.maturity, model_rows.EVENT
    keys = ", ".join(map(model_rows.quote, request.table.key))
    delay = f"min({model_rows.CREATED}) - {model_rows.EVENT}"
    labels, late, early, longest = connection.execute(
        "select count(*), count(*) filter (delay > $maturity), count(*) filter (delay < interval 0 second), max(delay)"
        f" from (select {delay} as delay from"
        f" (select {keys}, {model_rows.CREATED} from {model_rows.quote(request.label.table)}"
        f" where {model_rows.CREATED} <= $as_of)"
        f" join (select {keys}, {event} from {joins.JOINED}) using ({keys})"
        f" where {event} < $until group by {keys}, {event})",
        {"maturity": maturity, "until": request.as_of - 2 * maturity, "as_of": request.as_of},
    ).fetchall()[0]
    newest, missing = connection.execute(
        f"select count(*), count(*) filter ({model_rows.LABEL} is null) from {joins.JOINED} where {event} >= $since",
        {"since": request.as_of - maturity - timedelta(days=1)},
    ).fetchall()[0]
    return LabelDelays(maturity, labels, late, longest, early, newest, missing)


def _audit(
    request: _Request,
    rows: "pa.Table",
    inputs: Inputs,
    splits: dict[str, RowRange],
    known_times: "pa.Table",
    label_delays: LabelDelays,
) -> AuditReport:
    return audit_training_set(
        rows,
        key=request.table.key,
        inputs=inputs,
        label_kind=request.label.kind,
        splits=splits,
        embargo=request.split.embargo,
        known_times=known_times,
        label_delays=label_delays,
        max_late_labels=request.audit.max_late_labels,
        max_single_feature_score=request.audit.max_single_feature_score,
        allow=request.audit.allow,
        disjoint_entities=request.audit.disjoint_entities,
    )


# --- what a person sees -----------------------------------------------------------------------------------


def show_training_set(project: str, made: TrainingSetRef, report: AuditReport) -> None:
    """Rows, splits and findings, as a page of the Prefect run."""
    labels = map_rows(made.uri)[model_rows.LABEL]
    page = write_page(made, report, labels)
    markdown_artifact(f"training-set-{project}", page, f"training set {made.digest}")
