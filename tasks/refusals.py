"""Refusals: that the last ingest of a table was refused, and why, until one passes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from configs.settings import load_settings
from tasks.account import logger
from tasks.core.errors import PerennialError
from tasks.core.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal(Record):
    """The last ingest of a table did not pass."""

    table: str
    as_of: datetime
    reason: str

    @property
    def told(self) -> str:
        return f"{self.table} is refused at ingest: {self.reason}"


@contextmanager
def noting_refusal(project: str, table: str, as_of: datetime) -> Iterator[None]:
    """Note why a table is not ingested; an ingest that passes takes the note away."""
    try:
        yield
    except PerennialError as error:
        got = "; ".join(str(error.got).split("\n            ")) if error.got is not None else ""
        Refusal(table=table, as_of=as_of, reason=f"{error.what}: {got}").write(_path(project, table))
        raise
    _path(project, table).unlink(missing_ok=True)


@contextmanager
def collecting(refused: list[PerennialError]) -> Iterator[None]:
    """What is wrong with one table keeps none of the others from being ingested."""
    try:
        yield
    except PerennialError as error:
        logger.warning("%-10s %s", "refused", error.what)
        refused.append(error)


@contextmanager
def going_on_refused(project: str, as_of: datetime) -> Iterator[None]:
    """Pass over an ingest that is refused at this moment: the note of it stays, and the monitor halts for it."""
    try:
        yield
    except PerennialError:
        if not any(refusal.as_of == as_of for refusal in open_refusals(project, as_of)):
            raise
        logger.warning("%-10s %-22s the monitor goes on without what was refused", "ingest", project)


def open_refusals(project: str, as_of: datetime) -> list[Refusal]:
    """Of tables whose last ingest until `as_of` was refused, by name."""
    found = [Refusal.read(path) for path in sorted(load_settings().folder("refusals", project).glob("[!.]*.json"))]
    return [refusal for refusal in found if refusal.as_of <= as_of]


def _path(project: str, table: str) -> Path:
    return load_settings().folder("refusals", project) / f"{table}.json"
