"""What the ledger says, from entries alone."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tasks.core import ledger
from tasks.core.records import LedgerEntry

START = datetime(2013, 4, 1, tzinfo=UTC)


def entry(kind, version, *, number=1, mode="refresh", is_superior=False, **more):
    given_fields = {"decision_id": f"decision {version}", "as_of": START, "champion": None, "previous": None, **more}
    return LedgerEntry(
        number=number, kind=kind, version=version, reasons=(), mode=mode, is_superior=is_superior, at=START,
        digests={"judged_weights": f"weights {version}", "training_set": "rows"}, **given_fields
    )  # fmt: skip


def write(*drafts):
    """Entries as they come to be, one after another."""
    entries = ()
    for draft in drafts:
        entries = (*entries, ledger.follow(entries, draft))
    return entries


def test_an_empty_ledger_has_no_champion():
    assert ledger.aliases(()) == {}
    assert ledger.champion(()) is ledger.previous(()) is ledger.anchor(()) is ledger.champion_as_of(()) is None


def test_an_intent_changes_nothing_until_it_has_ended():
    before = write(entry("intent", 1), entry("promoted", 1))
    during = write(*before, entry("intent", 2))
    assert ledger.aliases(during) == {"champion": 1}
    assert ledger.unfinished(during) == during[-1]
    after = write(*during, entry("promoted", 2))
    assert ledger.aliases(after) == {"champion": 2, "previous": 1}
    assert ledger.unfinished(after) is None
    given_up = write(*during, entry("abandoned", 2))
    assert ledger.aliases(given_up) == {"champion": 1}
    assert ledger.decided(given_up, "decision 2") is None


def test_a_challenger_that_was_not_promoted_is_named():
    entries = write(entry("promoted", 1), entry("rejected", 2))
    assert ledger.aliases(entries) == {"champion": 1, "challenger": 2}
    assert ledger.aliases(write(*entries, entry("promoted", 3))) == {"champion": 3, "previous": 1}


def test_the_anchor_does_not_move_with_refreshes():
    entries = write(entry("promoted", 1, mode="first"), *(entry("promoted", n) for n in (2, 3, 4)))
    assert ledger.anchor(entries) == 1
    assert ledger.anchor(write(*entries, entry("promoted", 5, is_superior=True), entry("promoted", 6))) == 5
    assert ledger.anchor(write(*entries, entry("promoted", 5, mode="change"))) == 5


def test_a_rollback_takes_the_anchor_back():
    entries = write(entry("promoted", 1, mode="first"), entry("promoted", 2), entry("promoted", 3, mode="change"))
    assert ledger.anchor(write(*entries, entry("rolled_back", 3))) == 1
    assert ledger.anchor(write(*entries, entry("rolled_back", 3, mode="person"))) == 2


def test_after_a_rollback_there_is_nothing_to_go_back_to_until_the_next_promotion():
    entries = write(entry("promoted", 1), entry("promoted", 2), entry("rolled_back", 2))
    assert ledger.aliases(entries) == {"champion": 1}
    assert ledger.decided(entries, "decision 2") == ledger.rollback_of(entries, 2) == entries[-1]
    assert ledger.aliases(write(*entries, entry("promoted", 3))) == {"champion": 3, "previous": 1}


def test_only_the_weights_that_were_rolled_back_are_barred():
    entries = write(entry("promoted", 1), entry("promoted", 2), entry("rolled_back", 2))
    assert ledger.bar(entries, entry("intent", 2, decision_id="again")) == entries[-1]
    assert ledger.bar(entries, entry("intent", 3)) is None
    assert ledger.bar(entries[:2], entry("intent", 2)) is None


def test_the_champion_has_seen_the_rows_until_its_own_moment():
    later = START + timedelta(days=90)
    entries = write(entry("promoted", 1), entry("rejected", 2, as_of=later))
    assert ledger.champion_as_of(entries) == START
    assert ledger.champion_as_of(write(*entries, entry("promoted", 3, as_of=later))) == later


def test_the_same_look_twice_is_one_attempt():
    looks = write(
        entry("promoted", 1, mode="first"),
        entry("undecided", 2, mode="change"),
        entry("undecided", 2, mode="change", decision_id="again"),
        entry("intent", 3, mode="change"),
        entry("promoted", 3, mode="change"),
        entry("rejected", 4),
    )
    assert [look.version for look in ledger.attempts(looks)] == [1, 2, 3, 4]
    assert [look.version for look in ledger.attempts(looks, "change")] == [2, 3]


@given(st.lists(st.sampled_from(["promoted", "rejected", "rolled_back", "waiting"]), max_size=12))
def test_every_beginning_of_a_ledger_explains_who_was_champion_then(kinds):
    """A promotion puts the old champion beside the new one; a rollback takes it back and leaves nothing beside it."""
    entries, states = (), [(None, None)]  # champion and previous after each entry
    for version, kind in enumerate(kinds, start=1):
        champion, previous = states[-1]
        if kind == "rolled_back" and previous is None:
            continue
        about = champion if kind == "rolled_back" else version
        changed = {"promoted": (version, champion), "rolled_back": (previous, None)}.get(kind, (champion, previous))
        if kind in ("promoted", "rolled_back"):
            entries, states = write(*entries, entry("intent", about)), [*states, (champion, previous)]
        entries, states = write(*entries, entry(kind, about)), [*states, changed]
    for cut, (champion, previous) in enumerate(states):
        then = entries[:cut]
        aliases = ledger.aliases(then)
        assert (ledger.champion(then), ledger.previous(then)) == (champion, previous)
        assert (aliases.get("champion"), aliases.get("previous")) == (champion, previous)
        assert champion is None or champion != previous


@given(st.lists(st.sampled_from(["promoted", "abandoned", "rejected", "undecided"]), max_size=12))
def test_champion_and_previous_are_the_last_two_promoted(kinds):
    drafts, promoted = [], []
    for version, kind in enumerate(kinds, start=1):
        if kind in ("promoted", "abandoned"):
            drafts.append(entry("intent", version))
        drafts.append(entry(kind, version))
        promoted += [version] if kind == "promoted" else []
    entries = write(*drafts)
    last_two = [*reversed(promoted), None, None][:2]
    assert [ledger.champion(entries), ledger.previous(entries)] == last_two
    assert [e.number for e in entries] == list(range(1, len(entries) + 1))
    assert ledger.challenger(entries) not in promoted
