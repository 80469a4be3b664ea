"""Audit: a suite run by Great Expectations on DuckDB over a staged Parquet file, out of core, and its page.

One query shows what holds, which is everything of a batch that is well; Great Expectations runs the rest, if there is
any, finds the failing rows and writes the page of all of it.
"""

import html
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import ValidationError
from tasks.core.records import Finding, write_text_atomically
from tasks.stores.suite_sql import parquet_rows, show
from tasks.stores.suites import Suite, describe

if TYPE_CHECKING:
    import duckdb


def audit(
    connection: "duckdb.DuckDBPyConnection",
    parquet: str,
    suite: Suite,
    *,
    docs: Path,
    standing: Sequence[Finding] = (),
    memory_limit: str = "4GB",
    threads: int = 0,
) -> list[Finding]:
    """Run the suite over a staged file; returns what did not hold, with `standing`, what was found before.

    The Data Docs page at `docs` shows both. The connection is in UTC and may read the file; what it does not show to
    hold is tried on one of Great Expectations' own, with as much memory and as many threads.

    Raises:
        ValidationError: an expectation that Great Expectations does not know.
    """
    preload()
    lines = _build(suite)
    shown = show(connection, parquet_rows(parquet), [(e.type, e.kwargs) for e in suite.expectations])
    if len(shown) == len(suite.expectations):
        result = _result_of_none(suite)
    else:
        limits = {"memory_limit": memory_limit} | ({"threads": threads} if threads else {})
        with _database(parquet, limits) as (database, keywords):
            result = _validate(database, _without(lines, shown), limits, keywords)
    _add_shown(result, lines, shown)
    found = [finding for one in result.results if (finding := _finding(one, suite)) is not None]
    docs.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(docs, _render(result, [*standing, *found]))
    return [*standing, *found]


@contextmanager
def _database(parquet: str, limits: Mapping[str, Any]) -> Iterator[tuple[Path, set[str]]]:
    """A DuckDB file with the staged rows as the view `batch`, and the words that DuckDB keeps for itself."""
    import duckdb

    database = Path(parquet).with_name("audit.duckdb")
    database.unlink(missing_ok=True)
    try:
        with duckdb.connect(str(database), config=dict(limits)) as connection:
            connection.execute(f"create view batch as select * from {parquet_rows(parquet)}")
            keywords = connection.sql("select keyword_name from duckdb_keywords()").fetchall()
        yield database, {word for (word,) in keywords}
    finally:
        database.unlink(missing_ok=True)


def preload() -> None:
    """Import Great Expectations, which takes seconds the first time."""
    _context()


@cache
def _context() -> Any:
    from tasks.stores.light_gx import gx, quiet

    with quiet():
        from great_expectations.data_context.types.base import (
            DataContextConfig,
            InMemoryStoreBackendDefaults,
            ProgressBarsConfig,
        )
        from great_expectations.execution_engine import sqlalchemy_execution_engine as engine

        logging.getLogger("great_expectations").setLevel(logging.ERROR)
        # It fetches rows after it has closed the connection, unless the dialect is one whose connection is kept.
        engine._PERSISTED_CONNECTION_DIALECTS = (*engine._PERSISTED_CONNECTION_DIALECTS, _Dialect("duckdb"))
        config = DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            progress_bars=ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        )
        return gx.get_context(mode="ephemeral", project_config=config)


class _Dialect(str):
    @property
    def value(self) -> str:
        return str(self)


def _validate(database: Path, suite: Any, limits: Mapping[str, Any], keywords: set[str]) -> Any:
    """Great Expectations' result for a suite of its own."""
    import sqlalchemy

    from tasks.stores.light_gx import quiet

    context, name = _context(), database.parent.name
    with quiet():
        source = context.data_sources.add_sql(
            name,
            connection_string=f"duckdb:///{database}",
            kwargs={"connect_args": {"config": dict(limits)}},
        )
        executor = source.get_execution_engine()
        engine = executor.engine
        # Nothing is written, and one check that fails must not take the others down with its transaction.
        engine.dialect.do_begin = engine.dialect.do_commit = engine.dialect.do_rollback = lambda _: None
        engine.dialect.identifier_preparer.reserved_words = keywords  # its own are PostgreSQL's
        sqlalchemy.event.listen(engine, "checkout", lambda raw, *_: raw.execute("set TimeZone = 'UTC'"))
        try:
            asset = source.add_table_asset("batch", table_name="batch")
            batch = asset.add_batch_definition_whole_table("all").get_batch()
            return batch.validate(suite, result_format="SUMMARY")
        finally:
            if executor._connection:  # which it keeps, see _context
                executor._connection.close()
            engine.dispose()
            source.get_engine().dispose()
            context.data_sources.delete(name)


def _result_of_none(suite: Suite) -> Any:
    """What `_validate` returns where there is nothing for it to do, which costs it a tenth of a second."""
    from tasks.stores.light_gx import gx

    # isort: split
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult

    asset = {"type": "table", "data_asset_name": "batch", "table_name": "batch", "schema_name": None}
    meta = {
        "great_expectations_version": gx.__version__,
        "batch_spec": {**asset, "batch_identifiers": {}},
        "batch_markers": {"ge_load_time": datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")},
    }
    return ExpectationSuiteValidationResult(success=True, results=[], suite_name=suite.name, statistics={}, meta=meta)


def _build(suite: Suite) -> Any:
    """The suite as Great Expectations has it. `meta.line` tells a result's line, for results come in any order."""
    from tasks.stores.light_gx import gx

    # isort: split
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    built = []
    for number, e in enumerate(suite.expectations):
        line = ExpectationConfiguration(type=e.type, kwargs=dict(e.kwargs), severity=e.severity, meta={"line": number})
        try:
            # Given as a dictionary, an expectation that is not known would be logged and left out.
            built.append(line.to_domain_obj())
        except Exception as error:
            raise ValidationError(
                f"{e.type} in suite {suite.name!r} is not one that Great Expectations knows", got=error,
                expected="a type and arguments of its gallery", fix="correct the suite's JSON",
            ) from error  # fmt: skip
    return gx.ExpectationSuite(suite.name, expectations=built)


def _without(lines: Any, shown: Mapping[int, dict[str, Any]]) -> Any:
    from tasks.stores.light_gx import gx

    left = [line.configuration.to_domain_obj() for n, line in enumerate(lines.expectations) if n not in shown]
    return gx.ExpectationSuite(lines.name, expectations=left)


def _add_shown(result: Any, lines: Any, shown: Mapping[int, dict[str, Any]]) -> None:
    """Put what is shown to hold, by its line, into Great Expectations' result, in the order of the suite."""
    from great_expectations.core.expectation_validation_result import ExpectationValidationResult
    from great_expectations.validator.validation_statistics import calc_validation_statistics

    for number, told in shown.items():
        configuration = lines.expectations[number].configuration
        result.results.append(ExpectationValidationResult(True, configuration, told))
    result.results.sort(key=lambda one: one.expectation_config.meta["line"])
    statistics = calc_validation_statistics(result.results)._asdict()
    result.success, result.statistics = statistics.pop("success"), statistics


def _render(result: Any, findings: Sequence[Finding]) -> str:
    """The Data Docs page of one batch. What did not hold stands first, and can be read without a network."""
    from tasks.stores.light_gx import quiet

    with quiet():
        from great_expectations.render.renderer import ValidationResultsPageRenderer

        document = ValidationResultsPageRenderer().render(result)
        escaped = _escaped(document)
        document.to_json_dict = lambda: escaped
        page = _page_view().render(document)
    rows = "".join(
        f"<li><b>{f.severity}</b> ({f.scope}): {html.escape(f.reason)}"
        f"{f', {f.failing_rows:,} rows' if f.failing_rows else ''}</li>"
        for f in findings
    )
    summary = f"<ul>{rows}</ul>" if findings else "<p>Nothing: every expectation holds.</p>"
    return str(page).replace("<body>", f'<body><main style="padding:1em"><h1>What did not hold</h1>{summary}</main>', 1)


@cache
def _page_view() -> Any:
    """One for all pages: each has its templates compiled anew, half the time of a page."""
    from great_expectations.render.view import DefaultJinjaPageView

    return DefaultJinjaPageView()


def _escaped(node: Any) -> Any:
    """A rendered document with every text in it as text: Great Expectations puts names and values into its page as they
    are, and a value of the data would run as a script."""
    if isinstance(node, str):
        return html.escape(node)
    if isinstance(node, list | tuple):
        return [_escaped(inner) for inner in node]
    if isinstance(node, dict):
        return {_escaped(key): _escaped(inner) for key, inner in node.items()}
    if hasattr(node, "to_json_dict"):
        return _escaped(node.to_json_dict())
    return node


def _finding(one: Any, suite: Suite) -> Finding | None:
    if one.success:
        return None
    expectation = suite.expectations[one.expectation_config.meta["line"]]
    told = one.exception_info
    problems = [told] if "raised_exception" in told else list(told.values())
    if raised := next((p["exception_message"] for p in problems if p.get("raised_exception")), None):
        # A check that could not be made is no check: it counts as the gravest failure.
        reason, severity, scope, rows = (
            f"{describe(expectation)} could not be checked: {raised}",
            "critical",
            "batch",
            0,
        )
    else:
        rows = int(one.result.get("unexpected_count") or 0)
        observed = one.result.get("observed_value")
        reason = describe(expectation) + ("" if observed is None else f", observed {observed}")
        severity, scope = expectation.severity, expectation.scope
    return Finding(
        expectation=expectation.type, column=expectation.column, severity=severity, scope=scope, failing_rows=rows,
        reason=reason,
    )  # fmt: skip
