"""References: what a champion's inputs and scores were like when it was made, kept among its run's artifacts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.settings import load_settings
from tasks.account import step
from tasks.core.errors import ModelError
from tasks.core.records import Evaluation, ModelRef
from tasks.home import open_registry

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from tasks.core.model_card import Lineage
    from tasks.core.reference import Reference
    from tasks.stores.registry import Registry

REFERENCE = "reference.json"


def champion_reference(project: str, model: ModelRef) -> "Reference":
    """Read, or at the first use made from what the model was made of, and kept.

    Raises:
        ModelError: what it was made of is not there any more.
    """
    from tasks.core.reference import Reference

    registry = open_registry(project)
    try:
        return Reference.from_json(registry.read_text(model.run_id, REFERENCE))
    except (FileNotFoundError, KeyError):  # none yet, or one that another version of this code wrote
        pass
    with step("reference", f"{project} v{model.version}") as line:
        made = make_reference(registry, project, model)
        registry.log_text(model.run_id, REFERENCE, json.dumps(made.to_dict()))
        line.note(f"{len(made.columns)} inputs, {len(next(iter(made.columns.values())).counts)} days")
    return made


def make_reference(registry: "Registry", project: str, model: ModelRef) -> "Reference":
    from tasks.core.estimates import calibrate
    from tasks.core.gate_rows import encode_label, read_rows
    from tasks.core.model_card import Lineage
    from tasks.core.reference import PREDICTION, Reference, build_columns
    from tasks.stores.serving import load_model_folder

    lineage = Lineage.from_json(registry.read_text(model.run_id, "lineage.json"))
    evaluation = _evaluation(project, lineage)
    made_of, inputs = lineage.training_set, lineage.training_set.inputs
    _check_there(made_of.uri, lineage.judged.model, lineage.served.model)
    is_refitted = lineage.served.weights_sha256 != lineage.judged.weights_sha256
    fitted, holdout = (read_rows(made_of, part) for part in ("all" if is_refitted else "fit", "holdout"))
    # What is served says what its scores are like; a refit has seen these rows, so what they are worth says the judged.
    served = load_model_folder(lineage.served.model)
    scores, honest = served.predict(holdout), load_model_folder(lineage.judged.model).predict(holdout)
    promise = next(card.metrics for card in evaluation.scorecards if card.model == "challenger")
    is_binary = made_of.label_kind == "binary"
    return Reference(
        version=model.version,
        as_of=lineage.as_of,
        feature_files=pinned_files(lineage),
        columns=build_columns(fitted, [*inputs.numeric, *inputs.categorical]),
        prediction=build_columns(prediction_rows(holdout["prediction_time"], scores, served.classes), [PREDICTION])[
            PREDICTION
        ],
        promise=dict(promise),
        calibration=calibrate(encode_label(holdout["label"], "binary"), honest, scores) if is_binary else None,
    )


def prediction_rows(times: "pa.ChunkedArray", scores: "np.ndarray", classes: Sequence[Any] | None) -> "pa.Table":
    """Scores as a column: a number, or of several classes the most likely one."""
    import numpy as np
    import pyarrow as pa

    from tasks.core.reference import PREDICTION

    values = scores if scores.ndim == 1 else np.asarray(list(map(str, classes or ())))[scores.argmax(axis=1)]
    return pa.table({"prediction_time": times, PREDICTION: pa.array(values)})


def pinned_files(lineage: "Lineage") -> dict[str, str]:
    """Digests of the SQL of the feature tables that it reads, by file."""
    read = {table.name for table in lineage.training_set.tables}
    return {name: told for name, told in lineage.feature_files.items() if Path(name).stem in read}


def _evaluation(project: str, lineage: "Lineage") -> Evaluation:
    path = load_settings().folder("runs", project) / lineage.decision_id / "evaluation.json"
    _check_there(str(path))
    return Evaluation.read(path)


def _check_there(*paths: str) -> None:
    for path in paths:
        if not Path(path).exists():
            raise ModelError(
                "the champion's reference cannot be made",
                got=f"{path} is gone",
                expected="what the model was made of, until its first monitor run",
                fix="restore it from a backup, or train again; a model that was monitored once keeps its reference",
            )
