"""Promotions, rejections, rollbacks, kills and hands on the aliases, in any order: the ledger explains the aliases.

Versions without files are enough here: nothing of them is loaded.
"""

import shutil
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks import promotion, rollback
from tasks.core import ledger as history
from tasks.core.errors import PromotionError
from tasks.core.records import LedgerEntry
from tasks.stores.ledger import Ledger
from tasks.stores.registry import Registry

PROJECT, NOW, VERSIONS = "flights", datetime(2013, 4, 1, tzinfo=UTC), 5
Champions = tuple[int | None, int | None]  # champion, previous


class Killed(BaseException):
    """What is done until then stands, and nothing after it is."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_HOME", str(home))
        registry = promotion.open_registry(PROJECT)
        registry._ensure_registered_model()
        run = registry.run("any")
        for _ in range(VERSIONS):
            registry.client.create_model_version(PROJECT, source=str(home), run_id=run)
    return home


def propose(kind: str, version: int, number: int) -> LedgerEntry:
    return LedgerEntry(
        number=0, kind=kind, decision_id=f"decision {number}", as_of=NOW, version=version, champion=None, previous=None,
        reasons=("because",), digests={"judged_weights": f"weights {version}"}, at=NOW, mode="refresh",
    )  # fmt: skip


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """`writes`: how many writes, of entries and aliases, there may be before the kill; None: no kill."""
    left: dict[str, int | None] = {"writes": None}

    def counted(write: Any) -> Any:
        def writing(*arguments: Any) -> Any:
            if left["writes"] == 0:
                raise Killed
            left["writes"] = None if left["writes"] is None else left["writes"] - 1
            return write(*arguments)

        return writing

    for owner, name in ((Ledger, "append"), (Registry, "set_alias"), (Registry, "delete_alias")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return left


moves = st.one_of(
    st.tuples(st.sampled_from(["intent", "rejected"]), st.integers(1, VERSIONS)),
    st.tuples(st.just("rollback"), st.just(0)),
    st.tuples(st.just("hand"), st.integers(1, VERSIONS)),
)
kills = st.none() | st.integers(0, 4)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(played=st.lists(st.tuples(moves, kills), min_size=1, max_size=7))
def test_whatever_happens_in_whatever_order_the_ledger_explains_the_aliases(
    template: Any, tmp_path_factory: pytest.TempPathFactory, dying: dict[str, int | None], played: list[Any]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        home = shutil.copytree(template, tmp_path_factory.mktemp("played") / "home")
        patch.setenv("PERENNIAL_HOME", str(home))
        champions: Champions = (None, None)
        for number, ((kind, version), writes) in enumerate(played):
            before = promotion.open_ledger(PROJECT).entries()
            dying["writes"] = writes
            act(kind, version, number, champions)
            dying["writes"] = None
            found = promotion.current_champion.fn(PROJECT)  # what every run does first
            entries = promotion.open_ledger(PROJECT).entries()
            assert entries[: len(before)] == before, "nothing that was said is changed"
            champions = explained(entries)
            assert champions[0] == (found.version if found else None) == history.champion(entries)
            assert promotion.open_registry(PROJECT).aliases() == history.aliases(entries)
            assert not entries or entries[-1].kind != "intent"


def act(kind: str, version: int, number: int, champions: Champions) -> None:
    """One move, which a kill may cut off."""
    with suppress(Killed):
        if kind == "hand":
            promotion.open_registry(PROJECT).set_alias("champion", version)
        elif kind != "rollback":
            promotion.record_outcome(PROJECT, propose(kind, version, number), champions[0])
        elif champions[1] is not None:
            rollback.undo_promotion(PROJECT, NOW, "Ada", f"reason {number}", None)
        else:
            with pytest.raises(PromotionError, match="go back to"):
                rollback.undo_promotion(PROJECT, NOW, "Ada", f"reason {number}", None)


def explained(entries: tuple[LedgerEntry, ...]) -> Champions:
    """Champion and previous by the plain rules, from the kinds alone; weights that were taken off do not come back."""
    champion, previous, barred = None, None, set()
    for entry in entries:
        if entry.kind == "promoted":
            assert entry.version not in barred
            champion, previous = entry.version, champion
        elif entry.kind == "rolled_back":
            assert (entry.version, previous is not None) == (champion, True)
            barred.add(entry.version)
            champion, previous = previous, None
        assert (entry.champion, entry.previous) == (champion, previous)
    return champion, previous
