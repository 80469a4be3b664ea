"""The governor tells broken data, harmless drift and mendable loss apart, and never breaks its own limits."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.governor import Observation, Policy, Probe, Retrain, govern
from tasks.core.records import Interval, Window

START = datetime(2013, 4, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
POLICY = Policy(
    lost_windows=2, of_windows=3, cooldown=timedelta(days=14), min_new_labels=1000, budget=2,
    budget_period=timedelta(days=60), refresh_every=timedelta(days=90),
)  # fmt: skip


def probe(score: float, gain: float) -> Probe:
    return Probe(
        score=Interval(value=score, low=score - 0.02, high=score + 0.02),
        champion=Interval(value=score - gain, low=score - gain - 0.02, high=score - gain + 0.02),
        gain=Interval(value=gain, low=gain - 0.01, high=gain + 0.01),
        no_skill=0.5,
        is_worth_it=gain > 0.01,
    )


def week(number: int, **seen) -> Observation:
    as_of = START + number * WEEK
    return Observation(window=Window(start=as_of - WEEK, end=as_of), as_of=as_of, **({"matured_labels": 5000} | seen))


MENDABLE = {"is_quality_lost": True, "probe": probe(0.75, 0.03)}
FIRST = Retrain(as_of=START - timedelta(days=30), cause="person")


def decide(*observations, retrains=(FIRST,), policy=POLICY, **more):
    return govern(observations, retrains, policy, as_of=observations[-1].as_of, **more)


def test_a_quiet_week_waits():
    assert decide(week(0)).action == "wait"


def test_drift_without_loss_of_quality_alerts_and_names_the_column():
    decision = decide(week(0, drifted=("temperature",)))
    assert decision.action == "alert"
    assert "temperature" in decision.reasons[0]


def test_an_alert_is_told_once_and_again_when_something_else_drifts_or_comes_back():
    warm, windy = {"drifted": ("weather__temperature",)}, {"drifted": ("weather__wind", "weather__temperature")}
    weeks = [week(0, **warm), week(1, **windy), week(2, drifted=("weather__wind", "carrier")), week(3), week(4, **warm)]
    made = [decide(*weeks[: number + 1]) for number in range(len(weeks))]
    assert [one.action for one in made] == ["alert", "wait", "alert", "wait", "alert"]
    assert made[1].reasons == ("weather__wind, weather__temperature drifted as before, without loss of quality",)
    assert made[2].reasons == ("carrier drifted, beside 1 that had before, without loss of quality",)
    assert [one.open_since and one.open_since - START for one in made] == [0 * WEEK, 0 * WEEK, 0 * WEEK, None, 4 * WEEK]


def test_a_halt_says_since_when():
    broken = [week(number, faults=("weather: 0 rows",)) for number in (1, 2)]
    assert decide(week(0), *broken).open_since == broken[0].as_of


def test_a_retrain_is_made_where_a_probe_shows_that_it_helps_whether_or_not_the_promise_is_kept():
    lost = decide(week(0), week(1, **MENDABLE, quality=Interval(value=0.7, low=0.6, high=0.8), promised=0.75))
    assert (lost.action, lost.cause) == ("retrain", "quality")
    assert "1 of the last 2 windows (0.700 now, 0.750 promised)" in lost.reasons[0]
    kept = decide(week(0, probe=probe(0.75, 0.03)))
    assert (kept.action, kept.cause, len(kept.reasons)) == ("retrain", "quality", 1)
    assert "is better by 0.0300, 0.0200 to 0.0400" in kept.reasons[0]
    assert decide(week(0, **MENDABLE), week(1)).action == "wait", "the latest says nothing of the kind any more"


HELPLESS = {"is_quality_lost": True, "probe": probe(0.65, 0.0)}


def test_a_loss_that_newer_rows_would_not_mend_alerts_when_two_of_three_windows_have_it():
    once = decide(week(0), week(1, **HELPLESS))
    assert once.action == "wait"
    assert "2 of 3 are needed" in once.reasons[0]
    decision = decide(week(0, **HELPLESS), week(1), week(2, **HELPLESS))
    assert decision.action == "alert"
    assert any("may not mend" in reason for reason in decision.reasons)


def test_losses_of_the_champion_before_do_not_count_against_the_new_one():
    weeks = [week(number, **HELPLESS) for number in range(4)]
    retrained = (FIRST, Retrain(as_of=weeks[1].as_of, cause="quality"))
    assert decide(*weeks[:3], retrains=retrained).action == "wait"
    assert decide(*weeks, retrains=retrained).action == "alert"


def test_one_bad_week_is_no_alert():
    assert decide(week(0), week(1, is_quality_lost=True, probe=probe(0.65, 0.0))).action == "wait"


@pytest.mark.parametrize(("score", "says"), [(0.5, "no signal"), (0.3, "inverted")])
def test_labels_without_signal_halt(score, says):
    decision = decide(week(0, is_quality_lost=True, probe=probe(score, 0.0)))
    assert decision.action == "halt"
    assert says in decision.reasons[0]


def test_broken_data_halts_refreshes_and_events_until_it_is_whole_or_a_person_says_so():
    broken = week(1, faults=("weather: 0 rows, usually 500",))
    old = (Retrain(as_of=START - timedelta(days=200), cause="person"),)
    assert decide(broken, retrains=old, requested=True).action == "halt"
    assert decide(broken, week(2), retrains=old).cause == "refresh"
    assert decide(broken, retrains=old, requested=True, cleared_at=broken.as_of).action == "retrain"
    assert decide(broken, retrains=old, cleared_at=broken.as_of - WEEK).action == "halt"


@pytest.mark.parametrize(
    ("retrains", "seen", "reason"),
    [
        ((Retrain(as_of=START - timedelta(days=1), cause="person"),), {}, "cool-down"),
        ((FIRST,), {"matured_labels": 10}, "labels have matured"),
        ((Retrain(as_of=START - timedelta(days=40), cause="quality"), FIRST), {}, "budget"),
    ],
)
def test_a_wanted_retrain_waits_for_cooldown_labels_and_budget(retrains, seen, reason):
    decision = decide(week(0, **MENDABLE | seen), week(1, **MENDABLE | seen), retrains=retrains)
    assert decision.action == "wait"
    assert any(reason in text for text in decision.reasons)


weeks = st.lists(
    st.builds(
        lambda faults, lost, score, gain, labels: {
            "faults": faults, "is_quality_lost": lost, "probe": probe(score, gain), "matured_labels": labels
        },
        st.sampled_from([(), (), ("nulls",)]), st.booleans(), st.floats(0.4, 0.8), st.floats(-0.05, 0.05),
        st.integers(0, 5000),
    ),
    min_size=1, max_size=40,
)  # fmt: skip


@given(weeks, st.sets(st.integers(0, 39)))
def test_over_any_history_it_keeps_its_budget_and_never_trains_on_broken_data(history, requests):
    seen, retrains = [], []
    for number, facts in enumerate(history):
        seen.append(week(number, **facts))
        decision = govern(seen, retrains, POLICY, as_of=seen[-1].as_of, requested=number in requests)
        assert decision.reasons
        if decision.action == "retrain":
            assert not facts["faults"]
            retrains.append(Retrain(as_of=decision.as_of, cause=decision.cause))
    for one in retrains:
        assert sum(one.as_of - POLICY.budget_period < r.as_of <= one.as_of for r in retrains) <= POLICY.budget
    assert all(b.as_of - a.as_of >= POLICY.cooldown for a, b in itertools.pairwise(retrains))


@given(weeks, st.sets(st.integers(0, 39)), st.sets(st.integers(0, 39)))
def test_over_any_history_only_a_person_trains_on_broken_data_and_never_two_at_once(history, cleared, busy):
    seen = []
    for number, facts in enumerate(history):
        seen.append(week(number, **facts))
        as_of = seen[-1].as_of
        decision = govern(
            seen, [], POLICY, as_of=as_of, requested=True, cleared_at=as_of if number in cleared else None,
            unfinished="one is on its way" if number in busy else None,
        )  # fmt: skip
        is_broken = bool(facts["faults"]) and number not in cleared
        assert (decision.action == "halt") >= is_broken
        if decision.action == "retrain":
            assert not is_broken
            assert number not in busy
        if number in busy and not is_broken and decision.action == "wait":
            assert "one is on its way" in decision.reasons
