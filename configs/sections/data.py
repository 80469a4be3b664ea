"""Where the tables of a recipe come from."""

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from configs.sections.section import Duration, Name, Section


class FileSource(Section):
    """Parquet, CSV or JSON lines: a path, a glob, or any fsspec URI. `package://NAME/…` is a file inside an
    installed package; it may stand inside a chained URI (`zip://a.csv::package://NAME/a.zip`)."""

    format: Literal["parquet", "csv", "json"]
    path: str
    null_values: tuple[str, ...] = ("",)
    delimiter: str = Field(default=",", min_length=1)  # of a CSV file
    types: dict[str, str] = {}  # CSV and JSON: column -> DuckDB type, where inference would be wrong


class SqlSource(Section):
    """A query against any SQLAlchemy URL; `:start` and `:end` are bound. `${NAME}` in the URL is read from the
    environment when the source is read, so that no secret stands in a recipe."""

    format: Literal["sql"]
    url: str
    query: str

    @model_validator(mode="after")
    def _password_is_elsewhere(self) -> Self:
        if re.search(r"://[^/@:]*:(?!\$\{\w+\}@)[^@]+@", self.url):
            raise ValueError(
                "a password stands in the url, and the recipe with every model; write ${NAME} in its place"
            )
        return self


class PythonSource(Section):
    """`module:function`, called with (start, end, **arguments); it returns a pyarrow Table, a RecordBatchReader or
    an iterable of record batches."""

    format: Literal["python"]
    function: str = Field(pattern=r"^[\w.]+:\w+$")
    arguments: dict[str, Any] = {}


Source = Annotated[FileSource | SqlSource | PythonSource, Field(discriminator="format")]


class TableSection(Section):
    """One table of the lake. `columns`, `where` and both timestamps are DuckDB expressions over `relation`, in which
    the source is called `source` and each lookup by its own name."""

    description: str
    source: Source
    lookups: dict[Name, Source] = {}
    relation: str = "source"
    columns: dict[Name, str] = Field(min_length=1)
    where: str = "true"
    key: tuple[str, ...] = Field(min_length=1)
    event_timestamp: str  # when it happened, TIMESTAMPTZ
    created_timestamp: str  # when it could first be known, TIMESTAMPTZ
    lookback: Duration = timedelta(days=2)  # how far behind the last ingest late rows are looked for
    ahead: Duration = timedelta(0)  # how far past as_of events are already known (a timetable)
    max_quarantine_fraction: float = Field(default=0.01, ge=0, lt=1)

    @model_validator(mode="after")
    def _key_is_columns(self) -> Self:
        if missing := [name for name in self.key if name not in self.columns]:
            raise ValueError(f"key {missing} not among columns {sorted(self.columns)}")
        if reserved := {"event_timestamp", "created_timestamp", "event_month"} & set(self.columns):
            raise ValueError(f"columns {sorted(reserved)} are reserved; use the keys of the same name beside `columns`")
        return self
