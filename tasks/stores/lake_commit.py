"""Commits to the lake: one writer of a table at a time, whole or not at all, and nothing left of what was cut off."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from tasks.core.errors import LakeError
from tasks.stores.month_files import MONTH, TIMES

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable

    from tasks.stores.lake import Lake

CONFIGURATION = {
    # Without it only the first 32 columns have statistics, and an insert would have to read every file.
    "delta.dataSkippingStatsColumns": ",".join(TIMES),
    # The log is the history of what was ingested, and the way back to every version; it is kept.
    "delta.enableExpiredLogCleanup": "false",
}


class OvertakenError(Exception):
    """Another writer committed first."""


@contextmanager
def committing(
    lake: "Lake", name: str, table: "DeltaTable | None", said: Mapping[str, str]
) -> "Iterator[CommitProperties]":
    import duckdb
    from deltalake import CommitProperties
    from deltalake.exceptions import CommitFailedError, DeltaError, SchemaMismatchError

    try:
        # No retries: an append that was overtaken has to look again at what is there, or it would double rows.
        yield CommitProperties(custom_metadata=dict(said), max_commit_retries=0)
    except (CommitFailedError, DeltaError, SchemaMismatchError, duckdb.ConversionException) as error:
        if isinstance(error, CommitFailedError) or (table is None and lake.exists(name)):
            raise OvertakenError(error) from error
        raise LakeError(
            f"table {name!r} cannot take these rows",
            got=str(error)[:2000],
            expected="the table's columns and types",
        ) from error


@contextmanager
def writing(lake: "Lake", name: str) -> Iterator[None]:
    """One writer of a table at a time; on a shared store Delta's own commit check is what remains."""
    if name in lake.borrowed:
        raise LakeError(f"table {name!r} is borrowed", got=lake.at(name), expected="a table of this lake's own")
    if "://" in lake.uri:
        yield
        return
    import fcntl

    folder = Path(lake.uri)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock.fileno()).st_size:
            _remove_uncommitted(lake, name)
            lock.truncate(0)
        lock.write(f"process {os.getpid()} writes\n")
        lock.flush()
        yield
        lock.truncate(0)  # not after an error or a kill: the next writer finds what was written of it


def _remove_uncommitted(lake: "Lake", name: str) -> None:
    """Data files that no version knows: of a write that was cut off before its commit. Nobody reads them.

    They are younger than the newest version. An older file stays whatever the log says, which somebody may have
    shortened.
    """
    table = Path(lake.at(name))
    log = table / "_delta_log"
    commits = sorted(log.glob("*.json"))
    actions = [json.loads(line) for commit in commits for line in commit.read_text().splitlines()]
    known = {table / unquote(action["add"]["path"]) for action in actions if "add" in action}
    newest = commits[-1].stat().st_mtime if commits else 0.0
    # A file on its way to its name has a number behind it.
    for path in (*table.glob(f"{MONTH}=*/*.parquet*"), *log.glob("*.json#*")):
        if path not in known and path.stat().st_mtime >= newest:
            path.unlink()
