"""Policies on made-up worlds, where it is known what helps: who retrains when, and what that was worth."""

import itertools
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tasks.core.backtest import Incumbent, Path, Rule, Seen, Step, Trial, make_rules, moments_of, simulate
from tasks.core.backtest_page import table, write_page
from tasks.core.backtest_results import Arena, episodes, interval, recommend, sum_up, total
from tasks.core.clusters import Estimate
from tasks.core.governor import Decision, Observation, Policy, Probe
from tasks.core.records import FitResult, Interval, Window
from tasks.core.scorecards import GateRows

START, DAY = datetime(2013, 5, 1, tzinfo=UTC), timedelta(days=1)
WEEK = 7 * DAY
WEEKS, ROWS_A_DAY = 12, 60
MOMENTS = moments_of(Window(start=START, end=START + WEEKS * WEEK), WEEK)
POLICY = Policy(
    lost_windows=2, of_windows=3, cooldown=2 * WEEK, min_new_labels=100, budget=4, budget_period=90 * DAY
)  # fmt: skip
RULES = {rule.name: rule for rule in make_rules(POLICY, 4 * WEEK)}
FIT = FitResult(
    model="", weights_sha256="", best_step=1, best_epoch=1, epochs=1, rows=1, seconds=10.0, rows_per_second=1.0,
    num_parameters=1, device="cpu", micro_batch_size=1, metrics={},
)  # fmt: skip


def incumbent(week: int) -> Incumbent:
    made_at = START + week * WEEK
    return Incumbent(
        name=f"week {week}", made_at=made_at, fit=FIT, judged=FIT, judged_from=made_at - WEEK,
        promise={"auc": Interval(value=0.75, low=0.7, high=0.8)},
    )  # fmt: skip


def week_of(moment: datetime) -> int:
    return (moment - START) // WEEK


class MadeUpWorld:
    """The world changes at the begin of week `changed`: models made two weeks later or more know of it.

    `broken` weeks have faults; what the gate says is `verdict`; models that are `harmful` show it after four weeks.
    """

    def __init__(
        self, changed: int = 4, broken: tuple[int, ...] = (), verdict: str = "promote", harmful: tuple[str, ...] = ()
    ) -> None:
        self.changed, self.broken, self.verdict, self.harmful = changed, broken, verdict, harmful
        self.trained: list[datetime] = []
        self.probes = 0

    def train(self, as_of, champion, anchor, *, is_gated) -> Trial:
        self.trained.append(as_of)
        outcome = self.verdict if is_gated else "promote"
        made = incumbent(week_of(as_of)) if outcome == "promote" else None
        return Trial(outcome=outcome, reasons=("made up",), is_superior=False, seconds=10.0, made=made)

    def did_harm(self, champion, displaced, as_of) -> bool | None:
        return None if as_of < champion.made_at + 4 * WEEK else champion.name in self.harmful

    def is_stale(self, made_at: datetime, moment: datetime) -> bool:
        return week_of(moment) >= self.changed and week_of(made_at) < self.changed + 2

    def observe(self, champion, window, before, *, is_probed) -> Seen:
        self.probes += is_probed
        lost = self.is_stale(champion.made_at, window.start)
        gain = 0.05 if lost and week_of(window.end) >= self.changed + 2 else 0.0
        probe = Probe(
            score=Interval(value=0.8, low=0.75, high=0.85), champion=Interval(value=0.7, low=0.65, high=0.75),
            gain=Interval(value=gain, low=gain - 0.02, high=gain + 0.02), no_skill=0.5, is_worth_it=gain > 0.02,
        )  # fmt: skip
        observation = Observation(
            window=window, as_of=window.end, is_quality_lost=lost, matured_labels=1000,
            faults=("units",) if week_of(window.start) in self.broken else (),
            probe=probe if lost and is_probed else None,
        )  # fmt: skip
        return Seen(observation=observation, psi=0.3 if lost else 0.1, psi_column="x", quantiles={})


def play(rule: str, world: MadeUpWorld | None = None, *, is_gated: bool = True) -> Path:
    return simulate(RULES[rule], world or MadeUpWorld(), MOMENTS, is_gated=is_gated)


def retrained(path: Path) -> list[int]:
    return [week_of(step.window.end) for step in path.steps if step.trial is not None]


# --- what policies do -------------------------------------------------------------------------------


def test_the_moments_go_to_the_end_and_the_last_window_takes_the_rest():
    span = Window(start=START, end=START + 24 * DAY)
    assert moments_of(span, WEEK) == [START, START + WEEK, START + 2 * WEEK, START + 24 * DAY]


def test_never_trains_once_and_every_n_at_its_times():
    world = MadeUpWorld()
    assert retrained(play("never", world)) == []
    assert world.trained == [START]
    assert retrained(play("every 28 days")) == [4, 8]  # week 12 is the end: no row would be served


def test_a_model_that_did_harm_gives_its_place_back_once_where_there_is_a_gate():
    path = play("every 28 days", MadeUpWorld(harmful=("week 4",)))
    assert [step.taken_off for step in path.steps if step.taken_off] == ["week 4"]
    served = [step.model for step in path.steps]
    assert served == ["week 0"] * 4 + ["week 4"] * 4 + ["week 8"] * 4, "at week 8 it is week 0 that is put up against"
    world = MadeUpWorld(harmful=("week 4",), verdict="promote")
    assert not any(step.taken_off for step in play("every 28 days", world, is_gated=False).steps)


def test_a_rule_on_quality_or_drift_retrains_when_the_world_changed_within_the_cool_down():
    lost = retrained(play("2 of 3 windows on quality"))
    assert lost == [6]  # weeks 4 and 5 are lost, seen at the end of week 5
    assert retrained(play("PSI > 0.2")) == [5, 7]  # at once, too early to help, and again after the cool-down


def test_the_recipes_own_waits_for_a_probe_that_shows_a_gain_and_only_it_is_probed():
    world = MadeUpWorld()
    assert retrained(play("the recipe's own", world)) == [6]
    assert world.probes == WEEKS
    other = MadeUpWorld()
    play("2 of 3 windows on quality", other)
    assert other.probes == 0


@pytest.mark.parametrize("rule", ["every 28 days", "PSI > 0.2", "2 of 3 windows on quality", "the recipe's own"])
def test_a_halted_week_trains_nothing(rule):
    world = MadeUpWorld(broken=tuple(range(WEEKS)))
    path = play(rule, world)
    assert path.halts == WEEKS
    assert world.trained == [START]
    healthy = play(rule, MadeUpWorld(broken=(2,)))
    assert healthy.halts == 1
    assert retrained(healthy)


def test_a_gate_that_rejects_keeps_the_champion_and_without_the_gate_it_is_replaced():
    rejecting = MadeUpWorld(verdict="reject")
    gated, free = play("every 28 days", rejecting), play("every 28 days", rejecting, is_gated=False)
    assert {step.model for step in gated.steps} == {"week 0"}
    assert (gated.count("reject"), gated.count("promote")) == (2, 0)
    assert [step.model for step in free.steps] == ["week 0"] * 4 + ["week 4"] * 4 + ["week 8"] * 4
    assert gated.seconds == 20.0


def test_a_path_is_json_both_ways():
    path = play("every 28 days")
    assert Path.from_json(path.to_json()) == path


# --- what that was worth ----------------------------------------------------------------------------


def arena(world: MadeUpWorld, seed: int = 0) -> Arena:
    """A stale model's scores carry half the signal."""
    generator = np.random.default_rng(seed)
    days = np.repeat(np.arange(WEEKS * 7), ROWS_A_DAY)
    times = np.datetime64("2013-05-01", "us") + days * np.timedelta64(1, "D")
    label = (generator.random(len(days)) < 0.4).astype(np.float64)
    noise = generator.normal(size=len(days))

    def scores(name: str) -> np.ndarray:
        made_at = START + int(name.split()[1]) * WEEK
        weeks = [START + number * WEEK for number in range(WEEKS)]
        stale = np.repeat([world.is_stale(made_at, week) for week in weeks], 7 * ROWS_A_DAY)
        return 1 / (1 + np.exp(-(label * np.where(stale, 0.4, 1.2) + noise)))

    rows = GateRows(kind="binary", label=label, ways=(days,), window=Window(start=START, end=MOMENTS[-1]), resamples=0)
    bounds = np.array(list(itertools.pairwise(range(0, len(days) + 1, 7 * ROWS_A_DAY))))
    return Arena(rows, times, bounds, scores, "auc")


def compared(world: MadeUpWorld, *rules: str):
    paths = [play(rule, world) for rule in rules]
    field = arena(world)
    results, oracle = sum_up(paths, field, ["log_loss"], margin=0.01)
    return paths, {result.name.split(",")[0]: result for result in results}, oracle, field


def test_a_policy_that_retrains_when_it_helps_beats_never():
    _, results, _, _ = compared(MadeUpWorld(), "never", "2 of 3 windows on quality")
    never, own = results["never"], results["2 of 3 windows on quality"]
    assert own.gain.low > 0
    assert own.regret.high < never.regret.low
    assert own.quality > never.quality
    assert own.guards["log_loss"] < never.guards["log_loss"]
    assert (never.gain.value, never.gain.low, never.gain.high) == (0, 0, 0)
    assert (own.recover_days, never.recover_days) == (None, 42.0)


def test_regret_is_zero_for_the_oracles_own_choice_and_grows_until_a_model_recovers():
    world = MadeUpWorld()
    _, results, oracle, field = compared(world, "never", "2 of 3 windows on quality", "every 28 days")
    assert total(field.lead(oracle, oracle)).value == 0
    assert set(oracle[6:]) == {"week 6"} or set(oracle[6:8]) == {"week 6"}
    regular = results["every 28 days"]
    assert regular.cumulative[5] == pytest.approx(0, abs=1e-9)  # nobody had a better model in weeks 4 and 5
    assert regular.cumulative[7] > 0.05
    assert regular.cumulative[-1] == pytest.approx(regular.cumulative[7], abs=1e-9)  # week 8's model knows the change
    assert (regular.recover_days, regular.longest_days) == (14.0, 14.0)


def test_a_total_adds_variances_of_the_windows_and_skips_those_that_cannot_tell():
    parts = [Estimate(0.02, 0.03, 6, 7), Estimate(float("nan"), float("nan"), 0, 0), Estimate(0.01, 0.04, 6, 7)]
    found = total(parts)
    assert (found.value, found.standard_error, found.clusters) == (pytest.approx(0.03), pytest.approx(0.05), 14)
    assert found.df == int(0.05**4 / (0.03**4 / 6 + 0.04**4 / 6))
    bounds = interval(found, per=2)
    assert bounds.value == pytest.approx(0.015)
    assert bounds.high - bounds.value == pytest.approx(found.quantile(0.025) * 0.025)


def test_the_interval_of_a_gain_covers_nothing_where_models_are_equal():
    """Twelve weeks of two equally good models with noise of their own: nominal 95%."""
    world, covered = MadeUpWorld(changed=WEEKS), 0
    for seed in range(200):
        field, noise = arena(world, seed), np.random.default_rng(1000 + seed)
        base = field.scores
        drawn = {name: base("week 0") + noise.normal(scale=0.1, size=len(field.times)) for name in ("a 0", "b 0")}
        field.scores = drawn.__getitem__
        told = interval(total(field.lead(["a 0"] * WEEKS, ["b 0"] * WEEKS)))
        covered += told.low < 0 < told.high
    assert 182 <= covered <= 198


def test_episodes_end_with_the_first_window_within_the_margin_and_an_open_one_counts_as_seen():
    windows = [Window(start=a, end=b) for a, b in itertools.pairwise(MOMENTS[:7])]
    assert episodes([0, 0.02, 0.03, 0.005, 0, 0.02], windows, 0.01) == [2 * WEEK, WEEK]
    assert episodes([0, 0, 0.01, 0, 0, 0], windows, 0.01) == []


# --- what is recommended ----------------------------------------------------------------------------


def test_the_cheapest_policy_that_loses_less_than_the_margin_is_recommended_with_its_interval():
    paths, results, _, field = compared(MadeUpWorld(), "never", "every 28 days", "2 of 3 windows on quality")
    said = recommend(paths, list(results.values()), field, 0.01)
    assert said.startswith("Recommended: 2 of 3 windows on quality, gate")
    assert "is shown to be ahead of the nearest policy that retrains less, never" in said
    assert "84 days" in said


def test_where_nothing_changes_never_is_recommended():
    paths, results, _, field = compared(MadeUpWorld(changed=WEEKS), "never", "every 28 days")
    assert recommend(paths, list(results.values()), field, 0.01).startswith("Recommended: never")


def test_the_page_stands_alone_and_marks_retrains_rejections_and_halts():
    paths = [play("never"), play("every 28 days", MadeUpWorld(broken=(1,), verdict="reject"))]
    results, oracle = sum_up(paths, field := arena(MadeUpWorld()), ["log_loss"], 0.01)
    best = [field.value(name, number) for number, name in enumerate(oracle)]
    page = write_page("trips & more", "about", "Recommended: never.", "auc", paths, results, best)
    assert "trips &amp; more" in page
    assert "http" not in page
    assert page.count("2013-05-15 halted: units") == 2  # on its dot and in the list
    assert page.count("2013-05-29 reject") == 2
    assert "Recommended: never." in page
    lines = table(results, "auc")
    assert len(lines) == 3
    assert lines[0].startswith("policy")


def test_a_step_of_a_rule_that_is_asked_for_by_hand_has_the_governors_reasons():
    wish = Rule("always", RULES["never"].policy, wants=lambda seen, retrains: True)
    path = simulate(wish, MadeUpWorld(), MOMENTS, is_gated=True)
    assert retrained(path) == list(range(1, WEEKS))
    first: Step = path.steps[0]
    assert first.decision == Decision(
        action="retrain", reasons=("an event from outside asks for a retrain",), as_of=MOMENTS[1], cause="event"
    )
