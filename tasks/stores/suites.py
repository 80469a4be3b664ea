"""Suites: Great Expectations' own JSON, one file for each table, read strictly.

An expectation is about single rows (`row`: a failing row can be told apart and put aside) or about the batch as a whole
(`batch`). An expectation that can be told row by row is `row` unless it says `meta: {"scope": "batch"}`; every other
one (an aggregate, a regular expression, anything with `mostly`) is `batch`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.core.errors import ValidationError
from tasks.stores.suite_sql import ROW_FORMS

SEVERITIES = ("critical", "warning", "info")


@dataclass(frozen=True, slots=True)
class Expectation:
    """One line of a suite."""

    type: str
    kwargs: Mapping[str, Any]
    severity: Literal["critical", "warning", "info"]
    scope: Literal["batch", "row"]

    @property
    def column(self) -> str | None:
        return self.kwargs.get("column")


@dataclass(frozen=True, slots=True)
class Suite:
    """What is true of every batch of a table. `may_be_all_null`: columns in which a batch may hold no value at all."""

    name: str
    expectations: tuple[Expectation, ...]
    may_be_all_null: tuple[str, ...] = ()


def load_suite(path: Path) -> Suite:
    """Read a suite.

    Raises:
        ValidationError: no such file, not JSON, an unknown key or expectation, or a critical row expectation that
            cannot be told row by row.
    """
    try:
        data = json.loads(path.read_text())
        known = {"name", "expectations", "meta"}
        if unknown := set(_mapping(data, "a suite")) - known:
            raise ValueError(f"unknown keys {sorted(unknown)}, expected {sorted(known)}")
        expectations = tuple(_expectation(line) for line in data["expectations"])
        meta = _mapping(data.get("meta", {}), "meta")
        return Suite(str(data["name"]), expectations, tuple(map(str, meta.get("may_be_all_null", ()))))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValidationError(
            f"suite {path} cannot be used",
            got=error,
            expected="a Great Expectations suite in JSON",
            fix=f"correct {path}",
        ) from error


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{what} must be a JSON object, got {value!r:.80}")
    return value


def _expectation(line: Mapping[str, Any]) -> Expectation:
    if unknown := set(_mapping(line, "an expectation")) - {"type", "kwargs", "severity", "meta"}:
        raise ValueError(f"unknown keys {sorted(unknown)} in {line.get('type')}")
    severity = line.get("severity", "critical")
    if severity not in SEVERITIES:
        raise ValueError(f"severity {severity!r} of {line['type']} is not one of {SEVERITIES}")
    kwargs, form = _mapping(line.get("kwargs", {}), "kwargs"), ROW_FORMS.get(line["type"])
    untold = sorted(set(kwargs) - set(form.kwargs)) if form else ["its type"]
    scope = _mapping(line.get("meta", {}), "meta").get("scope", "batch" if untold else "row")
    if scope == "row" and untold:
        raise ValueError(
            f"{line['type']} cannot be told row by row, for {', '.join(untold)}; "
            f"row expectations are {sorted(ROW_FORMS)}"
        )
    return Expectation(line["type"], kwargs, severity, scope)


def describe(expectation: Expectation) -> str:
    """What the expectation asks, in a few words: `visibility_miles between 0 and 10`."""
    kwargs = {k: v for k, v in expectation.kwargs.items() if k != "column"}
    words = re.sub(r"^expect_(column_values_to_be_|column_values_to_|column_)?", "", expectation.type).replace("_", " ")
    if {"min_value", "max_value"} & set(kwargs):
        words = words.removesuffix(" to be between").removesuffix("between").strip()
        words += f" between {kwargs.pop('min_value', '-∞')} and {kwargs.pop('max_value', '∞')}"
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in kwargs.items())
    return " ".join(part.strip() for part in (expectation.column, words, told) if part)
