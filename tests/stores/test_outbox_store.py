"""Claims on disk: of many processes one, after a death the next, never two at once."""

import multiprocessing
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.core.errors import PerennialError
from tasks.core.records import Claim, Wanted
from tasks.stores.outbox import Journal, Outbox, put_if_absent

WANTED = Wanted(
    decision_id="d1", project="p", recipe="p", overrides={"model.max_epochs": 2},
    as_of=datetime(2013, 4, 1, tzinfo=UTC), cause="quality", reasons=("it was low",),
)  # fmt: skip
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    made = Outbox(tmp_path / "outbox")
    made.put(WANTED)
    return made


def work(folder: Path, barrier, winners: Path, seconds: float) -> None:
    outbox = Outbox(folder)
    barrier.wait()
    with outbox.hold("d1") as entry:
        if entry is not None:
            claim = outbox.claim(entry, f"process {os.getpid()}")
            with winners.open("a") as file:
                file.write(f"{claim.attempt}\n")
            time.sleep(seconds)
            outbox.finish("d1", "promoted", claim.attempt)


def test_of_eight_processes_one_does_it_and_those_who_come_later_find_it_done(outbox, tmp_path):
    barrier, winners = FORK.Barrier(8), tmp_path / "winners"
    told = [FORK.Process(target=work, args=(outbox.folder, barrier, winners, 0.2)) for _ in range(8)]
    for process in told:
        process.start()
    for process in told:
        process.join(30)
    assert winners.read_text() == "1\n"
    assert outbox.entry("d1").done.outcome == "promoted"
    with outbox.hold("d1") as entry:
        assert entry is None


def test_a_killed_run_leaves_the_next_attempt_to_another(outbox, tmp_path):
    barrier, winners = FORK.Barrier(2), tmp_path / "winners"
    process = FORK.Process(target=work, args=(outbox.folder, barrier, winners, 60))
    process.start()
    barrier.wait()
    while not winners.exists():
        time.sleep(0.01)
    assert outbox.is_held("d1")
    with outbox.hold("d1") as entry:
        assert entry is None, "it is being done"
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert not outbox.is_held("d1")
    with outbox.hold("d1") as entry:
        assert entry.next_attempt == 2
        assert outbox.claim(entry, "me").attempt == 2
        with pytest.raises(PerennialError, match=r"attempt 2 .* is taken"):
            outbox.claim(entry, "me")


def test_a_decision_is_put_once_and_ends_once(outbox):
    assert not outbox.put(WANTED)
    assert outbox.entry("d1").wanted == WANTED
    assert outbox.finish("d1", "rejected", 1) == outbox.finish("d1", "promoted", 2)
    assert outbox.entry("nobody") is None
    with outbox.hold("nobody") as entry:
        assert entry is None
    assert not (outbox.folder / "nobody").exists()


def test_a_journal_keeps_what_was_written_first_and_reads_in_order(tmp_path):
    journal, now = Journal(tmp_path / "kept"), datetime(2013, 4, 1, tzinfo=UTC)
    second, first = (Claim(attempt=n, who="me", at=now) for n in (2, 1))
    journal.add("b", second)
    journal.add("a", first)
    assert journal.add("b", first) == second
    assert journal.read(Claim) == [first, second]
    assert journal.find("c", Claim) is None
    (tmp_path / "kept" / "b.json").write_text("{")
    with pytest.raises(PerennialError, match="cannot be read"):
        journal.read(Claim)
    assert not put_if_absent(tmp_path / "kept" / "b.json", first), "what is broken is not written over"
    assert [path.name for path in sorted((tmp_path / "kept").iterdir())] == ["a.json", "b.json"]
