"""The live account: one line for each thing done, on the terminal and in the Prefect run's log."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

logger = logging.getLogger("perennial")
logger.setLevel(logging.INFO)


_is_pageless: ContextVar[bool] = ContextVar("is_pageless", default=False)


@dataclass
class Step:
    """A line in the making: `note` says what came of it, `progress` what it is doing now."""

    stage: str
    subject: str
    notes: list[str] = field(default_factory=list)
    is_silent: bool = False  # nothing came of it that anyone would want to read

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, text: str) -> None:
        logger.info("%-10s %-22s … %s", self.stage, self.subject, text, extra={"is_progress": True})


@contextmanager
def step(stage: str, subject: str = "") -> Iterator[Step]:
    """Say what a stage did and how long it took: `ingest     schedule    81,123 rows · 1.2 s`."""
    line, started = Step(stage, subject), time.monotonic()
    yield line
    if line.is_silent:
        return
    seconds = time.monotonic() - started
    logger.info("%-10s %-22s %s", stage, subject, " · ".join([*line.notes, f"{seconds:.1f} s"]))


def table_artifact(key: str, rows: list[dict[str, object]], description: str) -> None:
    """Show a table in the Prefect UI, where there is a run to show it in. Keys are lower-case with dashes."""
    from prefect.artifacts import create_table_artifact

    if in_run():
        create_table_artifact(rows, key=key.replace("_", "-"), description=description)


def markdown_artifact(key: str, markdown: str, description: str) -> None:
    """Show a page in the Prefect UI, where there is a run to show it in."""
    from prefect.artifacts import create_markdown_artifact

    # Names and values of the data are text, whatever a Markdown renderer would make of their brackets.
    if in_run():
        create_markdown_artifact(markdown.replace("<", "&lt;"), key=key.replace("_", "-"), description=description)


@contextmanager
def without_pages() -> Iterator[None]:
    """Stages in here make no artifacts: those of a replay would take the place of those of the run that it replays."""
    before = _is_pageless.set(True)
    try:
        yield
    finally:
        _is_pageless.reset(before)


def in_run() -> bool:
    """Whether this is a Prefect run, which has a server to speak to, or a plain call, or one that shows no pages."""
    from prefect.context import FlowRunContext, TaskRunContext

    if _is_pageless.get():
        return False
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None
