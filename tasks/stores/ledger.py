"""The promotion ledger on disk: numbered JSON entries, appended and never changed, and the locks on them."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path

from tasks.core.errors import PromotionError
from tasks.core.records import LedgerEntry

POLL_SECONDS = 0.05

# The locks that this run holds; a Prefect task that runs in another thread is given a copy.
_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())


class LockHeldError(PromotionError):
    """Someone else is promoting, or writing, at this moment."""


class Ledger:
    """The entries under one folder, `000001.json` on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entries(self) -> tuple[LedgerEntry, ...]:
        """All entries, in order.

        Raises:
            PromotionError: one is missing, unreadable, or is not the one its name says.
        """
        paths = sorted(self.folder.glob("[0-9]*.json"))
        return tuple(self._read(path, number) for number, path in enumerate(paths, start=1))

    def _read(self, path: Path, number: int) -> LedgerEntry:
        expected = self._path(number)
        if path != expected:
            raise PromotionError(
                f"entry {number} of the ledger is missing",
                got=f"{path.name} in its place",
                expected=expected,
                fix="restore the file from a backup; without it nobody can say which model is the champion",
            )
        try:
            entry = LedgerEntry.read(path)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PromotionError(
                f"entry {number} of the ledger cannot be read",
                got=f"{path}: {error}",
                expected="an entry as it was written; entries are never changed",
                fix="restore the file from a backup",
            ) from error
        if entry.number != number:
            raise PromotionError(
                f"{path} says that it is entry {entry.number}", expected=number, fix="restore the file from a backup"
            )
        return entry

    def append(self, entry: LedgerEntry) -> LedgerEntry:
        """Add the entry under the number that it names, unless someone else has taken it.

        Raises:
            PromotionError: the number is taken, or is not the next one.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(entry.number)
        if entry.number > 1 and not self._path(entry.number - 1).exists():
            raise PromotionError(f"entry {entry.number} would leave a gap in the ledger {self.folder}")
        temporary = self.folder / f".{path.stem}.{os.getpid()}.{time.monotonic_ns()}"
        temporary.write_text(entry.to_json() + "\n")
        _flush(temporary)
        try:
            # A link appears whole and fails when the name is taken; a rename would replace the other's entry.
            os.link(temporary, path)
        except FileExistsError:
            raise PromotionError(
                f"entry {entry.number} of the ledger was taken by another run of this project",
                got=path.read_text(),
                expected=f"nobody else promotes while decision {entry.decision_id} does",
                fix="run again: it goes on from what the other run decided",
            ) from None
        finally:
            temporary.unlink()
        _flush(self.folder)
        return entry

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}.json"

    @contextmanager
    def lock(self, decision_id: str, wait_seconds: float = 30.0) -> Iterator[None]:
        """Be the only run that works towards a promotion, from its start to its end.

        Raises:
            LockHeldError: another run holds it, still after `wait_seconds`.
        """
        with self._hold(self.folder / ".lock", decision_id, wait_seconds):
            yield

    @contextmanager
    def writing(self, decision_id: str, wait_seconds: float = 30.0) -> Iterator[None]:
        """Be the only one who changes entries and aliases: for moments, so that a rollback waits for no training.

        Raises:
            LockHeldError: another one writes, still after `wait_seconds`.
        """
        with self._hold(self.folder / ".writing.lock", decision_id, wait_seconds):
            for left in self.folder.glob(".[0-9]*"):
                left.unlink()  # of a run that was killed while it appended
            yield

    @contextmanager
    def _hold(self, path: Path, decision_id: str, wait_seconds: float) -> Iterator[None]:
        """Held once, it may be entered again by the same run.

        The kernel ties the lock to the process: a dead holder holds nothing, so nobody has to judge whether it is dead.
        """
        if path in _held.get():
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as file:
            self._acquire(path, file.fileno(), wait_seconds)
            held = _held.set(_held.get() | {path})
            try:
                _say(file.fileno(), decision_id)
                yield
            finally:
                _held.reset(held)
                os.ftruncate(file.fileno(), 0)

    def _acquire(self, path: Path, descriptor: int, wait_seconds: float) -> None:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise LockHeldError(
                        f"another run of project {self.folder.name!r} is promoting",
                        got=self.holder(path) or "a holder that has not said yet who it is",
                        expected=f"its lock {path} to be free within {wait_seconds:g} s",
                        fix="wait until that run has ended, or end it; a lock never outlives its process",
                    ) from None
                time.sleep(POLL_SECONDS)

    def holder(self, path: Path | None = None) -> str:
        """Who wrote into the lock file last, and has not left; empty when nobody."""
        try:
            said = json.loads((path or self.folder / ".lock").read_text())
        except ValueError:  # nobody has said anything, or is saying it at this moment
            return ""
        return f"process {said['pid']} on {said['host']} since {said['since']}, decision {said['decision_id']}"


def _say(descriptor: int, decision_id: str) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    said = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "decision_id": decision_id}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(said).encode(), 0)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
