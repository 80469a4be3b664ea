"""The main job of `flights` without vendors, in one process and one DuckDB: what `bench_main_job` stands beside ours.

Each date: tables, features, ASOF joins, a bare PyTorch loop with the trees beside it, the gate's own functions, refit.

Run: python -m tests.benchmarks.plain_main_job FOLDER
"""

import contextlib
import json
import math
import os
import random
import sqlite3
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

DATES = (datetime(2013, 4, 1, tzinfo=UTC), datetime(2013, 7, 1, tzinfo=UTC))
INSTANT = timedelta(microseconds=1)
UNSEEN_FRACTION = 0.05  # as in tasks.core.lit_module, which would import Lightning
DAY = timedelta(days=1)
# View -> its table, the table's key, the entity column, how old a row may be: `feature_repo/flights.py` without Feast.
VIEWS = {
    "weather_at_origin": ("weather_at_origin", "origin", "origin", timedelta(hours=6)),
    "aircraft": ("aircraft", "tailnum", "tailnum", None),
    "origin_airport": ("airport", "airport", "origin", None),
    "dest_airport": ("airport", "airport", "dest", None),
    "last_arrival": ("last_arrival", "tailnum", "tailnum", 8 * DAY),
    **{
        f"{what}_by_{key}": (f"{what}_by_{key}", key, key, 8 * DAY)
        for what in ("departures", "arrivals")
        for key in ("origin", "carrier", "dest")
    },
}


# --- rows -------------------------------------------------------------------------


class Plain:
    """The computation of the main job, date after date, with nothing kept but what the next date needs."""

    def __init__(self, folder: Path) -> None:
        import duckdb

        from configs.recipe import load_recipe

        self.folder, self.recipe = folder, load_recipe("flights")
        self.start = datetime.combine(self.recipe.start, datetime.min.time(), UTC)
        self.connection = duckdb.connect()
        self.connection.execute("set TimeZone = 'UTC'; set enable_progress_bar = false")
        self.built_until: datetime | None = None
        self.champion: Model | None = None
        self.champion_since = self.start

    def run(self, as_of: datetime) -> dict[str, Any]:
        with self.timed("tables"):
            self.read_tables(as_of)
        with self.timed("features, materialized"):
            self.build_features(as_of)
            self.materialize()
        with self.timed("score"):
            scored = self.score(as_of)
        with self.timed("training set"):
            rows, content, splits, inputs = self.make_training_set(as_of)
        with ThreadPoolExecutor(1) as beside, self.timed("fit, trees beside it"):
            trees = beside.submit(self.fit_trees, rows, splits, inputs)
            judged = self.fit(rows, splits, inputs, None)
            baseline = trees.result()
        with self.timed("judge"):
            verdict, cards = self.judge(rows, splits, judged, baseline)
        if verdict.outcome == "promote":
            with self.timed("refit"):
                served = self.fit(rows, splits, inputs, self.refit_steps(splits, judged.steps))
                self.check_refit(rows, splits, judged, served)
                self.champion, self.champion_since = served, as_of
                served.save(self.folder / f"champion_{as_of:%Y%m%d}.pt")
        metrics = {card.model: {name: each.value for name, each in card.metrics.items()} for card in cards}
        return {"digest": content, "outcome": verdict.outcome, "metrics": metrics, "scored": scored}

    @contextlib.contextmanager
    def timed(self, work: str) -> Iterator[None]:
        began = time.perf_counter(), time.process_time()
        yield
        spent = time.perf_counter() - began[0], time.process_time() - began[1]
        print(f"    plain: {work:24}{spent[0]:7.1f} s {spent[1]:7.1f} CPU s", flush=True)

    def read_tables(self, as_of: datetime) -> None:
        """The recipe's tables as known at `as_of`."""
        for name, table in self.recipe.tables.items():
            for relation, source in {"source": table.source, **table.lookups}.items():
                nulls = ", ".join(f"'{value}'" for value in source.null_values)
                read = f"read_csv('{self.unpack(source.path)}', header=true, delim=',', nullstr=[{nulls}])"
                self.connection.execute(f"create or replace temp view {relation} as from {read}")
            moments = {"start": self.start, "end": as_of + table.ahead, "as_of": as_of}
            query = self.select(table)
            told = {key: value for key, value in moments.items() if f"${key}" in query}
            self.connection.execute(f'create or replace table "{name}" as {query}', told)
            for relation in ("source", *table.lookups):  # a lookup may bear a table's name
                self.connection.execute(f"drop view temp.{relation}")
            self.drop_refused(name)
            key = ", ".join((*table.key, "event_timestamp", "created_timestamp"))
            checks = f"count(*) - count(distinct ({key})), count(*) filter (event_timestamp is null)"
            assert self.connection.execute(f'select {checks} from "{name}"').fetchall() == [(0, 0)], name

    def drop_refused(self, name: str) -> None:
        """Rows with a value outside of what the table's suite allows, which ours puts in quarantine."""
        for one in json.loads(Path(f"expectations/flights/{name}.json").read_text())["expectations"]:
            given = one["kwargs"]
            if one["severity"] != "critical" or "column" not in given:
                continue
            if one["type"] == "expect_column_values_to_be_between":
                low, high = given.get("min_value", "-inf"), given.get("max_value", "inf")
                allowed = f"between '{low}'::double and '{high}'::double"
            elif one["type"] == "expect_column_values_to_be_in_set":
                allowed = f"in ({', '.join(map(repr, given['value_set']))})"
            else:
                continue
            self.connection.execute(f'delete from "{name}" where not {given["column"]} {allowed}')

    @staticmethod
    def select(table: Any) -> str:
        """The table as one SELECT, in its recipe's words."""
        times = {"event_timestamp": table.event_timestamp, "created_timestamp": table.created_timestamp}
        parts = {**table.columns, **{name: f"({expression})::timestamptz" for name, expression in times.items()}}
        columns = ", ".join(f'({expression}) as "{name}"' for name, expression in parts.items())
        until = " and event_timestamp < $end" if table.ahead else ""
        return (
            f"select * from (select {columns} from {table.relation} where {table.where})"
            f" where event_timestamp >= $start{until} and created_timestamp <= $as_of"
        )

    def unpack(self, path: str) -> str:
        from tasks.stores.source_files import resolve

        archive, _, member = resolve(path).rpartition("::")[::-1]
        if not member:
            return archive
        target = self.folder / "source.csv"
        if not target.exists():
            with zipfile.ZipFile(archive) as packed:
                target.write_bytes(packed.read(member.removeprefix("zip://")))
        return str(target)

    def build_features(self, as_of: datetime) -> None:
        """Each feature table up to `as_of`, from where the last date ended."""
        folder = Path("feature_repo/flights")
        start, end = self.built_until or datetime(1900, 1, 1, tzinfo=UTC), as_of + INSTANT
        for table in dict.fromkeys(table for table, *_ in VIEWS.values()):
            sql = (folder / f"{table}.sql").read_text().strip().rstrip(";")
            rows = f"select * from ({sql}\n) where event_timestamp >= $start and event_timestamp < $end"
            into = "insert into" if self.built_until else "create table"
            as_ = "" if self.built_until else " as"
            self.connection.execute(f"{into} {table}{as_} {rows}", {"start": start, "end": end})
        self.built_until = end

    def materialize(self) -> None:
        """The newest row of each key into SQLite."""
        with contextlib.closing(sqlite3.connect(self.folder / "online.db")) as online, online:
            for table, key in {table: key for table, key, *_ in VIEWS.values()}.items():
                newest = (
                    f"from {table} qualify row_number() over (partition by {key} order by event_timestamp desc) = 1"
                )
                found = self.connection.sql(newest)
                columns = ", ".join(found.columns)
                online.execute(f"create table if not exists {table} ({columns}, primary key ({key}))")
                marks = ", ".join("?" * len(found.columns))
                online.executemany(f"insert or replace into {table} values ({marks})", found.fetchall())

    def join(self, entities: str) -> None:
        """Table `joined`: the entity rows with each view's newest row that was known and fresh at the time."""
        features, joins = [], []
        for view, (table, key, column, ttl) in VIEWS.items():
            fresh = (
                f"{view}.event_timestamp >= e.event_timestamp - interval {ttl.total_seconds()} second" if ttl else "1"
            )
            features += [f"case when {fresh} then {view}.{name} end as {view}__{name}" for name in self.features(table)]
            joins.append(
                f"asof left join {table} {view} on e.{column} = {view}.{key}"
                f" and e.event_timestamp >= {view}.event_timestamp"
            )
        self.connection.execute(
            f"create or replace table joined as select e.*, {', '.join(features)} from ({entities}) e {' '.join(joins)}"
        )

    def features(self, table: str) -> list[str]:
        key = next(key for name, key, *_ in VIEWS.values() if name == table)
        hidden = (key, "event_timestamp", "created_timestamp")
        return [name for name in self.connection.table(table).columns if name not in hidden]

    def plans(self) -> tuple[Any, Any]:
        from tasks import joins

        features = self.recipe.features
        table = self.recipe.tables[features.entity_rows.table]
        return joins.row_plan("the model", table, features), joins.label_plan(self.recipe.label)

    def make_training_set(self, as_of: datetime) -> tuple[Any, str, Any, Any]:
        from tasks.core import model_rows
        from tasks.core.arrow_files import map_rows, write_rows
        from tasks.core.splits import ALL, split_rows, split_windows

        plan, label = self.plans()
        split = self.recipe.split
        windows = split_windows(
            start=self.start, as_of=as_of, maturity=self.recipe.label.maturity, holdout=split.holdout,
            validation=split.validation, embargo=split.embargo,
        )  # fmt: skip
        entities = model_rows.entity_query(plan, windows[ALL], as_of)
        self.join(model_rows.labelled_query(entities, plan.key, label, as_of))
        inputs = self.inputs(plan)
        derived = model_rows.derived_query("joined", [plan])
        query = model_rows.rows_query(derived, plan.key, inputs, label)
        path = self.folder / "rows.arrow"
        _, content = write_rows(self.connection.sql(query).to_arrow_reader(65_536), path)
        rows = map_rows(path)
        return rows, content, split_rows(rows["prediction_time"].to_numpy(), windows), inputs

    def inputs(self, plan: Any) -> Any:
        from tasks.core import model_rows

        columns = self.connection.table("joined").columns
        shown = ", ".join(f'"{name}"' for name in columns if name != model_rows.LABEL)
        derived = model_rows.derived_query(f"(select {shown} from joined)", [plan])
        described = self.connection.sql(f"describe {derived}").fetchall()
        names = [f"{view}__{name}" for view, (table, *_) in VIEWS.items() for name in self.features(table)]
        return model_rows.choose_inputs(plan, names, {name: kind for name, kind, *_ in described})

    def score(self, as_of: datetime) -> int:
        """The champion's predictions of what came since its own moment, to Parquet."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from tasks.core import model_rows
        from tasks.core.records import Window

        if self.champion is None:
            return 0
        plan, _ = self.plans()
        self.join(model_rows.entity_query(plan, Window(start=self.champion_since, end=as_of), as_of))
        derived = model_rows.derived_query("joined", [plan])
        rows = self.connection.sql(model_rows.rows_query(derived, plan.key, self.inputs(plan), None)).to_arrow_table()
        scores = self.champion.predict(rows)
        pq.write_table(rows.append_column("score", pa.array(scores)), self.folder / "predictions.parquet")
        return rows.num_rows

    # --- the plain script: models ---

    def fit_trees(self, rows: Any, splits: Any, inputs: Any) -> Any:
        from tasks.core.baseline import fit_and_score

        fit, holdout = (part(rows, splits[name]) for name in ("fit", "holdout"))
        return fit_and_score(fit, holdout, inputs, "binary", iterations=self.recipe.baseline.iterations)[0]

    def refit_steps(self, splits: Any, steps: int) -> int:
        fit, everything = (splits[name].stop - splits[name].start for name in ("fit", "all"))
        passes = steps * min(self.recipe.model.batch_size, fit) / fit
        return max(1, round(passes * everything / min(self.recipe.model.batch_size, everything)))

    def fit(self, rows: Any, splits: Any, inputs: Any, steps: int | None) -> "Model":
        """The best epoch by validation, or so many steps over all rows: a bare loop."""
        import numpy as np
        import torch

        from tasks.core.batches import Encoder, TensorRows
        from tasks.core.ensemble import side_by_side
        from tasks.core.heads import Head
        from tasks.core.networks import build_network
        from tasks.core.preprocessing import (
            NULL_CODE,
            UNSEEN_CODE,
            fit_category_table,
            fit_label,
            fit_numeric_preprocessing,
        )

        model, seed = self.recipe.model, self.recipe.seed
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        chosen = part(rows, splits["all" if steps else "fit"])
        encoder = Encoder(
            inputs.numeric,
            tuple(fit_category_table(name, chosen[name]) for name in inputs.categorical),
            fit_numeric_preprocessing(chosen, inputs.numeric),
            "label",
            fit_label("binary", chosen["label"]),
        )
        fitted = TensorRows(encoder.encode(chosen))
        validation = None if steps else encoder.encode(part(rows, splits["validation"]))
        torch.manual_seed(seed)
        cardinalities = [table.cardinality for table in encoder.categories]
        options = (encoder.preprocessing.width, cardinalities, encoder.label.outputs, model.options)
        network, head = build_network(model.network, *options), Head(encoder.label)
        made = Model(network, head, encoder)
        batch = min(model.batch_size, len(fitted))
        epoch_steps = len(fitted) // batch
        optimizer, scheduler = self.optimizer(network, max(steps or 0, model.max_epochs * epoch_steps))
        best, done, epoch = math.inf, 0, 0
        with side_by_side(network, torch.get_num_threads()):
            while epoch < model.max_epochs if steps is None else done < steps:
                order = fitted.order(seed, epoch)
                network.train()
                for number in range(epoch_steps):
                    place = np.random.SeedSequence([seed, epoch * epoch_steps + number, 0])
                    one = int(place.generate_state(1, np.uint32)[0])
                    torch.manual_seed(one)
                    random.seed(one)
                    numeric, categorical, target = fitted.take(order[number * batch : (number + 1) * batch])
                    hidden = torch.rand_like(categorical, dtype=torch.float32) < UNSEEN_FRACTION
                    categorical = categorical.masked_fill(hidden & (categorical != NULL_CODE), UNSEEN_CODE)
                    loss = head.loss(network(numeric, categorical), target).sum() / batch
                    optimizer.zero_grad()
                    loss.backward()
                    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), model.gradient_clip)
                    assert torch.isfinite(norm)
                    optimizer.step()
                    scheduler.step()
                    done += 1
                    if done == steps:
                        break
                epoch += 1
                if validation is not None:
                    found = head.metrics(made.scores(validation), validation.target)["loss"]
                    if found < best:
                        best = found
                        made.keep(done)
        if steps:
            made.keep(done)
        made.restore()
        return made

    def optimizer(self, network: Any, total_steps: int) -> tuple[Any, Any]:
        import torch

        options = self.recipe.model.optimizer
        matrices = [p for p in network.parameters() if p.ndim > 1]
        vectors = [p for p in network.parameters() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": options.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        warmup = options.warmup_fraction * total_steps

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            return 0.5 * (1 + math.cos(math.pi * min((step - warmup) / max(total_steps - warmup, 1.0), 1.0)))

        optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, fused=True)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def judge(self, rows: Any, splits: Any, judged: "Model", baseline: Any) -> tuple[Any, list[Any]]:
        from tasks.core import gate
        from tasks.core.gate_rows import gate_rows
        from tasks.core.scorecards import ScoredModel

        rules, holdout = self.recipe.gate, part(rows, splits["holdout"])
        compared = gate_rows(
            holdout, "binary", splits["holdout"].window, clusters=rules.clusters, entity=rules.entity,
            slices=rules.slices, serial=rules.serial,
        )  # fmt: skip
        scores = {"challenger": judged.predict(holdout), "baseline": baseline}
        if self.champion is not None:
            scores["champion"] = self.champion.predict(holdout)
        models = {name: ScoredModel(name, compared, each) for name, each in scores.items()}
        cards = [model.scorecard(rules.primary) for model in models.values()]
        verdict = gate.judge(
            rules, models["challenger"], models.get("champion"), None, [models["baseline"]], card=cards[0],
            mode="first" if self.champion is None else "refresh",
        )  # fmt: skip
        return verdict, cards

    def check_refit(self, rows: Any, splits: Any, judged: "Model", served: "Model") -> None:
        from tasks.core.gate import refit_check

        recent = part(rows, splits["holdout"])
        limit = self.recipe.gate.max_prediction_change
        assert not refit_check(judged.predict(recent), served.predict(recent), limit)


class Model:
    """A network with what encodes its rows."""

    def __init__(self, network: Any, head: Any, encoder: Any) -> None:
        self.network, self.head, self.encoder = network, head, encoder
        self.steps, self._kept = 0, {}

    def keep(self, steps: int) -> None:
        self.steps = steps
        self._kept = {name: value.clone() for name, value in self.network.state_dict().items()}

    def restore(self) -> None:
        self.network.load_state_dict(self._kept)

    def save(self, path: Path) -> None:
        import torch

        torch.save(self._kept, path)

    def scores(self, rows: Any) -> Any:
        import torch

        self.network.eval()
        with torch.no_grad():
            blocks = zip(rows.numeric.split(8192), rows.categorical.split(8192), strict=True)
            return torch.cat([self.head.predict(self.network(*block)) for block in blocks])

    def predict(self, table: Any) -> Any:
        """Probabilities (n,) of Arrow rows."""
        import torch

        from tasks.core.batches import Batch

        numeric, categorical = self.encoder.raw(table)
        with torch.no_grad():
            numbers = self.encoder.preprocessing(numeric)
        return self.scores(Batch(numbers, categorical, torch.empty(0))).double().numpy()


def part(rows: Any, span: Any) -> Any:
    return rows.slice(span.start, span.stop - span.start)


def run_plain(folder: str) -> None:
    plain = Plain(Path(folder))
    found = {f"{as_of:%Y-%m-%d}": plain.run(as_of) for as_of in DATES}
    (Path(folder) / "plain.json").write_text(json.dumps(found))


if __name__ == "__main__":
    run_plain(sys.argv[1])
