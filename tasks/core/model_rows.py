"""The rows a model reads, as SQL: which entity rows there are, their labels, and the inputs made of joined features.

Training and scoring use the same words, so that a row is the same in both. DuckDB's dialect.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tasks.core.errors import RecipeError
from tasks.core.expressions import refuse_statements
from tasks.core.records import Inputs, Record, Window

TIME, LABEL = "prediction_time", "label"
EVENT, CREATED = "event_timestamp", "created_timestamp"
LABEL_TYPES = {"binary": "tinyint", "multiclass": "varchar", "regression": "double"}
_NUMBER = re.compile(r"BOOLEAN|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*")
_TEXT = re.compile(r"VARCHAR|ENUM\(.*|UUID")
_LARGEST = 3.4e38  # of a 32-bit float


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlan(Record):
    """What the rows of one model are made of, in the recipe's words."""

    reader: str  # who reads them, for errors: a service, a model's version
    table: str
    table_columns: tuple[str, ...]
    key: tuple[str, ...]
    prediction_time: str
    columns: dict[str, str]
    derived: dict[str, str]
    categorical: tuple[str, ...]
    drop: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPlan(Record):
    """Where the label of an entity row comes from. `missing` is the label of a row that has none; None drops it."""

    kind: str
    table: str
    expression: str
    missing: str | None


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(moment: datetime) -> str:
    return f"timestamptz '{moment.astimezone(UTC).isoformat()}'"


def check_names(plan: RowPlan) -> None:
    """Raises: RecipeError: a name that is taken, a key column that would not be itself any more, or an expression that
    is more than one."""
    parts = {f"features.entity_rows.columns.{name}": text for name, text in plan.columns.items()}
    parts |= {f"features.derived.{name}": text for name, text in plan.derived.items()}
    refuse_statements(parts | {"features.entity_rows.prediction_time": plan.prediction_time})
    for name in (*plan.table_columns, *plan.columns, *plan.derived):
        if name in (TIME, LABEL, EVENT, CREATED):
            raise RecipeError(
                f"column {name!r} of {plan.reader} has a reserved name", expected=f"a name other than {TIME}, {LABEL}"
            )
    for name in plan.key:
        if plan.columns.get(name, name).strip() != name:
            raise RecipeError(
                f"features.entity_rows.columns.{name} hides the key column {name!r}",
                got=plan.columns[name],
                expected=f"{name}: {name}, or another name",
            )
    if both := sorted(set(plan.derived) & {*plan.table_columns, *plan.columns}):
        raise RecipeError(f"features.derived {both} are columns of the entity rows", fix="give them other names")


def check_agreement(plans: Sequence[RowPlan]) -> None:
    """Models that are compared on the same rows must mean the same by the same name.

    Raises:
        RecipeError: they do not.
    """
    first = plans[0]
    for other in plans[1:]:
        mine, theirs = ({"": (p.table, p.key, p.prediction_time), **p.columns, **p.derived} for p in (first, other))
        for name in mine.keys() & theirs.keys():
            if mine[name] != theirs[name]:
                raise RecipeError(
                    f"{first.reader} and {other.reader} mean different things by {name or 'their entity rows'!r}",
                    got=f"{mine[name]!r} and {theirs[name]!r}",
                    expected="one meaning for one name, while a model that uses it may be compared or served",
                    fix="give the new one another name",
                )


# --- entity rows and labels -------------------------------------------------------------------------------


def entity_query(plan: RowPlan, window: Window, as_of: datetime) -> str:
    """Entity rows whose prediction time is in the window, one per key: `event_timestamp` is the prediction time.

    Of a key's versions the latest is taken that was known at its own prediction time, and at `as_of`. Whether there is
    a label plays no part.
    """
    key = ", ".join(map(quote, plan.key))
    columns = [quote(name) for name in plan.table_columns if name not in plan.columns]
    columns += [f"({expression}) as {quote(name)}" for name, expression in plan.columns.items()]
    return (
        f"select {', '.join(columns)}, {TIME} as {EVENT} from ("
        f"select *, ({plan.prediction_time})::timestamptz as {TIME} from {quote(plan.table)}"
        f" where {CREATED} <= least({TIME}, {literal(as_of)})"
        f" qualify row_number() over (partition by {key} order by {CREATED} desc, {EVENT} desc) = 1)"
        f" as {quote(plan.table)} where {TIME} >= {literal(window.start)} and {TIME} < {literal(window.end)}"
    )


def labelled_query(entities: str, key: Sequence[str], label: LabelPlan, as_of: datetime) -> str:
    """The same rows with `label`: by key, from the latest correction that is known at `as_of`; null where none is."""
    keys = ", ".join(map(quote, key))
    labels = (
        f"select {keys}, ({label.expression}) as {LABEL} from {quote(label.table)} where {CREATED} <= {literal(as_of)}"
        f" qualify row_number() over (partition by {keys} order by {CREATED} desc, {EVENT} desc) = 1"
    )
    return f"select * from ({entities}) left join ({labels}) using ({keys})"


# --- inputs -----------------------------------------------------------------------------------------------


def derived_query(joined: str, plans: Sequence[RowPlan]) -> str:
    """Joined rows with `prediction_time` and every derived column; a derived one may use those before it."""
    derived = {name: expression for plan in plans for name, expression in plan.derived.items()}
    columns = [f"({expression}) as {quote(name)}" for name, expression in derived.items()]
    rows = f"select * exclude ({EVENT}), {EVENT} as {TIME} from {joined}"
    return f"select {', '.join(['*', *columns])} from ({rows})"


def choose_inputs(plan: RowPlan, features: Sequence[str], types: Mapping[str, str]) -> Inputs:
    """The inputs in order: entity columns, features, derived; text is categorical, and what the recipe says is.

    `types` are DuckDB's types of all columns there are.

    Raises:
        RecipeError: a name that is none of the inputs, or an input that is neither a number nor text.
    """
    candidates = [*plan.columns, *features, *plan.derived]
    for section, names in (("categorical", plan.categorical), ("drop", plan.drop)):
        if unknown := [name for name in names if name not in candidates]:
            raise RecipeError(f"features.{section} {unknown} are no inputs of {plan.reader}", expected=candidates)
    numeric: list[str] = []
    categorical: list[str] = []
    for name in candidates:
        if name in plan.drop:
            continue
        is_text = bool(_TEXT.fullmatch(types[name]))
        if not is_text and not _NUMBER.fullmatch(types[name]):
            raise RecipeError(
                f"input {name!r} of {plan.reader} is neither a number nor text",
                got=types[name],
                fix=f"derive a number from it under features.derived, and list {name} under features.drop",
            )
        (categorical if is_text or name in plan.categorical else numeric).append(name)
    return Inputs(numeric=tuple(numeric), categorical=tuple(categorical))


def merge_inputs(inputs: Sequence[Inputs]) -> Inputs:
    """What any of the models reads; the first one's order comes first.

    Raises:
        RecipeError: numeric for one, categorical for another.
    """
    numeric = dict.fromkeys(name for one in inputs for name in one.numeric)
    categorical = dict.fromkeys(name for one in inputs for name in one.categorical)
    if both := [name for name in numeric if name in categorical]:
        raise RecipeError(
            f"inputs {both} are numeric for one model and categorical for another",
            fix="derive the one from the other under features.derived, by another name",
        )
    return Inputs(numeric=tuple(numeric), categorical=tuple(categorical))


def rows_query(
    derived: str, key: Sequence[str], inputs: Inputs, label: LabelPlan | None, *, is_sorted: bool = True
) -> str:
    """The rows as they are written, sorted by (prediction_time, key): key, prediction_time, inputs, and `label`.

    Numbers are 32-bit floats, null where they are not finite; categories are text. A key column that is an input too
    stands there once, as it is.
    """
    columns = [*map(quote, key), TIME]
    columns += [f"{_as_number(quote(name))} as {quote(name)}" for name in inputs.numeric if name not in key]
    columns += [f"{quote(name)}::varchar as {quote(name)}" for name in inputs.categorical if name not in key]
    if label is not None:
        kind = LABEL_TYPES[label.kind]
        missing = "null" if label.missing is None else f"'{_escape(label.missing)}'"
        columns.append(f"coalesce({LABEL}::{kind}, {missing}::{kind}) as {LABEL}")
    where = f" where {LABEL} is not null" if label is not None and label.missing is None else ""
    order = f" order by {', '.join([TIME, *map(quote, key)])}" if is_sorted else ""
    return f"select {', '.join(columns)} from ({derived}){where}{order}"


def _as_number(column: str) -> str:
    # NaN sorts above everything in DuckDB, so that one comparison is false for nan, infinities and what overflows.
    return f"case when abs({column}::double) <= {_LARGEST} then {column}::float end"


def _escape(text: str) -> str:
    return text.replace("'", "''")
