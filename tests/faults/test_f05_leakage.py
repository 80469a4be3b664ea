"""F5, the label leaks: an input that knows the answer in old rows, and feature SQL that looks ahead."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.arrow_files import map_rows
from tasks.core.audit import LabelDelays, audit_training_set, refuse_leaks
from tasks.core.errors import FeatureError, LeakageError
from tasks.core.fit_output import read_metrics
from tasks.core.records import Inputs
from tasks.home import open_lake
from tasks.training import LARGE_GAP, fit_under, gap_notes
from tests.conftest import write_arrow
from tests.faults.plant import MADE, tell

AHEAD = """
select pump, created_timestamp as event_timestamp, created_timestamp, max(failed) over hours_to_come as mean_vibration
from (select pump, read_at as created_timestamp, failed::double as failed from outcomes)
where created_timestamp >= $start and created_timestamp < $end
window hours_to_come as (partition by pump order by created_timestamp rows between current row and 6 following)
"""


def test_f5_a_leak_shows_as_a_gap_is_named_by_the_audit_and_is_never_built(plant, tmp_path, caplog):
    lineage, ledger, recipe = plant.lineage(1), plant.ledger(), plant.run(MADE).recipe
    honest = lineage.training_set
    assert gap_notes(read_metrics(Path(lineage.judged.model).parent)) == ()

    # The ticket that a repair leaves: filled in afterwards, so that old rows know it and new ones do not.
    rows, random = map_rows(honest.uri), np.random.default_rng(0)
    known = np.arange(rows.num_rows) < honest.splits["fit"].stop
    ticket = np.where(known, rows["label"].to_numpy().astype(float), random.integers(0, 2, rows.num_rows))
    leaking = rows.append_column("ticket", pa.array(ticket))
    write_arrow(tmp_path / "leaking.arrow", leaking)
    inputs = Inputs(numeric=(*honest.inputs.numeric, "ticket"), categorical=honest.inputs.categorical)
    made = dataclasses.replace(honest, uri=str(tmp_path / "leaking.arrow"), inputs=inputs)
    caplog.set_level("WARNING", logger="perennial")
    fit_under(tmp_path / "fit", made, recipe.model, recipe.seed)
    leaked = read_metrics(tmp_path / "fit" / "fit")[-1]
    assert leaked["validation_loss"] > LARGE_GAP * leaked["train_loss"]
    assert "high gap" in caplog.text

    report = audit_training_set(
        leaking, key=honest.key, inputs=inputs, label_kind="binary", splits=honest.splits,
        embargo=recipe.split.embargo, known_times=rows.select(["prediction_time"]),
        label_delays=LabelDelays(recipe.label.maturity, 0, 0, None), max_late_labels=0.005,
        max_single_feature_score=recipe.audit.max_single_feature_score, allow={}, disjoint_entities=(),
    )  # fmt: skip
    with pytest.raises(LeakageError, match="single feature: ticket"):
        refuse_leaks(report)

    lake = open_lake("pumps")
    built = lake.latest("recent")
    plant.sql.write_text(AHEAD)
    with pytest.raises(FeatureError, match="looks ahead"):
        plant.tables(MADE)
    assert lake.latest("recent") == built
    assert plant.ledger() == ledger
    tell(
        "F5 label leakage", f"train-validation gap: loss {leaked['train_loss']:.3f}, {leaked['validation_loss']:.3f}",
        f"the audit refuses the rows and names ticket (score {report.scores['ticket']:.2f}); SQL that looks ahead too",
        "feature table and ledger are as they were",
    )  # fmt: skip
