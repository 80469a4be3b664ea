"""How often the gate is wrong, by simulation: a table of what was asked for and what was found.

Scores are made up: rows have a truth, days have a mood that all rows share, and each model errs by row and by day, so
that differences between models depend within days. Promotion rules are those of `tasks.core.verdicts`.

Run: python -m tests.benchmarks.gate_simulation [--share .1] [--predictions PATH]
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from tasks.core.clusters import Estimate, Replicates, estimate, number_clusters, replicate
from tasks.core.comparisons import POWER, VETO_POWER, Difference, compare, watch
from tasks.core.metrics import METRICS
from tasks.core.verdicts import decide

PER_DAY = 30
NOISE, DAY_NOISE, WEAK = 0.8, 0.25, 1.5
SPENT = 0.05 / 20
NONE = np.empty(0)
RULES = SimpleNamespace(margin=0.01, smallest_useful_gain=0.0, level=0.05)
Row = tuple[str, str, str, bool]  # what, found, asked for, whether it holds


# --- made-up scores ---------------------------------------------------------------------------------


def make_scores(random, days, noises, per_day):
    """Labels, and for each model probabilities."""
    rows = days * per_day
    truth = np.repeat(random.normal(size=days) * 0.5, per_day) + random.normal(size=rows)
    label = (random.random(rows) < 1 / (1 + np.exp(-truth))).astype(float)
    scores = []
    for noise in noises:
        blurred = truth + noise * random.normal(size=rows) + DAY_NOISE * np.repeat(random.normal(size=days), per_day)
        scores.append(1 / (1 + np.exp(-blurred / (1 + noise**2))))
    return label, scores


def differences(metric, days, noises, repetitions, *, seed, per_day=PER_DAY) -> Iterator[Estimate]:
    """Challenger (the first noise) minus champion, on a new holdout each time."""
    random, codes = np.random.default_rng(seed), np.repeat(np.arange(days), per_day)
    chosen = METRICS["binary"][metric]
    for _ in range(repetitions):
        label, scores = make_scores(random, days, noises, per_day)
        ours, theirs = (replicate(chosen, label, values, codes) for values in scores)
        yield estimate((ours.minus(theirs, chosen.sign),), serial=False)


def true_gain(metric, days, noises, repetitions=4_000):
    """The mean difference over many holdouts, as it is measured."""
    return float(np.mean([item.value for item in differences(metric, days, noises, repetitions, seed=99)]))


def decide_primary(found, mode, level, margin=0.01):
    item = Difference("auc", None, 10_000, (0.7, 0.7), found, NONE)
    primary = compare(item, "primary", margin=margin, level=level, upper_level=0.05)
    return decide(SimpleNamespace(**{**vars(RULES), "margin": margin}), mode, [primary])[0]


# --- what it must show ------------------------------------------------------------------------------


def false_promotions(share) -> Iterator[Row]:
    """1,000 sequences of 20 retrains that are no better; and how often intervals cover, on the same streams."""
    sequences = max(20, int(1_000 * share))
    for metric in ("auc", "log_loss"):
        for days in (30, 14):
            found = list(differences(metric, days, (NOISE, NOISE), sequences * 20, seed=days))
            promoted = np.array([item.lower(SPENT) > 0 for item in found]).reshape(sequences, 20)
            naive = np.mean([item.value >= 0 for item in found])
            wrong, most = int(promoted.any(axis=1).sum()), 0.066 * sequences
            yield (
                f"{metric}, {days} days: sequences of 20 null retrains with a promotion",
                f"{wrong} of {sequences} (rule 'new >= old': {naive:.0%} of all retrains)",
                f"at most {most:.0f}",
                wrong <= most,
            )
            covered = np.mean([item.lower(0.025) < 0 < item.upper(0.025) for item in found])
            yield (
                f"{metric}, {days} days: coverage of 95% intervals",
                f"{covered:.3f}",
                ".935 to .975",
                (0.935 <= covered <= 0.975),
            )


def serial_coverage(share) -> Iterator[Row]:
    """Daily differences follow an AR(1) with .5; the plain interval on the same series beside it."""
    repetitions, random = max(200, int(2_000 * share)), np.random.default_rng(5)
    for days in (30, 14):
        covered = {True: 0, False: 0}
        for _ in range(repetitions):
            daily = random.normal(size=days + 20)
            for t in range(1, days + 20):
                daily[t] += 0.5 * daily[t - 1]
            for serial in covered:
                found = _daily(daily[20:], serial=serial).estimate
                covered[serial] += found.lower(0.025) < 0 < found.upper(0.025)
        rate = covered[True] / repetitions
        said = f"{rate:.3f} (without: {covered[False] / repetitions:.3f})"
        yield f"{days} days, AR(1) .5: coverage with serial", said, "at least .92", rate >= 0.92


def refresh_at_the_margin(share) -> Iterator[Row]:
    repetitions = max(500, int(20_000 * share))
    for metric, days in (("auc", 30), ("auc", 14), ("log_loss", 30), ("log_loss", 14)):
        noises = (1.0, NOISE)
        margin = -true_gain(metric, days, noises, max(1_000, int(20_000 * share)))
        found = differences(metric, days, noises, repetitions, seed=11)
        passed = np.mean([decide_primary(item, "refresh", 0.05, margin) == "promote" for item in found])
        what = f"{metric}, {days} days: refreshes at a true loss of the margin ({margin:.4f}) that pass"
        yield what, f"{passed:.2%} of {repetitions:,}", "at most 5.5%", passed <= 0.055


def creep(share) -> Iterator[Row]:
    """20 challengers, each .002 worse than the champion it meets; standard error .004 over 30 days, margin .01."""
    random, sequences, lost = np.random.default_rng(3), max(50, int(500 * share)), {}
    for has_anchor in (True, False):
        losses = []
        for _ in range(sequences):
            champion = anchor = 0.0
            for _ in range(20):
                daily = random.normal(size=(3, 30)) * 0.004 * np.sqrt(30 / 2)  # challenger, champion, anchor
                challenger = champion - 0.002
                seen = [_daily(daily[0] - daily[1] + challenger - champion)]
                if has_anchor and anchor != champion:
                    seen.append(_daily(daily[0] - daily[2] + challenger - anchor))
                shown = [
                    compare(item, "primary", margin=0.01, level=0.05, against=who)
                    for item, who in zip(seen, ("champion", "anchor"), strict=False)
                ]
                if decide(RULES, "refresh", shown)[0] == "promote":
                    champion, anchor = challenger, challenger if shown[0].outcome == "superior" else anchor
            losses.append(-champion)
        lost[has_anchor] = np.mean(losses)
    said = f"{lost[True]:.4f} (without the anchor: {lost[False]:.4f})"
    yield "mean loss after 20 refreshes, each .002 worse", said, "at most .01", lost[True] <= 0.01


def _daily(values, where=None, serial=False) -> Difference:
    """The paired difference of a mean over days of equal size."""
    left_out = (values.sum() - values) / (len(values) - 1)
    found = estimate((Replicates(float(values.mean()), left_out, NONE),), serial)
    return Difference("auc", where, 10_000, (0.7, 0.7), found, NONE)


def power(share) -> Iterator[Row]:
    """A gain as large as the median figure that is printed beside it, planted by a challenger that errs less."""
    repetitions = max(200, int(1_000 * share))
    for metric in ("auc", "log_loss"):
        for days in (30, 14):
            noise = plant(metric, days)
            found = list(differences(metric, days, (noise, WEAK), repetitions, seed=22, per_day=100))
            promoted = np.mean([decide_primary(item, "change", SPENT) == "promote" for item in found])
            planted = np.mean([item.value for item in found])
            printed = np.median([item.detectable(SPENT, POWER) for item in found])
            what = f"{metric}, {days} days: a gain ({planted:.4f}) of the median printed effect is promoted"
            yield what, f"{promoted:.1%} (printed: {printed:.4f})", "at least 80%", promoted >= 0.8


def plant(metric, days):
    """The noise of a challenger whose gain over a weak champion is the effect that is printed, by bisection."""
    low, high = 0.0, WEAK
    for _ in range(9):
        middle = (low + high) / 2
        found = list(differences(metric, days, (middle, WEAK), 300, seed=98, per_day=100))
        gain = np.mean([item.value for item in found])
        is_more = gain > np.median([item.detectable(SPENT, POWER) for item in found])
        low, high = (middle, high) if is_more else (low, middle)
    return (low + high) / 2


def guarded_slices(share) -> Iterator[Row]:
    """Slices whose printed effect is within the margin of .01: an equal model, and one that is worse by .01."""
    repetitions, random = max(500, int(20_000 * share)), np.random.default_rng(31)
    for days in (30, 14):
        passes = {0.0: [], -0.01: []}
        for truth, passed in passes.items():
            for _ in range(repetitions):
                spread = random.uniform(0.5, 0.9) * 0.0035 * np.sqrt(days)
                item = _daily(truth + random.normal(size=days) * spread, ("origin", "JFK"))
                shown = compare(item, "guard", margin=0.01, level=0.05)
                if (shown.detectable or 1) <= 0.01:
                    passed.append(shown.outcome in ("superior", "non_inferior"))
        equal, refused = np.mean(passes[0.0]), 1 - np.mean(passes[-0.01])
        yield f"{days} days: an equal model passes a guarded slice", f"{equal:.1%}", "at least 80%", equal >= 0.8
        # Exactly on the margin 5% pass by construction, so that what is found lies on both sides of 95%.
        yield f"{days} days: one worse by the margin is refused", f"{refused:.1%}", "95%", refused >= 0.945


def vetoes(share) -> Iterator[Row]:
    """One of ten watched slices loses as much as its printed figure covers."""
    repetitions, random = max(200, int(2_000 * share)), np.random.default_rng(41)
    for days in (30, 14):
        spread = 0.006 * np.sqrt(days)

        def draw(loss, days=days, spread=spread):
            values = random.normal(size=(10, days)) * spread
            values[0] -= loss
            found = [_daily(day_values, ("carrier", str(k))) for k, day_values in enumerate(values)]
            return watch(found, margin=0.02, level=0.05)[0]

        loss = float(np.median([draw(0.0).detectable for _ in range(repetitions)]))
        fired = np.mean([draw(loss).outcome == "worse" for _ in range(repetitions)])
        false = np.mean([draw(0.02).outcome == "worse" for _ in range(repetitions)])
        what = f"{days} days: a veto fires for the printed loss ({loss:.4f}, power {VETO_POWER:.0%})"
        yield what, f"{fired:.1%} (at the margin: {false:.1%})", "at least 90%", fired >= 0.9


def swapped_scores(path: Path, share) -> Iterator[Row]:
    """Real scores, the two models swapped at random by day: no better by construction."""
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    label = table["label"].to_numpy().astype(float)
    one, two = (table[f"score_{name}"].to_numpy().astype(float) for name in ("challenger", "champion"))
    codes = number_clusters(table["prediction_time"].to_numpy().astype("datetime64[D]"))
    repetitions, random = max(100, int(1_000 * share)), np.random.default_rng(51)
    for metric in ("auc", "log_loss"):
        shown, how = 0, METRICS["binary"][metric]
        for _ in range(repetitions):
            is_swapped = (random.random(codes.max() + 1) < 0.5)[codes]
            ours = replicate(how, label, np.where(is_swapped, two, one), codes)
            theirs = replicate(how, label, np.where(is_swapped, one, two), codes)
            shown += estimate((ours.minus(theirs, how.sign),), False).lower(0.05) > 0
        rate = shown / repetitions
        yield f"{metric}, real scores swapped by day: shown better at .05", f"{rate:.1%}", "about 5%", rate <= 0.07


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--share", type=float, default=1.0, help="of the full number of repetitions")
    options.add_argument("--predictions", type=Path, help="predictions.arrow of an evaluation, with both models")
    chosen = options.parse_args()
    parts = (false_promotions, serial_coverage, refresh_at_the_margin, creep, power, guarded_slices, vetoes)
    for part in parts:
        for row in part(chosen.share):
            show(row)
    if chosen.predictions is not None:
        for row in swapped_scores(chosen.predictions, chosen.share):
            show(row)


def show(row: Row) -> None:
    what, found, asked, holds = row
    print(f"{'ok  ' if holds else 'MISS'}  {what:<88}  {found:<58}  {asked}", flush=True)


if __name__ == "__main__":
    main()
