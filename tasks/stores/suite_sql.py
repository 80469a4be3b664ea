"""Expectations as SQL: of single rows, to put failing ones aside; of the whole batch, to show in one query what holds.

What is shown here to hold, Great Expectations says as well, for every value and for nulls, NaN and empty batches (a
test asks both). What is not shown may hold all the same: that is left to Great Expectations.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb

Kwargs = Mapping[str, Any]


def literal(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return "null" if value is None else str(value)


def parquet_rows(path: str) -> str:
    """A Parquet file as a relation, in SQL."""
    return f"read_parquet({literal(path)})"


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


# --- of single rows ---------------------------------------------------------------------------------


def _outside(value: str, kwargs: Kwargs) -> str:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    below = f"{value} {'<=' if kwargs.get('strict_min') else '<'} {literal(low)}"
    above = f"{value} {'>=' if kwargs.get('strict_max') else '>'} {literal(high)}"
    return " or ".join(["false", *([below] if low is not None else []), *([above] if high is not None else [])])


def _in_set(kwargs: Kwargs) -> str:
    return f"{_name(kwargs['column'])} in ({', '.join(map(literal, kwargs['value_set']))})"


def _repeated(columns: Sequence[str]) -> str:
    return f"not ({_all_missing(columns)}) and count(*) over (partition by {_listed(columns)}) > 1"


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(map(_name, columns))


def _all_missing(columns: Sequence[str]) -> str:
    return " and ".join(f"{_name(column)} is null" for column in columns)


def _not_greater(kwargs: Kwargs) -> str:
    sign = ">=" if kwargs.get("or_equal") else ">"
    return f"not ({_name(kwargs['column_A'])} {sign} {_name(kwargs['column_B'])})"


@dataclass(frozen=True, slots=True)
class RowForm:
    """A kind of expectation in SQL: `failing` is true of a row that fails it, null or false of others. A missing
    value passes as it does in Great Expectations. `kwargs` are those that the SQL honours."""

    failing: Callable[[Kwargs], str]
    kwargs: tuple[str, ...]


_RANGE = ("column", "min_value", "max_value", "strict_min", "strict_max")
_PAIR = ("column_A", "column_B")
NOT_NULL, NULL = "expect_column_values_to_not_be_null", "expect_column_values_to_be_null"
UNIQUE, UNIQUE_TOGETHER = "expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique"
ROW_FORMS = {
    NOT_NULL: RowForm(lambda k: f"{_name(k['column'])} is null", ("column",)),
    NULL: RowForm(lambda k: f"{_name(k['column'])} is not null", ("column",)),
    "expect_column_values_to_be_between": RowForm(lambda k: _outside(_name(k["column"]), k), _RANGE),
    "expect_column_value_lengths_to_be_between": RowForm(
        lambda k: _outside(f"length({_name(k['column'])})", k), _RANGE
    ),
    "expect_column_value_lengths_to_equal": RowForm(
        lambda k: f"length({_name(k['column'])}) != {literal(k['value'])}", ("column", "value")
    ),
    "expect_column_values_to_be_in_set": RowForm(lambda k: f"not ({_in_set(k)})", ("column", "value_set")),
    "expect_column_values_to_not_be_in_set": RowForm(_in_set, ("column", "value_set")),
    UNIQUE: RowForm(lambda k: _repeated([k["column"]]), ("column",)),
    UNIQUE_TOGETHER: RowForm(lambda k: _repeated(k["column_list"]), ("column_list",)),
    "expect_column_pair_values_a_to_be_greater_than_b": RowForm(_not_greater, (*_PAIR, "or_equal")),
    "expect_column_pair_values_to_be_equal": RowForm(
        lambda k: f"{_name(k['column_A'])} is distinct from {_name(k['column_B'])}", _PAIR
    ),
}


# --- of the whole batch -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WholeForm:
    """`sql` are aggregates over all rows; `judge` tells from their values whether the expectation is shown to hold, and
    what Great Expectations would say of it."""

    sql: tuple[str, ...]
    judge: Callable[..., tuple[bool, dict[str, Any]]]


def show(
    connection: "duckdb.DuckDBPyConnection", rows: str, expectations: Sequence[tuple[str, Kwargs]]
) -> dict[int, dict[str, Any]]:
    """Which of the expectations (type, kwargs) hold of the relation `rows`, by their places, with the results in
    Great Expectations' words. One query; nothing where it fails."""
    import duckdb

    columns = [name for name, *_ in connection.execute(f"describe from {rows}").fetchall()]
    forms = {place: form for place, one in enumerate(expectations) if (form := _whole_form(*one, columns)) is not None}
    asked = list(dict.fromkeys(["count(*)", *(part for form in forms.values() for part in form.sql)]))
    try:
        found = connection.execute(f"select {', '.join(asked)} from {rows}").fetchall()[0]
    except duckdb.Error:
        return {}
    values = dict(zip(asked, found, strict=True))
    judged = {place: form.judge(*(values[part] for part in form.sql)) for place, form in forms.items()}
    return {place: result for place, (holds, result) in judged.items() if holds}


def _whole_form(kind: str, kwargs: Kwargs, columns: Sequence[str]) -> WholeForm | None:
    """The form of an expectation, if there is one that honours all of its arguments."""
    row = ROW_FORMS.get(kind)
    given = {name for name, value in kwargs.items() if value is not None}
    if row is not None:
        is_column = "column" in row.kwargs and kind != UNIQUE
        allowed = {*row.kwargs, *(("mostly",) if is_column else ())}
        return _counted(kind, kwargs) if given <= allowed else None
    if kind in _AGGREGATES and given <= set(_RANGE):
        asked = (_AGGREGATES[kind](kwargs),)
        return WholeForm(asked, lambda value: (_within(value, kwargs), {"observed_value": value}))
    if kind == "expect_table_columns_to_match_set" and given <= {"column_set", "exact_match"}:
        wanted, exact = set(kwargs["column_set"]), kwargs.get("exact_match", True)
        holds = wanted == set(columns) if exact else wanted <= set(columns)
        return WholeForm((), lambda: (holds, {"observed_value": sorted(columns)}))
    if kind == "expect_column_distinct_values_to_contain_set" and given <= {"column", "value_set"}:
        wanted = set(kwargs["value_set"])
        seen = f"count(distinct {_name(kwargs['column'])}) filter ({_in_set(kwargs)})"
        is_text = all(isinstance(value, str) for value in wanted)
        return WholeForm((seen,), lambda count: (count == len(wanted), {})) if is_text and wanted else None
    return None


def _counted(kind: str, kwargs: Kwargs) -> WholeForm:
    """A row expectation over all rows: how many there are, how many have a value, how many fail."""
    columns = [kwargs[name] for name in ("column", *_PAIR) if name in kwargs] + list(kwargs.get("column_list", ()))
    mostly = kwargs.get("mostly", 1.0)
    present = "count(*)" if kind == NOT_NULL else f"count(*) filter (not ({_all_missing(columns)}))"
    if kind in (UNIQUE, UNIQUE_TOGETHER):
        # Two rows of one hash are at most one more than there are.
        failing = f"{present} - count(distinct hash({_listed(columns)})) filter (not ({_all_missing(columns)}))"
    else:
        failing = f"count(*) filter ({ROW_FORMS[kind].failing(kwargs)})"

    def judge(rows: int, valued: int, failed: int) -> tuple[bool, dict[str, Any]]:
        holds = not failed or (valued > 0 and (valued - failed) / valued >= mostly)
        return holds, _result(rows, rows - valued, failed)

    return WholeForm(("count(*)", present, failing), judge)


def _result(rows: int, missing: int, failed: int) -> dict[str, Any]:
    valued = rows - missing
    return {
        "element_count": rows,
        "unexpected_count": failed,
        "unexpected_percent": 100 * failed / valued if valued else None,
        "missing_count": missing,
        "missing_percent": 100 * missing / rows if rows else None,
        "unexpected_percent_total": 100 * failed / rows if rows else None,
        "unexpected_percent_nonmissing": 100 * failed / valued if valued else None,
        "partial_unexpected_list": [],
    }


_AGGREGATES: dict[str, Callable[[Kwargs], str]] = {
    "expect_table_row_count_to_be_between": lambda k: "count(*)",
    "expect_column_unique_value_count_to_be_between": lambda k: f"count(distinct {_name(k['column'])})",
    "expect_column_mean_to_be_between": lambda k: f"avg({_name(k['column'])})",
    "expect_column_min_to_be_between": lambda k: f"min({_name(k['column'])})",
    "expect_column_max_to_be_between": lambda k: f"max({_name(k['column'])})",
}


def _within(value: Any, kwargs: Kwargs) -> bool:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    numbers = [one for one in (value, low, high) if one is not None]
    if value is None or not all(isinstance(one, int | float) and not math.isnan(one) for one in numbers):
        return False
    above = low is None or (value > low if kwargs.get("strict_min") else value >= low)
    below = high is None or (value < high if kwargs.get("strict_max") else value <= high)
    return bool(above and below)
