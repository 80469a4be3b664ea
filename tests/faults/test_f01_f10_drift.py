"""F1, the world drifts away from a model. F10, a feature is calculated otherwise than when the model was made."""

from itertools import pairwise

import numpy as np

from tasks.deciding import open_outbox
from tasks.home import open_lake
from tasks.scoring import PREDICTIONS
from tests.faults.plant import DAY, MADE, PUMPS, rows, tell


def test_f1_model_drift_shows_in_the_rolling_trend_and_a_retrain_mends_it(plant):
    worn = rows(lambda day: np.where(day < 24, 1.5, np.where(day < 31, 0.3, -0.4)))
    plant.write_sources(worn)
    trend, actions = [], []
    for week in (1, 2):
        plant.ingest(MADE + 7 * week * DAY)
        report, decision = plant.monitor(MADE + 7 * week * DAY)
        assert report.observation.faults == (), "the data is whole: it is the world that has changed"
        trend.append(report.quality.newest.value)
        actions.append(decision.action)
    promised = report.quality.promised.value
    assert all(later < earlier for earlier, later in pairwise([promised, *trend]))
    assert report.quality.is_lost
    assert actions[-1] == "retrain"

    (wanted,) = [entry.wanted for entry in open_outbox("pumps").entries()]
    entry = plant.train(wanted.as_of, cause=wanted.cause, decided=wanted.decision_id)
    assert (entry.kind, entry.champion, entry.previous) == ("promoted", 2, 1)
    gain = next(one for one in plant.verdict(2).comparisons if one.role == "primary")
    assert gain.low > 0
    scored = open_lake("pumps").latest(PREDICTIONS).rows
    assert scored == 14 * 24 * PUMPS, "every row of the two weeks has its prediction"
    tell(
        "F1 model drift", f"rolling auc {promised:.3f} promised, then {', '.join(f'{one:.3f}' for one in trend)}",
        f"retrain decided and promoted, auc better by {gain.difference:.3f} (at least {gain.low:.3f})",
        f"{scored:,} of {scored:,} rows predicted, the old champion kept as previous",
    )  # fmt: skip


def test_f10_a_changed_calculation_shows_in_the_feature_and_its_definition_and_halts(plant):
    lake, as_of = open_lake("pumps"), MADE + 7 * DAY
    plant.ingest(as_of)
    right = plant.sql.read_text()
    before = {ref.name: lake.content(ref.name, ref.version, as_of) for ref in plant.tables(as_of)}
    ledger = plant.ledger()

    plant.sql.write_text(right.replace("/ (1000.0 * count(*) over last_hours)", "/ 1000.0"))  # a sum, not a mean
    report, decision = plant.monitor(as_of)
    moved = next(one for one in report.columns if one.column == "recent__mean_vibration")
    assert moved.is_drifted
    assert moved.column in report.observation.drifted
    assert any(fault.startswith("pumps/recent.sql: ") for fault in report.observation.faults)
    assert decision.action == "halt"
    assert not open_outbox("pumps").entries()
    assert plant.ledger() == ledger

    plant.sql.write_text(right)
    after = {ref.name: lake.content(ref.name, ref.version, as_of) for ref in plant.tables(as_of)}
    assert after == before
    plant.ingest(as_of + DAY)
    report, decision = plant.monitor(as_of + DAY)
    assert (report.observation.faults, decision.action != "halt") == ((), True)
    tell(
        "F10 feature drift",
        f"recent__mean_vibration psi {moved.statistics['psi']:.2f}, and pumps/recent.sql is another one",
        "halt, nothing trained on it; whole again once the definition is put back",
        "the feature tables are rebuilt digest by digest, the ledger is as it was",
    )  # fmt: skip
