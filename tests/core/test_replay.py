"""Then and now, line by line: what is equal, what differs first, and what a reader is told."""

import dataclasses
from datetime import UTC, datetime

from tasks.core.model_card import CodeVersion
from tasks.core.records import Evaluation, Interval, Scorecard, SliceScore, Verdict, Window
from tasks.core.replay import (
    NOT_MADE,
    ReplayReport,
    changed_metrics,
    compare,
    flat_metrics,
    fold,
    given_facts,
    made_facts,
    table_facts,
    verdict_digest,
    write_page,
    write_table,
)

NOW = datetime(2013, 7, 1, tzinfo=UTC)
CODE = CodeVersion(commit="c0ffee" * 7, is_dirty=False, lock_digest="10c", python="3.11.7", libraries={"torch": "2.13"})
PROMOTE = Verdict(outcome="promote", mode="first", reasons=("above its floors",))


def facts(code=CODE, tables="a1", sql="b1", judged="c1", verdict=PROMOTE):
    return {
        **given_facts(code, "f17", "1 x cpu", "4ec", 7),
        **table_facts("lake", {"weather": "a0", "schedule": tables}),
        **table_facts("definition", {"flights/aircraft.sql": sql}),
        **made_facts(judged, {"challenger auc": 0.7}, judged, verdict),
    }


def report(then, now):
    return ReplayReport(project="flights", version=3, decision_id="d", as_of=NOW, lines=compare(then, now))


def test_equal_facts_are_told_as_equal():
    found = report(facts(), facts())
    assert found.is_equal
    assert found.told == "equal: all 10 digests"
    assert ReplayReport.from_json(found.to_json()) == found


def test_the_first_digest_that_differs_is_named_and_what_followed_from_it():
    found = report(facts(), facts(sql="b2", judged="c2"))
    assert found.told == (
        "differs first in definition flights/aircraft.sql: b1 then, b2 now; after it judged weights, served weights"
    )


def test_other_code_alone_changes_no_verdict_but_is_told():
    other = dataclasses.replace(CODE, commit="bad" * 13, is_dirty=True, libraries={"torch": "2.14"})
    found = report(facts(), facts(code=other))
    assert found.is_equal
    assert found.told == "equal: all 10 digests; it was made with another code, library torch"
    assert "made with another code" in report(facts(), facts(code=other, judged="c2")).told


def test_what_a_replay_did_not_come_to_is_not_made():
    cut = {key: value for key, value in facts(sql="b2").items() if key[0] not in ("verdict", "metrics")}
    lines = {line.part: line for line in report(facts(), cut).lines}
    assert (lines["verdict"].now, lines["metrics"].now) == (NOT_MADE, NOT_MADE)
    assert not lines["verdict"].is_equal


def test_a_file_that_is_new_stands_with_its_kind():
    new = facts() | table_facts("definition", {"flights/new.sql": "b9"})
    found = report(facts(), new)
    assert found.told.startswith("differs first in definition flights/new.sql: none then, b9 now")
    assert [line.part for line in found.lines].index("judged weights") > 0
    assert [line.label for line in found.lines if line.part == "definition"] == [
        "definition flights/aircraft.sql", "definition flights/new.sql",
    ]  # fmt: skip


def test_equal_lines_of_a_part_are_folded_and_others_are_not():
    folded = list(fold(report(facts(), facts(sql="b2")).lines))
    assert "lake (2 equal)" in [line.label for line in folded]
    assert [line.label for line in fold(report(facts(), facts(tables="a2")).lines) if line.part == "lake"] == [
        "lake schedule", "lake weather",
    ]  # fmt: skip
    table = write_table(report(facts(), facts(sql="b2"))).splitlines()
    assert [line.split()[-1] for line in table if "aircraft.sql" in line] == ["differs"]
    assert len({line.rindex("equal") for line in table if line.endswith(" equal")}) == 1, "one column"
    assert "**differs first" in write_page(report(facts(), facts(sql="b2")))


def test_metrics_are_compared_to_the_last_bit_and_nan_is_itself():
    score = SliceScore(column="origin", value="JFK", rows=3, metric=Interval(value=float("nan"), low=0, high=0))
    card = Scorecard(
        model="challenger", version=None, rows=3, window=Window(start=NOW, end=NOW), slices=(score,),
        metrics={"auc": Interval(value=0.7, low=0.6, high=0.8)}, calibration_error=0.01, latency_one_ms=2.0,
    )  # fmt: skip
    flat = flat_metrics(Evaluation(scorecards=(card,), verdict=PROMOTE, baseline_wins=False, predictions_uri=""))
    assert list(flat) == ["challenger auc", "challenger origin=JFK", "challenger calibration_error"]
    assert changed_metrics(flat, dict(flat)) == ()
    assert changed_metrics(flat, flat | {"challenger auc": 0.7000000000000001}) == (
        "challenger auc 0.7 -> 0.7000000000000001",
    )


def test_a_verdict_is_what_it_says_and_not_the_code_that_says_it():
    one = dataclasses.replace(PROMOTE, evidence={"procedure": {"code": "1"}, "attempt": 1})
    same, other = ({"procedure": {"code": "2"}, "attempt": attempt} for attempt in (1, 2))
    assert verdict_digest(one) == verdict_digest(dataclasses.replace(PROMOTE, evidence=same))
    assert verdict_digest(one) != verdict_digest(dataclasses.replace(PROMOTE, evidence=other))
