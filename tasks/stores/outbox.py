"""Records on disk that are only ever added: each appears whole, once, and is never changed; and the outbox of retrains.

<folder>/<decision>/wanted.json, claim-001.json, claim-002.json, …, done.json
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from tasks.core.errors import PerennialError
from tasks.core.owners import unfinished
from tasks.core.records import Claim, Done, OutboxEntry, Record, Wanted

R = TypeVar("R", bound=Record)


def put_if_absent(path: Path, record: Record) -> bool:
    """Write the record unless something is there; whether it was written. Of many at once, one succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path.with_name(f"{path.name}.{time.monotonic_ns()}"))
    temporary.write_text(record.to_json() + "\n")
    _flush(temporary)
    try:
        # A link appears whole and fails when the name is taken; a rename would replace the other's record.
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    _flush(path.parent)
    return True


class Journal:
    """Records of one kind under one folder, in the order of their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, record: R) -> R:
        """The record under this name: the one given, or the one that was there before."""
        path = self.folder / f"{name}.json"
        return record if put_if_absent(path, record) else type(record).read(path)

    def read(self, kind: type[R], suffix: str = "") -> list[R]:
        return [read_record(path, kind) for path in sorted(self.folder.glob(f"[!.]*{suffix}.json"))]

    def find(self, name: str, kind: type[R]) -> R | None:
        path = self.folder / f"{name}.json"
        return read_record(path, kind) if path.exists() else None


class Outbox:
    """The decided retrains of one project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entries(self) -> list[OutboxEntry]:
        """All, in order of `as_of`, then of decision."""
        found = [self.entry(path.parent.name) for path in self.folder.glob("*/wanted.json")]
        known = [entry for entry in found if entry is not None]
        return sorted(known, key=lambda entry: (entry.wanted.as_of, entry.wanted.decision_id))

    def entry(self, decision_id: str) -> OutboxEntry | None:
        folder = self.folder / decision_id
        if not (folder / "wanted.json").exists():
            return None
        claims = [read_record(path, Claim) for path in sorted(folder.glob("claim-*.json"))]
        done = read_record(folder / "done.json", Done) if (folder / "done.json").exists() else None
        return OutboxEntry(wanted=read_record(folder / "wanted.json", Wanted), claims=tuple(claims), done=done)

    def put(self, wanted: Wanted) -> bool:
        """Add a decision; False where it is there already."""
        return put_if_absent(self.folder / wanted.decision_id / "wanted.json", wanted)

    @contextmanager
    def hold(self, decision_id: str) -> Iterator[OutboxEntry | None]:
        """Be the only run that works on a decision; None where another one does, or it is done, or there is none.

        The kernel ties the hold to the process, so that nobody has to judge whether a claimant is dead.
        """
        if not (self.folder / decision_id / "wanted.json").exists():
            yield None
            return
        with _lock(self.folder / decision_id / ".running", wait=False) as is_mine:
            entry = self.entry(decision_id) if is_mine else None
            yield entry if entry is not None and entry.done is None else None

    def is_held(self, decision_id: str) -> bool:
        with _lock(self.folder / decision_id / ".running", wait=False) as is_free:
            return not is_free

    def claim(self, entry: OutboxEntry, who: str, flow_run: str | None = None) -> Claim:
        """Note the next attempt; only while it is held.

        Raises:
            PerennialError: someone else has noted it, who cannot hold it too.
        """
        made = Claim(attempt=entry.next_attempt, who=who, at=datetime.now(UTC), flow_run=flow_run)
        path = self.folder / entry.wanted.decision_id / f"claim-{made.attempt:03}.json"
        if not put_if_absent(path, made):
            raise PerennialError(
                f"attempt {made.attempt} at decision {entry.wanted.decision_id} is taken", got=path.read_text(),
                expected="one run at a time on one decision", fix="keep the home on a file system that has locks",
            )  # fmt: skip
        return made

    def finish(self, decision_id: str, outcome: str, attempt: int) -> Done:
        """Note how it ended; what was noted first stands."""
        done = Done(outcome=outcome, attempt=attempt, at=datetime.now(UTC))
        path = self.folder / decision_id / "done.json"
        return done if put_if_absent(path, done) else read_record(path, Done)

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """One decision at a time: the next one sees what the last one wrote."""
        with _lock(self.folder / ".deciding", wait=True):
            yield


def read_record(path: Path, kind: type[R]) -> R:
    """Raises: PerennialError: it is not as it was written."""
    try:
        return kind.read(path)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PerennialError(
            f"{path} cannot be read", got=error, expected="a record as it was written; records are never changed",
            fix="restore the file from a backup",
        ) from error  # fmt: skip


@contextmanager
def _lock(path: Path, *, wait: bool) -> Iterator[bool]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
