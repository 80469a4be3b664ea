"""What the promotion ledger says, read from its entries alone.

The ledger is the truth and aliases are its projection: an intent says what is about to be done and changes nothing; the
entry that ends it (`promoted`, `abandoned`) does. Entries are in order of their numbers.
"""

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tasks.core.records import LedgerEntry

OUTCOMES = ("promoted", "rejected", "undecided")  # what ends a decision
JUDGED = (*OUTCOMES, "waiting")  # the gate has spoken; "waiting": it said promote, and a person has the last word
# The aliases that the ledger owns, in the order in which they are written: the old champion is never without one.
ALIASES = ("previous", "champion", "challenger")


def champion(entries: Sequence[LedgerEntry]) -> int | None:
    """The version that is champion after the last entry; None before the first promotion."""
    return entries[-1].champion if entries else None


def previous(entries: Sequence[LedgerEntry]) -> int | None:
    """The champion before the champion: what a rollback goes back to."""
    return entries[-1].previous if entries else None


def challenger(entries: Sequence[LedgerEntry]) -> int | None:
    """The version that was judged last, unless it was promoted."""
    last = next((entry for entry in reversed(entries) if entry.kind in (*JUDGED, "rolled_back")), None)
    return last.version if last is not None and last.kind in ("rejected", "undecided", "waiting") else None


def aliases(entries: Sequence[LedgerEntry]) -> dict[str, int]:
    """Every alias that must be there; those of `ALIASES` that are not named here must not."""
    named = {"champion": champion(entries), "previous": previous(entries), "challenger": challenger(entries)}
    return {alias: version for alias, version in named.items() if version is not None}


def anchor(entries: Sequence[LedgerEntry]) -> int | None:
    """The last champion that came to be by superiority, as the first, or by a person.

    A refresh is promoted when no worse by a margin; measured against the champion alone, many of them could each lose
    a little. The anchor does not move with them.
    """
    current: int | None = None
    anchor_of: dict[int | None, int | None] = {}
    for entry in entries:
        if entry.kind == "promoted":
            is_own = entry.is_superior or entry.mode in ("first", "change", "person")
            current = anchor_of[entry.champion] = entry.champion if is_own else current
        elif entry.kind == "rolled_back":
            current = entry.champion if entry.mode == "person" else anchor_of.get(entry.champion, entry.champion)
    return current


def champion_as_of(entries: Sequence[LedgerEntry]) -> datetime | None:
    """The moment at which the champion was made: rows before it, its holdout among them, count as seen by it."""
    current = champion(entries)
    return next(
        (entry.as_of for entry in reversed(entries) if entry.kind == "promoted" and entry.champion == current), None
    )


def decided(entries: Sequence[LedgerEntry], decision_id: str) -> LedgerEntry | None:
    """How a decision ended, that it waits for a person, or that it was undone; None while it is open or abandoned."""
    ends = (*JUDGED, "rolled_back")
    return next((e for e in reversed(entries) if e.decision_id == decision_id and e.kind in ends), None)


def promotion_of(entries: Sequence[LedgerEntry], version: int) -> LedgerEntry | None:
    """The entry that last made a version the champion; None when it never was."""
    return next((e for e in reversed(entries) if e.kind == "promoted" and e.version == version), None)


def rollback_of(entries: Sequence[LedgerEntry], version: int) -> LedgerEntry | None:
    """The entry that took a version off; None when nobody has."""
    return next((e for e in reversed(entries) if e.kind == "rolled_back" and e.version == version), None)


def bar(entries: Sequence[LedgerEntry], entry: LedgerEntry) -> LedgerEntry | None:
    """The rollback that keeps `entry` from being promoted: that of a version with the same weights.

    Other data or another recipe make other weights: those stand for judgement anew.
    """
    return next((e for e in reversed(entries) if e.kind == "rolled_back" and _weights(e) & _weights(entry)), None)


def _weights(entry: LedgerEntry) -> set[str]:
    return {entry.digests[name] for name in ("judged_weights", "promoted_weights") if name in entry.digests}


def told(entry: LedgerEntry) -> str:
    """A rollback in words, as they follow on the name of a version."""
    return f"rolled back on {entry.at:%Y-%m-%d} by {entry.who}: {'; '.join(entry.reasons)}"


def follow(entries: Sequence[LedgerEntry], entry: LedgerEntry, **changes: Any) -> LedgerEntry:
    """`entry` with `changes`, as the one that comes next: numbered, with the champions that follow from its kind."""
    changed = dataclasses.replace(entry, number=len(entries) + 1, **changes)
    if changed.kind == "promoted":
        return dataclasses.replace(changed, champion=changed.version, previous=champion(entries))
    if changed.kind == "rolled_back":
        # None: the version that was taken off is nothing to go back to.
        return dataclasses.replace(changed, champion=previous(entries), previous=None)
    return dataclasses.replace(changed, champion=champion(entries), previous=previous(entries))


def unfinished(entries: Sequence[LedgerEntry]) -> LedgerEntry | None:
    """The intent of a change that was cut off: nothing else can follow an intent but its end."""
    return entries[-1] if entries and entries[-1].kind == "intent" else None


def attempts(entries: Sequence[LedgerEntry], mode: str | None = None) -> tuple[LedgerEntry, ...]:
    """Every look at a new pair of challenger and holdout; the same pair looked at again is none.

    `mode` leaves those that were judged so: each of `change` spends of the budget of false promotions.
    """
    seen: dict[tuple[str, ...], LedgerEntry] = {}
    for entry in entries:
        if entry.kind in JUDGED and (mode is None or entry.mode == mode):
            pair = (entry.digests.get("judged_weights", entry.decision_id), entry.digests.get("training_set", ""))
            seen.setdefault(pair, entry)
    return tuple(seen.values())
