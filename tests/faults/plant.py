"""A small plant of pumps, played through the real stages in a home of its own: what the faults are injected into.

Twenty pumps are read every hour; will one fail within six hours? Pressure and the vibration of the last hours tell.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tasks import scoring
from tasks.core.errors import PerennialError
from tasks.core.governor import Decision
from tasks.core.model_card import Lineage
from tasks.core.observation import MonitorReport
from tasks.core.records import Contender, LedgerEntry, PublishedBatch, TableRef, Verdict
from tasks.deciding import decide
from tasks.evaluation import evaluate_challenger
from tasks.features import build_features
from tasks.home import open_lake, open_ledger, open_registry
from tasks.ingestion import publish_batch, stage_table
from tasks.monitoring import observe_window
from tasks.promotion import promote
from tasks.refusals import collecting, noting_refusal
from tasks.registering import register_challenger
from tasks.rivals import find_rivals, trace_challenger
from tasks.run import Run, open_run
from tasks.tracking import track_run
from tasks.training import fit_model
from tasks.training_set import build_training_set
from tasks.validation import validate_batch

if TYPE_CHECKING:
    from tasks.stores.served_model import ServedModel

START, MADE = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 3, 25, tzinfo=UTC)
DAY = timedelta(days=1)
DAYS, PUMPS = 48, 20
TIMES = {"event_timestamp": "read_at", "created_timestamp": "read_at"}
RECIPE: dict[str, Any] = {
    "project": "pumps",
    "description": "Will a pump fail within six hours?",
    "start": START.date().isoformat(),
    "tables": {
        "readings": {
            "description": "One row per pump and hour.",
            "columns": {name: name for name in ("pump", "read_at", "pressure", "vibration", "kind")},
            "key": ["pump", "read_at"],
            **TIMES,
        },
        "outcomes": {
            "description": "One row per reading, once it is known whether the pump failed.",
            "columns": {name: name for name in ("pump", "read_at", "failed")},
            "key": ["pump", "read_at"],
            **dict.fromkeys(TIMES, "read_at + interval 6 hour"),
        },
    },
    "features": {
        "service": "pump_failure",
        "entity_rows": {
            "table": "readings",
            "prediction_time": "event_timestamp",
            "columns": {name: name for name in ("pump", "pressure", "kind")},
        },
        "drop": ["pump"],
    },
    "label": {"kind": "binary", "table": "outcomes", "expression": "failed", "maturity": "6h"},
    "split": {"holdout": "4d", "validation": "2d", "embargo": "6h", "window": "8d"},
    "model": {
        "network": "mlp", "options": {"widths": [16], "dropout": 0.0}, "batch_size": 256, "max_epochs": 5,
        "optimizer": {"learning_rate": 0.01},
    },
    "baseline": {"iterations": 10},
    "gate": {
        "primary": "auc", "margin": 0.02, "floors": {"auc": 0.6}, "min_rows": 500, "clusters": "entity",
        "entity": "pump", "max_latency_ms": 500,
    },
    "monitor": {"quality_window": "7d", "probe": {"fit": "10d", "test": "5d", "iterations": 20}},
    "govern": {"cooldown": "5d", "min_new_labels": 100},
}  # fmt: skip
FEATURES = """
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, String

pump = Entity(name="pump", join_keys=["pump"], value_type=ValueType.STRING)
times = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created_timestamp"}
recent = FeatureView(
    name="recent", entities=[pump], ttl=timedelta(hours=2),
    source=FileSource(name="recent", path="lake://recent", **times),
    schema=[Field(name="pump", dtype=String), Field(name="mean_vibration", dtype=Float64)],
)
pump_failure = FeatureService(name="pump_failure", features=[recent])
"""
RECENT = """
-- The vibration of the last six readings of each pump. One row per pump and reading.
select pump, created_timestamp as event_timestamp, created_timestamp,
       sum(round(1000 * vibration)::bigint) over last_hours / (1000.0 * count(*) over last_hours) as mean_vibration
from readings
where created_timestamp >= $start - interval 6 hour and created_timestamp < $end
window last_hours as (
    partition by pump order by created_timestamp range between interval 5 hour preceding and current row)
"""
COLUMNS = {
    "readings": ["pump", "read_at", "pressure", "vibration", "kind"],
    "outcomes": ["pump", "read_at", "failed"],
}
SUITES = {
    "readings": [
        ("expect_column_values_to_be_between", {"column": "pressure", "min_value": 0, "max_value": 30}),
        ("expect_column_values_to_be_between", {"column": "vibration", "min_value": 0, "max_value": 50}),
        ("expect_column_values_to_be_in_set", {"column": "kind", "value_set": ["old", "new"]}),
    ],
    "outcomes": [("expect_column_values_to_be_in_set", {"column": "failed", "value_set": [0, 1]})],
}  # fmt: skip


def rows(pressure_tells: Callable[[np.ndarray], np.ndarray] = lambda day: np.full(len(day), 1.5)) -> pa.Table:
    """All there is to know of every reading; `pressure_tells` is how much pressure says of a failure, by day."""
    random = np.random.default_rng(3)
    hours, size = np.repeat(np.arange(DAYS * 24), PUMPS), DAYS * 24 * PUMPS
    pressure = np.round(random.normal(12, 2, size), 3)
    level = random.normal(size=(DAYS * 24 + 5, PUMPS))
    recent = np.mean([level[lag : lag + DAYS * 24] for lag in range(6)], axis=0).ravel() * np.sqrt(6)
    vibration = np.clip(20 + 5 * level[5:].ravel(), 0.5, 49.5).round(3)
    logit = pressure_tells(hours / 24) * (pressure - 12) / 2 + 1.0 * recent - 0.5
    moments = [START + timedelta(hours=int(hour)) for hour in hours]
    return pa.table(
        {
            "pump": [f"p{number:02}" for number in np.tile(np.arange(PUMPS), DAYS * 24)],
            "read_at": pa.array(moments, pa.timestamp("us", "UTC")),
            "pressure": pressure,
            "vibration": vibration,
            "kind": np.where(np.tile(np.arange(PUMPS), DAYS * 24) % 3 == 0, "old", "new"),
            "failed": (random.random(size) < 1 / (1 + np.exp(-logit))).astype(np.int32),
        }
    )


@dataclass
class Plant:
    """One home, its sources, and the stages of the loop one by one."""

    folder: Path
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)  # overrides of the recipe

    @property
    def recipe(self) -> str:
        return str(self.folder / "pumps.yaml")

    @property
    def sql(self) -> Path:
        return self.folder / "feature_repo" / "pumps" / "recent.sql"

    def environment(self) -> dict[str, str]:
        return {
            "PERENNIAL_HOME": str(self.folder / "home"),
            "PERENNIAL_FEATURE_REPO": str(self.folder / "feature_repo"),
            "PERENNIAL_EXPECTATIONS": str(self.folder / "expectations"),
        }

    def write_files(self) -> None:
        self.sql.parent.mkdir(parents=True)
        self.sql.write_text(RECENT)
        (self.folder / "feature_repo" / "pumps.py").write_text(FEATURES)
        suites = self.folder / "expectations" / "pumps"
        suites.mkdir(parents=True)
        for table, told in SUITES.items():
            expectations = [{"type": kind, "kwargs": words, "severity": "critical"} for kind, words in told]
            (suites / f"{table}.json").write_text(json.dumps({"name": table, "expectations": expectations}))
        self.write_sources(rows())

    def write_sources(self, whole: pa.Table) -> None:
        """Also the recipe, which names where they are."""
        recipe = json.loads(json.dumps(RECIPE))
        for table, columns in COLUMNS.items():
            path = self.source(table)
            path.parent.mkdir(exist_ok=True)
            pq.write_table(whole.select([name for name in columns if name in whole.column_names]), path)
            recipe["tables"][table]["source"] = {"format": "parquet", "path": str(path)}
        Path(self.recipe).write_text(yaml.safe_dump(recipe))

    def write_sources_renamed(self, names: list[str]) -> None:
        """The same rows under other column names, and the recipe as it was."""
        pq.write_table(rows().rename_columns(names).drop_columns("failed"), self.source("readings"))

    @staticmethod
    def write_table(table: pa.Table, path: Path) -> None:
        pq.write_table(table, path)

    def source(self, table: str) -> Path:
        return self.folder / "sources" / f"{table}.parquet"

    def copy(self, folder: Path) -> "Plant":
        """A plant of its own to break, with the champion of this one."""
        made = Plant(Path(shutil.copytree(self.folder, folder)))
        made.write_sources(rows())
        return made

    # --- the loop, stage by stage ---------------------------------------------------------------------

    def run(self, as_of: datetime, **options: Any) -> Run:
        return open_run(self.recipe, as_of, self.changes, **options)

    def ingest(self, as_of: datetime) -> tuple[list[PublishedBatch], list[PerennialError]]:
        """What was published, and what was refused."""
        run, refused, published = self.run(as_of), list[PerennialError](), list[PublishedBatch]()
        for name, table in run.recipe.tables.items():
            with collecting(refused), noting_refusal(run.project, name, run.as_of):
                validated = validate_batch.fn(stage_table.fn(run.project, name, table, run.start, as_of), table)
                published.append(publish_batch.fn(validated, table))
        return published, refused

    def tables(self, as_of: datetime) -> tuple[TableRef, ...]:
        lake = open_lake("pumps")
        ingested = tuple(lake.latest(name) for name in RECIPE["tables"])
        return (*ingested, *build_features.fn("pumps", ("pump_failure",), ingested, as_of))

    def train(self, as_of: datetime, **options: Any) -> LedgerEntry:
        """From training set to promotion, as `flows.train` and `flows.pipeline` do it."""
        run = self.run(as_of, **options)
        sections, rivals, tables = run.recipe, find_rivals.fn("pumps", as_of), self.tables(as_of)
        made = build_training_set.fn(
            "pumps", run.entity_table, sections.features, sections.label, sections.split, sections.audit, run.start,
            as_of, tables, rivals.features,
        )  # fmt: skip
        run_id = track_run.fn(run, made)
        judged = fit_model.fn("pumps", made, sections.model, sections.seed, run.decision_id, run_id)
        evaluation = evaluate_challenger.fn(
            "pumps", run.decision_id, sections.gate, sections.baseline, made, trace_challenger(run, judged),
            rivals.champion, rivals.anchor, rivals.attempts,
        )  # fmt: skip
        version = register_challenger.fn(run, made, judged, judged, evaluation, tables, rivals.against)
        against = rivals.champion.ref if rivals.champion else None
        return promote.fn(run, version, against, made, judged, judged, evaluation)

    def champion(self, as_of: datetime) -> Contender:
        found = find_rivals.fn("pumps", as_of).champion
        assert found is not None
        return found

    def monitor(self, as_of: datetime) -> tuple[MonitorReport, Decision]:
        """Score the window since the last time, look at it, decide."""
        run, champion, tables = self.run(as_of), self.champion(as_of), self.tables(as_of)
        window = scoring.unscored_window("pumps", champion, as_of)
        assert champion.ref is not None
        scoring.score_window.fn("pumps", champion.ref, window, as_of, tables)
        report = observe_window.fn(run, champion, None, tables)
        assert report is not None
        return report, decide.fn(run, self.recipe, None)

    def load(self) -> "ServedModel":
        """The champion as it is served: a model of its own at each call."""
        champion = self.champion(datetime.max.replace(tzinfo=UTC))
        assert champion.ref is not None
        return open_registry("pumps").load(champion.ref)

    def lineage(self, version: int) -> Lineage:
        return Lineage.from_json(self._page(version, "lineage.json"))

    def verdict(self, version: int) -> Verdict:
        return Verdict.from_json(self._page(version, "verdict.json"))

    def tags(self, version: int) -> dict[str, str]:
        registry = open_registry("pumps")
        return registry.tags(registry.version(version))

    def _page(self, version: int, name: str) -> str:
        registry = open_registry("pumps")
        return registry.read_text(registry.version(version).run_id, name)

    def ledger(self) -> list[LedgerEntry]:
        return list(open_ledger("pumps").entries())

    def serves(self) -> bool:
        """Whether the champion of the ledger loads and answers."""
        row = pa.table({"pressure": [12.0], "recent__mean_vibration": [20.0], "kind": ["old"]})
        return bool(np.isfinite(self.load().predict(row)).all())


def tell(fault: str, signal: str, mitigation: str, nothing_lost: str) -> None:
    """One line for each fault, which `pytest -s tests/faults` shows."""
    print(f"\n{fault}: signal {signal}; mitigation {mitigation}; nothing lost: {nothing_lost}")
