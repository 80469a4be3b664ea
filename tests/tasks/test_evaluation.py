"""The evaluation as a task: which rows, which models, what it leaves behind. Models are made up; rows are on disk."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from configs.recipe import load_recipe
from configs.sections.gate import GateSection
from configs.sections.model import BaselineSection
from tasks import baselines, evaluation, plotting
from tasks.core import baseline
from tasks.core.errors import FitError, ModelError, RecipeError
from tasks.core.records import Contender, Evaluation, Inputs, ModelRef, RowRange, TrainingSetRef, Window
from tasks.core.score_files import read_predictions

START = datetime(2013, 3, 1, tzinfo=UTC)
FIT_DAYS, HOLDOUT_DAYS, PER_DAY = 40, 28, 60


class MadeUp:
    """Predicts with some of what there is to know."""

    def __init__(self, weight, kind="binary", classes=()):
        self.weight, self.kind, self.classes, self.calls = weight, kind, classes, 0

    def predict(self, rows):
        self.calls += 1
        value = self.weight * rows["x"].to_numpy() + rows["y"].to_numpy()
        if self.kind == "regression":
            return value
        if self.kind == "multiclass":
            raw = np.exp(np.stack([value * k for k in range(len(self.classes))], axis=1))
            return raw / raw.sum(axis=1, keepdims=True)
        return (1 / (1 + np.exp(-value))).astype(np.float32)


def make_training_set(folder, kind="binary"):
    random = np.random.default_rng(0)
    rows = (FIT_DAYS + HOLDOUT_DAYS) * PER_DAY
    x, y = random.normal(size=(2, rows))
    labels = {
        "binary": (random.random(rows) < 1 / (1 + np.exp(-(x + y)))).astype(int),
        "multiclass": np.array(["a", "b", "c"])[np.clip(np.round(x + y), -1, 1).astype(int) + 1],
        "regression": x + y + random.normal(size=rows),
    }
    times = [START + timedelta(days=i // PER_DAY, minutes=i % PER_DAY) for i in range(rows)]
    table = pa.table(
        {
            "flight": np.arange(rows),
            "origin": np.array(["EWR", "JFK", "LGA"])[random.integers(0, 3, rows)],
            "prediction_time": pa.array(times, pa.timestamp("us", "UTC")),
            "x": x,
            "y": y,
            "city": np.array(["p", "q"])[(x > 0).astype(int)],
            "label": labels[kind],
        }
    )
    path = folder / "training_set.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    middle, end = START + timedelta(days=FIT_DAYS), START + timedelta(days=FIT_DAYS + HOLDOUT_DAYS)
    return TrainingSetRef(
        uri=str(path),
        digest=f"0123-{kind}",
        rows=rows,
        as_of=end + timedelta(hours=36),
        service="made_up",
        inputs=Inputs(numeric=("x", "y"), categorical=("city",)),
        label_kind=kind,
        key=("flight",),
        splits={
            "fit": RowRange(start=0, stop=FIT_DAYS * PER_DAY, window=Window(start=START, end=middle)),
            "holdout": RowRange(start=FIT_DAYS * PER_DAY, stop=rows, window=Window(start=middle, end=end)),
        },
        unlabelled_rows=0,
        tables=(),
    )


def run_in_process(spec, folder):
    spec.write(folder / "spec.json")
    baseline.main(str(folder / "spec.json"))


@pytest.fixture
def run(tmp_path, monkeypatch, request):
    """run(challenger=…, champion=…) -> Evaluation; with the trees' own process where asked for."""
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    if not hasattr(request, "param"):
        monkeypatch.setattr(baselines, "fit_trees", lambda spec: run_in_process(spec, tmp_path))

    def evaluate(decision="d1", kind="binary", gate=None, trees=None, champion_as_of=START, procedures=None, **models):
        training_set = make_training_set(tmp_path, kind)
        fit = tmp_path / "fit" / "model"
        fit.mkdir(parents=True, exist_ok=True)
        (fit / "program.pt2").write_bytes(b"0" * 1_234)
        line = {"epoch": 1, "step": 10, "train_loss": 0.6, "validation_loss": 0.5, "validation_auc": 0.8}
        (fit.parent / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        procedures = procedures or {}
        monkeypatch.setattr(evaluation, "load_contender", lambda project, contender: models[contender.name])
        contenders = {
            name: Contender(
                name=name,
                as_of=training_set.as_of if name == "challenger" else champion_as_of,
                folder=str(fit) if name == "challenger" else None,
                ref=None
                if name == "challenger"
                else ModelRef(name="p", version={"champion": 3, "anchor": 1}[name], run_id="r", uri="u"),
                procedure=procedures.get(name, {"recipe": name}),
            )
            for name in models
        }
        return evaluation.evaluate_challenger.fn(
            "made_up",
            decision,
            gate
            or GateSection(primary="auc", margin=0.01, guards={"log_loss": 0.01}, slices=("origin",), min_rows=500),
            trees or BaselineSection(iterations=10),
            training_set,
            **contenders,
        )

    return evaluate


def figures(found, folder, kind="binary"):
    drawn = Path(found.predictions_uri).parent
    plotting.draw(drawn, folder / "fit" / "metrics.jsonl", "auc", kind)
    assert not (drawn / "plots.log").exists()
    return {figure.stem for figure in (drawn / "plots").iterdir()}


@pytest.mark.parametrize("run", ["with their process"], indirect=True)
def test_all_models_are_scored_on_the_same_rows_and_it_is_all_written_down(run, tmp_path):
    found = run(challenger=MadeUp(1.0, classes=(0, 1)), champion=MadeUp(0.0))
    assert found.verdict.outcome == "promote"
    assert [(card.model, card.version) for card in found.scorecards] == [
        ("challenger", None),
        ("champion", 3),
        ("baseline", None),
    ]
    assert {card.rows for card in found.scorecards} == {HOLDOUT_DAYS * PER_DAY}
    challenger, champion, trees = found.scorecards
    assert challenger.size_bytes == 1_234
    assert 0 < challenger.latency_one_ms < 1_000
    assert {(s.column, s.value) for s in challenger.slices} == {("origin", name) for name in ("EWR", "JFK", "LGA")}
    assert trees.latency_one_ms is None
    assert challenger.metrics["auc"].value > trees.metrics["auc"].value > champion.metrics["auc"].value
    assert not found.baseline_wins
    with pa.memory_map(found.predictions_uri) as file:
        table = pa.ipc.open_file(file).read_all()
    scores = ["score_challenger", "score_champion", "score_baseline"]
    assert table.column_names == ["prediction_time", "label", "origin", *scores]
    folder = tmp_path / "home" / "runs" / "made_up" / "d1"
    assert Evaluation.read(folder / "evaluation.json") == found
    assert figures(found, tmp_path) == {"roc", "reliability", "slices", "learning_curve"}


def test_what_was_evaluated_is_not_evaluated_again(run):
    first, second = MadeUp(1.0), MadeUp(1.0)
    assert run(challenger=first) == run(challenger=second)
    assert (first.calls > 0, second.calls) == (True, 0)


def test_the_trees_are_fitted_once_for_the_same_rows(run, monkeypatch):
    before = run(challenger=MadeUp(1.0))
    monkeypatch.setattr(baselines, "fit_trees", None)
    after = run(decision="d2", challenger=MadeUp(0.2))
    assert before.scorecards[1] == after.scorecards[1]
    assert after.baseline_wins


def test_only_rows_after_the_champions_own_moment_count(run):
    moment = START + timedelta(days=FIT_DAYS + 10, minutes=5)
    found = run(challenger=MadeUp(1.0), champion=MadeUp(0.0), champion_as_of=moment)
    assert found.verdict.rows == 18 * PER_DAY - 6  # the row at that very minute is seen
    assert found.scorecards[0].window.start == moment


def test_too_few_unseen_rows_are_undecided_and_none_at_all_too(run):
    few = run(challenger=MadeUp(1.0), champion=MadeUp(0.0), champion_as_of=START + timedelta(days=FIT_DAYS + 23))
    assert (few.verdict.outcome, few.verdict.rows) == ("undecided", 5 * PER_DAY - 1)
    assert few.verdict.days_that_would_do == pytest.approx(10, rel=0.01)
    none = run("d2", challenger=MadeUp(1.0), champion=MadeUp(0.0), champion_as_of=START + timedelta(days=90))
    assert (none.verdict.outcome, none.verdict.rows) == ("undecided", 0)
    assert [card.model for card in none.scorecards] == ["challenger", "baseline"]


def test_the_anchor_counts_for_a_refresh_only(run):
    same = {name: {"recipe": "r"} for name in ("challenger", "champion", "anchor")}
    models = {"challenger": MadeUp(0.5), "champion": MadeUp(0.5), "anchor": MadeUp(1.0)}
    refresh = run(procedures=same, **models)
    assert (refresh.verdict.mode, refresh.verdict.outcome) == ("refresh", "reject")  # creep: as good as the champion
    assert "against the anchor's" in refresh.verdict.reasons[1]
    change = run("d2", **models)
    assert change.verdict.mode == "change"
    assert [card.model for card in change.scorecards] == ["challenger", "champion", "baseline"]


def test_models_that_know_other_classes_are_compared(run, tmp_path):
    gate = GateSection(primary="log_loss", margin=0.05, min_rows=500)
    found = run(
        kind="multiclass",
        gate=gate,
        challenger=MadeUp(1.0, "multiclass", ("a", "b", "c")),
        champion=MadeUp(1.0, "multiclass", ("b", "c")),
    )
    assert found.verdict.outcome == "promote"
    champion = found.scorecards[1].metrics["log_loss"]
    assert champion.value > found.scorecards[0].metrics["log_loss"].value + 1  # class a is never expected by it
    label, scores = read_predictions(Path(found.predictions_uri), "multiclass", ["challenger", "champion"])
    assert set(label) == {0, 1, 2}
    assert {name: one.shape for name, one in scores.items()} == dict.fromkeys(scores, (len(label), 3))
    assert (scores["champion"][:, 0] == 0).all()
    assert scores["challenger"][:, 0].min() > 0
    assert figures(found, tmp_path, "multiclass") == {"reliability", "learning_curve"}


@pytest.mark.parametrize("run", ["with their process"], indirect=True)
def test_a_series_meets_its_last_known_value(run, tmp_path):
    found = run(
        kind="regression",
        gate=GateSection(primary="mae", margin=0.05, min_rows=500),
        trees=BaselineSection(iterations=10, last_known_value="x"),
        challenger=MadeUp(1.0, "regression"),
    )
    assert [card.model for card in found.scorecards] == ["challenger", "baseline", "persistence"]
    mae = {card.model: card.metrics["mae"].value for card in found.scorecards}
    assert mae["challenger"] < mae["persistence"]
    assert figures(found, tmp_path, "regression") == {"predicted_actual", "residuals", "learning_curve"}


def test_a_baseline_that_fails_says_why(tmp_path):
    spec = baseline.BaselineSpec(
        training_set="nowhere.arrow",
        inputs=Inputs(numeric=(), categorical=()),
        label_kind="binary",
        fit_rows=RowRange(start=0, stop=1, window=Window(start=START, end=START)),
        score_rows=RowRange(start=1, stop=2, window=Window(start=START, end=START)),
        iterations=1,
        output=str(tmp_path / "scores.arrow"),
    )
    with pytest.raises(FitError, match=r"nowhere\.arrow"):
        baselines.fit_trees(spec)
    assert not (tmp_path / "scores.arrow").exists()


def test_scores_that_are_not_finite_and_columns_that_are_not_there(run):
    with pytest.raises(ModelError, match="not finite"):
        run(challenger=MadeUp(np.nan))
    with pytest.raises(RecipeError, match=r"gate\.slices names a column"):
        run("d2", gate=GateSection(primary="auc", margin=0.01, slices=("carrier",)), challenger=MadeUp(1.0))


def test_the_procedure_is_what_a_model_is_made_by():
    recipe = load_recipe("flights")
    same = evaluation.trace_procedure(recipe, "f")
    assert evaluation.trace_procedure(load_recipe("flights", {"gate.margin": 0.02, "seed": 8}), "f") == same
    for changed in (
        evaluation.trace_procedure(load_recipe("flights", {"model.batch_size": 7}), "f"),
        evaluation.trace_procedure(recipe, "g"),
    ):
        assert changed != same
