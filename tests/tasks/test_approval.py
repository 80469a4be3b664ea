"""Approval against a real registry and ledger: a person has the last word, once, and it is written down."""

from datetime import UTC, datetime

import pytest

from configs.recipe import load_recipe
from tasks import promotion
from tasks.approval import answer_verdict, ask_person
from tasks.core import ledger as history
from tasks.core.errors import PromotionError
from tasks.core.records import LedgerEntry
from tasks.rollback import undo_promotion
from tasks.run import Run

APRIL, JULY = datetime(2013, 4, 1, tzinfo=UTC), datetime(2013, 7, 1, tzinfo=UTC)
PROJECT = "flights"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Version 1 is champion, version 2 has passed and waits, version 3 is registered."""
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path))
    client = promotion.open_registry(PROJECT).client
    client.create_registered_model(PROJECT)
    for number in (1, 2, 3):
        client.create_model_version(PROJECT, source=str(tmp_path / f"model-{number}"))
    record("intent", 1, None, as_of=APRIL)
    record("waiting", 2, 1)
    return tmp_path


def record(kind, version, judged_against, as_of=JULY):
    draft = LedgerEntry(
        number=0, kind=kind, decision_id=f"decision {version}", as_of=as_of, version=version, champion=None,
        previous=None, reasons=("better",), digests={"judged_weights": f"weights {version}"}, at=as_of, mode="refresh",
    )  # fmt: skip
    return promotion.record_outcome(PROJECT, draft, judged_against)


def answer(approve, version=2, who="Ada", why="looked at the slices"):
    return answer_verdict.fn(PROJECT, version, approve, who, why)


def entries():
    return promotion.open_ledger(PROJECT).entries()


def aliases():
    return promotion.open_registry(PROJECT).aliases()


def test_what_waits_is_no_champion_and_is_not_judged_again(home):
    assert aliases() == {"champion": 1, "challenger": 2}
    waiting = promotion.past_decision.fn(PROJECT, "decision 2")
    assert waiting.kind == "waiting"
    assert record("intent", 2, 1) == waiting
    assert [look.version for look in history.attempts(entries())] == [1, 2]


def test_an_approved_version_is_champion_and_the_ledger_says_who_and_why(home):
    entry = answer(True)
    assert (entry.kind, entry.champion, entry.previous, entry.who) == ("promoted", 2, 1, "Ada")
    assert entry.reasons == ("better", "approved by Ada: looked at the slices")
    assert [e.kind for e in entries()][-3:] == ["waiting", "intent", "promoted"]
    assert aliases() == {"champion": 2, "previous": 1}
    assert len(history.attempts(entries())) == 2


def test_a_rejected_version_stays_a_challenger_and_the_ledger_says_who_and_why(home):
    entry = answer(False)
    assert (entry.kind, entry.champion, entry.who) == ("rejected", 1, "Ada")
    assert entry.reasons[-1] == "rejected by Ada: looked at the slices"
    assert aliases() == {"champion": 1, "challenger": 2}


@pytest.mark.parametrize("first", [True, False])
def test_the_first_answer_stands(home, first):
    entry = answer(first)
    assert answer(not first, who="Bob") == entry
    assert entries()[-1] == entry


def test_a_verdict_that_the_champion_has_outlived_cannot_be_approved_but_can_be_rejected(home):
    record("intent", 3, 1)
    with pytest.raises(PromotionError, match="changed while"):
        answer(True)
    assert answer(False).kind == "rejected"
    assert aliases() == {"champion": 3, "previous": 1, "challenger": 2}


def test_what_was_rolled_back_cannot_be_approved_again(home):
    answer(True)
    undone = undo_promotion(PROJECT, JULY, "Bob", "alarms", None)
    assert answer(True) == undone
    assert aliases() == {"champion": 1}


def test_a_version_that_waits_for_nobody_is_told(home):
    with pytest.raises(PromotionError, match=r"(?s)version 3 .*does not wait.*waiting: \[2\]"):
        answer(True, version=3)


def test_from_the_shell_the_run_ends_and_says_how_to_answer(home, caplog):
    run = Run(recipe=load_recipe(PROJECT), as_of=JULY, cause="person", attempt=0)
    waiting = entries()[-1]
    assert ask_person(run, waiting) == waiting
    assert "python -m flows.approve --recipe flights --version 2 --who" in caplog.text
    assert entries()[-1] == waiting
    caplog.clear()
    assert ask_person(run, entries()[1]).kind == "promoted"
    assert not caplog.text
