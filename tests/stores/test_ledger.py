"""The ledger on disk, and its lock between processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from tasks.core.errors import PromotionError
from tasks.core.records import LedgerEntry
from tasks.stores.ledger import Ledger, LockHeldError

NOW = datetime(2013, 4, 1, tzinfo=UTC)

HOLD = """
import sys, time
from pathlib import Path
from tasks.stores.ledger import Ledger
with Ledger(Path(sys.argv[1])).lock("theirs"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "flights")


def entry(number, decision_id="a"):
    return LedgerEntry(
        number=number, kind="rejected", decision_id=decision_id, as_of=NOW, version=1, champion=None, previous=None,
        reasons=("no better",), digests={}, at=NOW,
    )  # fmt: skip


@contextmanager
def hold(ledger, seconds):
    """Another process that holds the lock; killed at the end."""
    command = [sys.executable, "-c", HOLD, ledger.folder, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_what_was_appended_is_read_back_in_order(ledger):
    assert ledger.entries() == ()
    written = tuple(ledger.append(entry(number)) for number in range(1, 12))
    assert ledger.entries() == written


def test_two_writers_cannot_take_one_number(ledger):
    barrier = threading.Barrier(8)

    def write(name):
        barrier.wait()
        try:
            return ledger.append(entry(1, name))
        except PromotionError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(write, "abcdefgh"))
    refused = [str(error) for error in done if isinstance(error, PromotionError)]
    assert len(refused) == 7
    assert all("taken by another run" in told for told in refused)
    assert ledger.entries() == tuple(written for written in done if isinstance(written, LedgerEntry))
    assert [path.name for path in ledger.folder.iterdir()] == ["000001.json"]


def test_a_gap_or_a_damaged_entry_is_told(ledger):
    with pytest.raises(PromotionError, match="leave a gap"):
        ledger.append(entry(2))
    for number in (1, 2, 3):
        ledger.append(entry(number))
    (ledger.folder / "000002.json").write_text("{")
    with pytest.raises(PromotionError, match="entry 2 of the ledger cannot be read"):
        ledger.entries()
    (ledger.folder / "000002.json").write_text(entry(3).to_json())
    with pytest.raises(PromotionError, match="says that it is entry 3"):
        ledger.entries()
    (ledger.folder / "000002.json").unlink()
    with pytest.raises(PromotionError, match="entry 2 of the ledger is missing"):
        ledger.entries()


def test_a_second_holder_is_refused_and_told_who_holds(ledger):
    with hold(ledger, 60) as other:
        said = rf"process {other.pid} on .*, decision theirs"
        with pytest.raises(LockHeldError, match=said), ledger.lock("ours", 0):
            pass


def test_a_dead_holder_holds_nothing(ledger):
    with hold(ledger, 60) as other:
        (ledger.folder / f".000001.{other.pid}.1").write_text("half an en")
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        assert "decision theirs" in ledger.holder()
    with ledger.lock("ours", 0):
        assert "decision ours" in ledger.holder()
        with ledger.writing("ours", 0):
            assert sorted(path.name for path in ledger.folder.iterdir()) == [".lock", ".writing.lock"]
    assert ledger.holder() == ""


def test_whoever_writes_does_not_wait_for_a_run(ledger):
    with hold(ledger, 60), ledger.writing("ours", 0):
        ledger.append(entry(1))


def test_a_short_hold_is_waited_for(ledger):
    with hold(ledger, 0.5):
        started = time.monotonic()
        with ledger.lock("ours", wait_seconds=30):
            assert time.monotonic() - started > 0.3


def test_the_same_run_may_enter_again_but_another_thread_may_not(ledger):
    with ledger.lock("ours", 0):
        with ledger.lock("ours", 0):
            pass
        refused = []

        def enter():
            try:
                with ledger.lock("theirs", 0):
                    pass
            except LockHeldError:
                refused.append(True)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert refused == [True]
        assert "decision ours" in ledger.holder()
