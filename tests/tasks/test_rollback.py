"""Rollback against a real registry and ledger: asked twice, asked wrongly, killed at every boundary."""

import multiprocessing
import os
import shutil
import signal
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from configs.recipe import load_recipe
from tasks import promotion
from tasks.core import ledger as history
from tasks.core.errors import ModelError, PromotionError
from tasks.core.quality import Effect
from tasks.core.records import Interval, LedgerEntry, Window
from tasks.rollback import roll_back_if_worse, undo_promotion
from tasks.run import Run

APRIL, JULY, AUGUST = (datetime(2013, month, 1, tzinfo=UTC) for month in (4, 7, 8))
PROJECT = "flights"
WHY = "alarms at EWR"
RUN = Run(recipe=load_recipe(PROJECT), as_of=AUGUST, cause="test", attempt=0)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A home with versions 1 to 4; version 2 took the place of version 1. Rollback reads no model's files."""
    home = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_HOME", str(home))
        registry = promotion.open_registry(PROJECT)
        registry.client.create_registered_model(PROJECT)
        for number in (1, 2, 3, 4):
            registry.client.create_model_version(PROJECT, source=str(home / f"model-{number}"))
        promotion.record_outcome(PROJECT, draft(1, mode="first", as_of=APRIL), None)
        promotion.record_outcome(PROJECT, draft(2), 1)
    return home


@pytest.fixture
def home(template, tmp_path, monkeypatch):
    folder = shutil.copytree(template, tmp_path / "home")
    monkeypatch.setenv("PERENNIAL_HOME", str(folder))
    return folder


def draft(version, *, decision=None, weights=None, as_of=JULY, mode="refresh"):
    digests = {"judged_weights": weights or f"weights {version}", "promoted_weights": f"refitted {version}"}
    return LedgerEntry(
        number=0, kind="intent", decision_id=decision or f"decision {version}", as_of=as_of, version=version,
        champion=None, previous=None, reasons=("better",), digests=digests, at=as_of, mode=mode,
    )  # fmt: skip


def roll_back(who="Ada", reason=WHY, version=None):
    return undo_promotion(PROJECT, AUGUST, who, reason, version)


def entries():
    return promotion.open_ledger(PROJECT).entries()


def aliases():
    return promotion.open_registry(PROJECT).aliases()


def test_the_previous_champion_is_back_and_the_ledger_says_who_and_why(home):
    assert aliases() == {"champion": 2, "previous": 1}
    entry = roll_back()
    assert (entry.kind, entry.version, entry.champion, entry.previous) == ("rolled_back", 2, 1, None)
    assert (entry.who, entry.reasons, entry.mode, entry.as_of) == ("Ada", (WHY,), "person", AUGUST)
    assert [e.kind for e in entries()][-2:] == ["intent", "rolled_back"]
    assert entries()[-1] == entry
    assert aliases() == {"champion": 1}
    assert promotion.current_champion.fn(PROJECT).version == 1
    assert history.champion_as_of(entries()) == APRIL


def test_a_champion_that_is_shown_worse_afterwards_is_taken_off_once_by_the_gate(home):
    assert roll_back_if_worse.fn(RUN, found()) is None
    assert aliases() == {"champion": 2, "previous": 1}
    entry = roll_back_if_worse.fn(RUN, found("shown worse"))
    assert (entry.kind, entry.version, entry.champion, entry.who) == ("rolled_back", 2, 1, "the gate")
    assert (entry.reasons, entry.mode) == (("shown worse",), "refresh")
    assert history.anchor(entries()) == 1
    assert roll_back_if_worse.fn(RUN, found("shown worse")) is None
    assert aliases() == {"champion": 1}


def test_the_gate_does_not_undo_what_a_person_promoted(home):
    promotion.record_outcome(PROJECT, draft(3, mode="person"), 2)
    assert roll_back_if_worse.fn(RUN, found("shown worse", version=3, previous=2)) is None
    assert aliases() == {"champion": 3, "previous": 2}


def found(*worse, version=2, previous=1):
    """A monitor's report, of which only the effect of the promotion is looked at."""
    effect = Effect(
        version=version, previous=previous, metric="auc", window=Window(start=APRIL, end=JULY), rows=1,
        difference=Interval(value=-0.1, low=-0.2, high=-0.05), worse=worse,
    )  # fmt: skip
    return SimpleNamespace(effect=effect)


def test_it_takes_less_than_a_second(home):
    promotion.open_registry(PROJECT).aliases()  # as `preload` does before the flow begins
    started = time.process_time()
    roll_back()
    assert time.process_time() - started < 1


def test_the_same_request_twice_goes_back_once(home):
    first = roll_back()
    assert roll_back() == first
    assert roll_back("Bob", "the same alarms", version=2) == first
    assert len(entries()) == 6


def test_without_a_previous_champion_it_is_refused_and_says_why(home, tmp_path, monkeypatch):
    roll_back()
    with pytest.raises(PromotionError, match=rf"version 1, which came back .* by Ada: {WHY}"):
        roll_back("Bob", "still alarms")
    assert aliases() == {"champion": 1}
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "empty"))
    with pytest.raises(PromotionError, match=r"(?s)no previous champion.*got:      no champion"):
        roll_back()
    promotion.open_registry(PROJECT).client.create_registered_model(PROJECT)
    promotion.open_registry(PROJECT).client.create_model_version(PROJECT, source="model")
    promotion.record_outcome(PROJECT, draft(1), None)
    with pytest.raises(PromotionError, match="version 1, the first"):
        roll_back()


def test_another_champion_than_the_one_named_stays(home):
    promotion.record_outcome(PROJECT, draft(3), 2)
    with pytest.raises(PromotionError, match=r"(?s)version 2 .*is not the champion.*got:      version 3"):
        roll_back(version=2)
    assert aliases() == {"champion": 3, "previous": 2}
    assert roll_back(version=3).champion == 2


def test_a_previous_version_that_is_gone_is_not_gone_back_to(home):
    promotion.open_registry(PROJECT).client.delete_model_version(PROJECT, "1")
    with pytest.raises(ModelError, match="no version 1"):
        roll_back()
    assert len(entries()) == 4


# --- what was rolled back does not come back by itself ----------------------------------------------


def test_the_same_decision_is_shown_as_rolled_back(home):
    undone = roll_back()
    assert promotion.past_decision.fn(PROJECT, "decision 2") == undone
    assert promotion.record_outcome(PROJECT, draft(2), 1) == undone
    assert aliases() == {"champion": 1}


def test_the_same_weights_under_another_decision_are_rejected(home):
    roll_back()
    entry = promotion.record_outcome(PROJECT, draft(3, weights="weights 2"), 1)
    assert (entry.kind, entry.champion) == ("rejected", 1)
    assert "those of version 2, rolled back on" in entry.reasons[-1]
    assert aliases() == {"champion": 1, "challenger": 3}


def test_other_weights_are_promoted_after_a_rollback(home):
    roll_back()
    assert promotion.record_outcome(PROJECT, draft(3), 1).kind == "promoted"
    assert aliases() == {"champion": 3, "previous": 1}


def test_a_training_on_its_way_is_not_waited_for_and_cannot_promote(home):
    with promotion.promoting(PROJECT, "decision 3"):
        started = time.monotonic()
        roll_back()
        assert time.monotonic() - started < 10  # the lock's own patience is longer
        with pytest.raises(PromotionError, match="changed while"):
            promotion.record_outcome(PROJECT, draft(3), 2)
    assert aliases() == {"champion": 1}


# --- killed -----------------------------------------------------------------------------------------


def roll_back_and_die(home, boundary):
    """In a process of its own: roll back, and be killed at the boundary."""
    os.environ["PERENNIAL_HOME"] = home
    from tasks.stores.ledger import Ledger
    from tasks.stores.registry import Registry

    append, set_alias, delete_alias = Ledger.append, Registry.set_alias, Registry.delete_alias

    def die(now):
        if now == boundary:
            os.kill(os.getpid(), signal.SIGKILL)

    def appending(self, entry):
        die(f"before {entry.kind}")
        append(self, entry)
        die(f"after {entry.kind}")
        return entry

    def changing(change):
        def changed(self, *arguments):
            change(self, *arguments)
            die("between the aliases")

        return changed

    Ledger.append, Registry.set_alias, Registry.delete_alias = appending, changing(set_alias), changing(delete_alias)
    roll_back()


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlflow.tracking", __name__])
    return context


BOUNDARIES = ("before intent", "after intent", "between the aliases", "before rolled_back", "after rolled_back")


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_killed_rollback_is_ended_by_the_next_start_and_done_once(home, processes, boundary):
    process = processes.Process(target=roll_back_and_die, args=(str(home), boundary))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    if boundary == "between the aliases":
        assert aliases() != history.aliases(entries())  # it was a kill that broke something
    started = promotion.current_champion.fn(PROJECT)  # what the next run does first
    assert started.version == (2 if boundary == "before intent" else 1)
    assert roll_back().champion == 1
    assert [e.kind for e in entries()][4:] == ["intent", "rolled_back"]
    assert aliases() == history.aliases(entries()) == {"champion": 1}
