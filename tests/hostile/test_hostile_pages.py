"""What stands in the data is shown, never run: pages escape names and values, whoever wrote them."""

import json
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.account import markdown_artifact
from tasks.core import drift_table
from tasks.core.drift import Binning, ColumnDrift
from tasks.core.records import Finding
from tasks.core.reference import ColumnReference
from tasks.stores.suite_audit import audit
from tasks.stores.suites import load_suite

EVIL = "<script>alert('x')</script>"
IMAGE = '"><img src=x onerror=alert(1)>'


class Tags(HTMLParser):
    """Every tag with its attributes, and whether our words became one."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.handlers: list[str] = []
        self._in_script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._in_script = tag == "script"
        self.handlers += [name for name, value in attributes if name.startswith("on") and "alert" in (value or "")]

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script and "alert(" in data:
            self.scripts.append(data)


def test_data_docs_show_values_and_names_as_text(tmp_path: Path) -> None:
    table = pa.table({"plain": [EVIL, IMAGE, "fine"], EVIL: [1, 2, 3]})
    pq.write_table(table, tmp_path / "rows.parquet")
    expectations = [
        {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "plain", "value_set": ["fine"]}},
        {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "plain", "value_set": [EVIL]}},
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": EVIL, "max_value": 1}},
        {"type": "expect_column_most_common_value_to_be_in_set", "kwargs": {"column": "plain", "value_set": ["no"]}},
    ]
    (tmp_path / "suite.json").write_text(json.dumps({"name": EVIL, "expectations": expectations}))
    standing = Finding(
        expectation="rows", column=None, severity="critical", scope="batch", failing_rows=1, reason=f"value {IMAGE}"
    )
    page = tmp_path / "page.html"
    with duckdb.connect() as connection:
        rows, suite = str(tmp_path / "rows.parquet"), load_suite(tmp_path / "suite.json")
        audit(connection, rows, suite, docs=page, standing=[standing])
    found = Tags(page.read_text())
    assert (found.scripts, found.handlers) == ([], [])
    assert "alert(" in page.read_text(), "it is shown"


@pytest.mark.parametrize("evil", [EVIL, IMAGE])
def test_what_moved_shows_columns_and_categories_as_text(evil: str) -> None:
    binning = Binning(column=evil, kind="categorical", categories=(evil, "fine"))
    reference = ColumnReference(binning=binning, first_day=0, counts=((50, 50, 0, 0, 0),))
    drift = ColumnDrift(
        column=evil, kind="categorical", statistics={"psi": 0.5}, thresholds={"psi": 0.1}, null_fraction=0.0,
        reference_null_fraction=0.0, unseen_fraction=0.0, is_drifted=True,
    )  # fmt: skip
    page = drift_table._column(drift, reference, [80, 20, 0, 0, 0], ())
    found = Tags(page)
    assert (found.scripts, found.handlers) == ([], [])
    assert page.count("alert(") >= 3, "the column's name, its category in words, and in the picture"


def test_what_a_run_shows_in_markdown_has_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr("tasks.account.in_run", lambda: True)
    monkeypatch.setattr("prefect.artifacts.create_markdown_artifact", lambda text, **_: shown.append(text))
    markdown_artifact("a-page", f"| {EVIL} |\n- carrier={IMAGE} looks inverted", "a page")
    assert not any("<" in text for text in shown)
    assert "alert(1)" in shown[0]
