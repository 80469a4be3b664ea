"""The gate: what promotes, what rejects, what it says, and how often it is wrong."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from configs.sections.gate import GateSection
from tasks.core.clusters import Estimate, Replicates, estimate
from tasks.core.comparisons import Difference, compare, describe, difference, watch
from tasks.core.gate import baseline_wins, judge, judge_nothing, mode_of, refit_check, shown_worse
from tasks.core.records import Verdict, Window
from tasks.core.scorecards import GateRows, ScoredModel, SliceColumn
from tasks.core.verdicts import decide, find_failures

START = datetime(2013, 6, 1, tzinfo=UTC)


def make_rules(**changes):
    rules = {
        "primary": "auc",
        "margin": 0.01,
        "guards": {},
        "slices": (),
        "guarded_slices": (),
        "slice_margin": 0.02,
        "floors": {},
        "smallest_useful_gain": 0.0,
        "min_rows": 1_000,
        "level": 0.05,
        "false_promotions": SimpleNamespace(rate=0.05, per_attempts=20),
        "max_latency_ms": None,
        "max_size_bytes": None,
    }
    return SimpleNamespace(**{**rules, **changes})


def make_rows(days=28, per_day=200, seed=0):
    """Rows of days with a common mood; (rows, what a perfect model would say)."""
    random = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), per_day)
    truth = random.normal(size=days)[day] * 0.5 + random.normal(size=len(day))
    label = (random.random(len(day)) < 1 / (1 + np.exp(-truth))).astype(float)
    port = SliceColumn(random.choice(3, len(day), p=[0.5, 0.495, 0.005]), ("EWR", "JFK", "LGA"))
    window = Window(start=START, end=START + timedelta(days=days))
    rows = GateRows(kind="binary", label=label, ways=(day,), window=window, slices={"origin": port}, resamples=200)
    return rows, truth


def make_model(name, rows, truth, noise, seed=1):
    blurred = truth + noise * np.random.default_rng(seed).normal(size=len(truth))
    return ScoredModel(name, rows, 1 / (1 + np.exp(-blurred / (1 + noise**2))))


def judge_models(challenger, champion, rules=None, **options):
    rules = rules or make_rules()
    return judge(rules, challenger, champion, card=challenger.scorecard(rules.primary), **{"mode": "change", **options})


@pytest.fixture(scope="module")
def pair():
    rows, truth = make_rows()
    return make_model("challenger", rows, truth, 0.2), make_model("champion", rows, truth, 1.0, seed=2)


# --- modes ------------------------------------------------------------------------------------------


def test_mode_is_refresh_only_where_every_digest_is_the_same():
    procedure = {"recipe": "a", "features": "b", "code": "c"}
    assert mode_of(None, procedure) == "first"
    assert mode_of({**procedure, "other": "d"}, procedure) == "refresh"
    assert mode_of({**procedure, "code": "d"}, procedure) == "change"
    assert mode_of({"recipe": "a"}, procedure) == "change"


def test_a_change_that_is_better_is_promoted_and_says_by_how_much(pair):
    verdict = judge_models(*pair, make_rules(guards={"log_loss": 0.01}, slices=("origin",)), attempts=2)
    better, champion = pair[0].replicates("auc")[0].value, pair[1].replicates("auc")[0].value
    assert verdict.outcome == "promote"
    first = verdict.comparisons[0]
    assert verdict.reasons[0] == (
        f"auc {better:.4f} against {champion:.4f}: better by {better - champion:.4f} "
        f"({first.interval.low:.4f} to {first.interval.high:.4f}), 28 days; "
        "shown better at the level that one attempt may spend, .0025"
    ).replace("0.", ".")
    assert verdict.evidence["level"] == pytest.approx(0.0025)
    assert verdict.evidence["attempt"] == 3
    assert first.low < first.interval.low < first.difference  # .0025 one-sided reaches below 95% two-sided
    assert Verdict.from_json(verdict.to_json()) == verdict
    json.dumps(verdict.to_dict(), allow_nan=False)


def test_a_change_that_is_worse_is_rejected_and_an_equal_one_undecided(pair):
    assert judge_models(pair[1], pair[0]).outcome == "reject"
    equal = judge_models(pair[0], ScoredModel("champion", pair[0].rows, pair[0].scores))
    assert equal.outcome == "undecided"
    assert equal.days_that_would_do is None  # no number of days shows a gain where there is none


def test_undecided_says_what_could_be_seen_and_what_would_do():
    rows, truth = make_rows(per_day=60)
    challenger, champion = make_model("challenger", rows, truth, 0.5), make_model("champion", rows, truth, 0.7, seed=2)
    found = difference(challenger, champion, "auc").estimate
    verdict = judge_models(challenger, champion)
    assert verdict.outcome == "undecided"
    assert verdict.smallest_detectable_effect == pytest.approx(found.detectable(0.0025, 0.8))
    assert verdict.days_that_would_do == pytest.approx(28 * (verdict.smallest_detectable_effect / found.value) ** 2)
    assert any("four times in five" in reason for reason in verdict.reasons)


def test_a_refresh_may_lose_less_than_the_margin_against_champion_and_anchor():
    rules = make_rules(margin=0.01)

    def against(who, value, standard_error=0.002):
        found = Difference(
            "auc", None, 5_000, (0.75 + value, 0.75), Estimate(value, standard_error, 26, 27), np.empty(0)
        )
        return compare(found, "primary", margin=0.01, level=0.05, against=who)

    assert decide(rules, "refresh", [against("champion", -0.002)])[0] == "promote"
    assert decide(rules, "refresh", [against("champion", -0.004)])[0] == "reject"  # within the margin, but shown worse
    assert decide(rules, "refresh", [against("champion", -0.009, 0.006)])[0] == "undecided"
    assert decide(rules, "refresh", [against("champion", 0.0), against("anchor", -0.008)])[0] == "undecided"
    assert decide(rules, "refresh", [against("champion", 0.0), against("anchor", -0.005)])[0] == "promote"
    assert decide(rules, "refresh", [against("champion", 0.0), against("anchor", -0.016)])[0] == "reject"


def test_a_gain_below_the_smallest_useful_one_is_rejected():
    found = Difference("auc", None, 5_000, (0.752, 0.75), Estimate(0.002, 0.001, 26, 27), np.empty(0))
    shown = [compare(found, "primary", margin=0.01, level=0.0025, upper_level=0.05)]
    assert decide(make_rules(smallest_useful_gain=0.005), "change", shown)[0] == "reject"
    assert decide(make_rules(smallest_useful_gain=0.003), "change", shown)[0] == "undecided"


@pytest.mark.parametrize(
    "changes", [{"serial": True, "clusters": "entity", "entity": "tail"}, {"guarded_slices": ["JFK"]}]
)
def test_a_gate_that_cannot_be_is_refused_when_read(changes):
    GateSection.model_validate({"primary": "auc", "margin": 0.01})
    with pytest.raises(ValueError, match=r"serial=true needs|must read column=value"):
        GateSection.model_validate({"primary": "auc", "margin": 0.01, **changes})


# --- guards, slices, limits -------------------------------------------------------------------------


def test_a_guard_that_is_shown_worse_rejects_what_ranks_better(pair):
    shifted = ScoredModel("challenger", pair[0].rows, pair[0].scores * 0.5)  # the same order, badly calibrated
    verdict = judge_models(shifted, pair[1], make_rules(guards={"log_loss": 0.01}))
    assert verdict.comparisons[0].outcome == "superior"
    assert verdict.outcome == "reject"
    assert "log_loss" in verdict.reasons[1]
    assert "shown worse" in verdict.reasons[1]


def test_what_later_rows_show_worse_is_named_and_a_better_rank_does_not_hide_a_worse_guard(pair):
    better, worse = pair
    rules = make_rules(guards={"log_loss": 0.01})
    assert shown_worse(rules, better, worse) == ()
    assert [reason.split()[0] for reason in shown_worse(rules, worse, better)] == ["auc", "log_loss"]
    sure = ScoredModel("sure", better.rows, np.where(better.scores > 0.5, 0.999, 0.001) * 0.5 + better.scores * 0.5)
    told = shown_worse(rules, ScoredModel("sure", better.rows, sure.scores**4), worse)
    assert [reason.split()[0] for reason in told] == ["log_loss"]


def test_a_guard_that_cannot_be_told_keeps_a_better_challenger_back(pair):
    verdict = judge_models(*pair, make_rules(guarded_slices=("origin=LGA", "origin=XXX")))
    assert verdict.outcome == "undecided"
    assert [c.rows for c in verdict.comparisons[1:]] == [np.count_nonzero(pair[0].rows.slices["origin"].codes == 2), 0]
    assert any("where origin=XXX: cannot be told on 0 rows" in reason for reason in verdict.reasons)


def test_a_slice_that_is_shown_worse_vetoes_and_a_small_one_is_listed(pair):
    scores = pair[0].scores.copy()
    at_jfk = pair[0].rows.slices["origin"].codes == 1
    scores[at_jfk] = np.random.default_rng(0).permutation(scores[at_jfk])
    challenger = ScoredModel("challenger", pair[0].rows, scores)
    verdict = judge_models(challenger, pair[1], make_rules(slices=("origin",)))
    outcomes = {c.slice: c.outcome for c in verdict.comparisons if c.role == "watched"}
    assert outcomes == {"origin=EWR": "superior", "origin=JFK": "worse", "origin=LGA": "undecided"}
    assert verdict.outcome == "reject"
    assert sum(reason.startswith("veto: auc where origin=JFK") for reason in verdict.reasons) == 1
    assert "too few rows to tell about origin=LGA" in verdict.reasons


def test_watched_slices_are_corrected_for_their_number():
    def slices(*ts):
        made = [Estimate(t * 0.01 - 0.02, 0.01, 27, 28) for t in ts]
        return [Difference("auc", ("s", str(k)), 500, (0.7, 0.7), e, np.empty(0)) for k, e in enumerate(made)]

    def vetoed(*ts):
        return [c.slice for c in watch(slices(*ts), margin=0.02, level=0.05) if c.outcome == "worse"]

    assert vetoed(-1.9) == ["s=0"]  # p = .034
    assert vetoed(-1.9, 0.0, 0.0) == []
    assert vetoed(0.0, -2.5, -2.2) == ["s=1", "s=2"]  # p = .0094 and .018, against .05 / 3 and .05 / 2
    assert vetoed(-2.05, -2.05, -2.05) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"floors": {"auc": 0.9}}, "auc .7500 is beyond its floor: at least .9"),
        ({"floors": {"log_loss": 0.3}}, "log_loss .5500 is beyond its floor: at most .3"),
        ({"max_latency_ms": 5}, "one prediction takes 7.5 ms, more than max_latency_ms 5"),
        ({"max_size_bytes": 1_000}, "the model is 2,000 bytes, more than max_size_bytes 1,000"),
    ],
)
def test_floors_and_limits_of_serving(changes, said):
    metrics = {"auc": (0.75, True), "log_loss": (0.55, False)}
    assert find_failures(make_rules(**changes), metrics, 7.5, 2_000) == [said]
    assert find_failures(make_rules(floors={"auc": 0.7}, max_latency_ms=50), metrics, 7.5, 2_000) == []


def test_a_floor_rejects_however_much_better(pair):
    assert judge_models(*pair, make_rules(floors={"auc": 0.99})).outcome == "reject"


def test_the_first_champion_stands_on_floors_alone(pair):
    first = judge_models(pair[0], None, make_rules(floors={"auc": 0.6}), mode="first")
    assert (first.outcome, first.comparisons) == ("promote", ())
    assert judge_models(pair[0], None, make_rules(floors={"auc": 0.99}), mode="first").outcome == "reject"
    assert judge_models(pair[0], None, make_rules(min_rows=10**6), mode="first").outcome == "undecided"


def test_a_baseline_is_reported_and_wins_when_it_is_higher(pair):
    rival = ScoredModel("baseline", pair[0].rows, pair[0].scores)
    behind = judge_models(pair[1], None, mode="first", rivals=[rival])
    assert behind.outcome == "promote"  # it is said, it does not decide
    assert baseline_wins(behind)
    assert "against the baseline's" in behind.reasons[-1]
    weaker = ScoredModel("baseline", pair[0].rows, pair[1].scores)
    assert not baseline_wins(judge_models(*pair, rivals=[weaker]))


# --- too little to tell -----------------------------------------------------------------------------


def test_fewer_than_ten_days_decide_nothing():
    rows, truth = make_rows(days=9)
    verdict = judge_models(make_model("challenger", rows, truth, 0.0), make_model("champion", rows, truth, 2.0))
    assert verdict.outcome == "undecided"
    assert "9 days are fewer than the 10 clusters that an interval needs" in verdict.reasons
    assert verdict.days_that_would_do == pytest.approx(10)


def test_too_few_rows_say_how_many_days_would_do(pair):
    verdict = judge_models(*pair, make_rules(min_rows=11_200))
    assert verdict.outcome == "undecided"
    assert verdict.days_that_would_do == pytest.approx(56)
    nothing = judge_nothing(make_rules(min_rows=3_000), "change", rows_per_day=200.0)
    assert (nothing.outcome, nothing.days_that_would_do) == ("undecided", 15.0)


# --- refit ------------------------------------------------------------------------------------------


def test_a_refit_may_not_move_far_from_what_was_judged():
    scores = np.linspace(0.1, 0.9, 50)
    assert refit_check(scores, scores + 0.05, 0.1) == ()
    assert "moved by .2000" in refit_check(scores, scores + 0.2, 0.1)[0]
    assert "not finite" in refit_check(scores, np.full(50, np.nan), 0.1)[0]
    several = np.array([[0.5, 0.5, 0.0]] * 4)
    assert "moved by .5000" in refit_check(several, several[:, ::-1], 0.4, "multiclass")[0]
    assert refit_check(scores * 100, scores * 100 + 1, 0.1, "regression") == ()  # of a standard deviation of 23.6
    assert refit_check(scores * 100, scores * 100 + 10, 0.1, "regression") != ()


# --- how often it is wrong: small versions of tests/benchmarks/gate_simulation.py ---------------------


def test_swapping_the_models_turns_the_difference_around(pair):
    there, back = difference(*pair, "log_loss"), difference(*reversed(pair), "log_loss")
    assert (there.estimate.value, there.estimate.standard_error) == pytest.approx(
        (-back.estimate.value, back.estimate.standard_error)
    )
    shown = describe(compare(back, "primary", margin=0.01, level=0.05), "days")
    assert "worse by" in shown


def test_an_equal_model_is_shown_better_at_the_stated_level():
    """Two models whose scores are swapped at random by day, 600 times: one-sided level .05."""
    rows, truth = make_rows(days=20, per_day=40)
    one, two = (make_model("m", rows, truth, 1.0, seed=seed).scores for seed in (1, 2))
    random, shown = np.random.default_rng(5), 0
    for _ in range(600):
        is_swapped = random.random(20)[rows.ways[0]] < 0.5
        a = ScoredModel("challenger", rows, np.where(is_swapped, two, one))
        b = ScoredModel("champion", rows, np.where(is_swapped, one, two))
        shown += difference(a, b, "auc").estimate.lower(0.05) > 0
    assert 10 <= shown <= 45  # 30 expected; 5 standard errors of sqrt(600 x .05 x .95) = 5.3, less below


def test_intervals_cover_with_day_effects():
    """Nominal 95% over 14 days whose difference has a day effect, 2,000 repetitions of a mean of sums."""
    random = np.random.default_rng(7)
    effects = random.normal(size=(2_000, 14)) * 0.05 + 0.01
    rows = random.poisson(60, size=(2_000, 14))
    sums = effects * rows + random.normal(size=rows.shape) * np.sqrt(rows) * 0.2
    value = sums.sum(1) / rows.sum(1)
    left_out = (sums.sum(1)[:, None] - sums) / (rows.sum(1)[:, None] - rows)
    covered = 0
    for v, out in zip(value, left_out, strict=True):
        found = estimate((Replicates(v, out, np.empty(0)),), serial=False)
        covered += found.lower(0.025) < 0.01 < found.upper(0.025)
    assert 0.935 <= covered / 2_000 <= 0.975
