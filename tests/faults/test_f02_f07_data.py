"""F2, the schema changes upstream. F7, rows are poisoned: impossible numbers, and labels turned round in a segment."""

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tasks.core.errors import LeakageError
from tasks.home import open_lake
from tasks.quarantine import replay_quarantine
from tasks.refusals import open_refusals
from tests.faults.plant import DAY, MADE, PUMPS, rows, tell


def test_f2_a_schema_change_is_refused_by_name_and_every_row_comes_in_once_it_is_mended(plant):
    as_of, lake = MADE + 7 * DAY, open_lake("pumps")
    plant.ingest(MADE + 3 * DAY)
    before = lake.latest("readings")
    names = ["pressure_bar" if name == "pressure" else name for name in rows().column_names]
    plant.write_sources_renamed(names)
    published, (refused,) = plant.ingest(as_of)
    assert "pressure" in str(refused)
    assert [batch.table.name for batch in published] == ["outcomes"], "the other table goes on"
    assert lake.latest("readings") == before

    report, decision = plant.monitor(as_of)
    fault = next(one for one in report.observation.faults if one.startswith("readings is refused at ingest"))
    assert "pressure" in fault
    assert decision.action == "halt"
    assert plant.serves()

    plant.write_sources(rows())
    assert plant.ingest(as_of)[1] == []
    assert open_refusals("pumps", as_of) == []
    there = lake.latest("readings").rows
    assert there == 31 * 24 * PUMPS + PUMPS, "every hour until the moment, which it includes"
    tell(
        "F2 schema change", f"preprocessor error “{refused.what}”, told by the monitor",
        "the table is refused, the loop halts, the champion serves on",
        f"{there:,} of {there:,} rows are there after the mend",
    )  # fmt: skip


def test_f7_poison_is_put_aside_with_its_reason_and_turned_labels_stop_the_training(plant):
    # Days are what a turned segment is shown by, and four of a holdout are too few.
    plant.changes = {"split.holdout": "11d", "govern.cooldown": "12d"}
    as_of, lake, ledger = MADE + 12 * DAY, open_lake("pumps"), plant.ledger()
    whole = rows()
    is_new = pc.greater(whole["read_at"], pa.scalar(MADE, pa.timestamp("us", "UTC"))).to_numpy(zero_copy_only=False)
    spoilt = is_new & (np.arange(whole.num_rows) % 251 == 0)
    turned = is_new & (whole["kind"].to_numpy(zero_copy_only=False) == "old")
    pressure = np.where(spoilt, 999.0, whole["pressure"].to_numpy())
    failed = np.where(turned, 1 - whole["failed"].to_numpy(), whole["failed"].to_numpy()).astype(np.int32)
    poisoned = whole.set_column(2, "pressure", pa.array(pressure)).set_column(5, "failed", pa.array(failed))
    plant.write_sources(poisoned)

    published, refused = plant.ingest(as_of)
    assert refused == []
    (aside,) = [batch.quarantined_rows for batch in published if batch.table.name == "readings"]
    (file,) = (plant.folder / "home" / "quarantine" / "pumps" / "readings").glob("*.parquet")
    reasons = duckdb.sql(f"select distinct unnest(reasons) from '{file}'").fetchall()
    assert aside > 10
    assert [("pressure" in reason) for (reason,) in reasons] == [True]

    with pytest.raises(LeakageError, match=r"segment labels: kind=old") as caught:
        plant.train(as_of)
    assert plant.ledger() == ledger
    assert plant.serves()

    mended = duckdb.sql(f"select * replace (12.0 as pressure) from '{file}'").to_arrow_table()
    plant.write_table(mended, file)
    replay_quarantine.fn("pumps", "readings", plant.run(as_of).recipe.tables["readings"], as_of)
    there = lake.latest("readings").rows
    assert there == 36 * 24 * PUMPS + PUMPS
    found = str(caught.value.got).strip().splitlines()[0]
    tell(
        "F7 poisoned data", f"anomalous patterns: {aside} rows of {reasons[0][0]}; {found}",
        "those rows are put aside with their reason, the training set is refused",
        f"{there:,} of {there:,} rows are there after the mend, the champion serves on",
    )  # fmt: skip
