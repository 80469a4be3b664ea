"""Lines of the prediction log: one per entity row and model, or with several classes one per class too."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.content import row_digests
from tasks.core.errors import ModelError
from tasks.core.model_rows import CREATED, EVENT, TIME
from tasks.core.records import Inputs

CLASS, SCORE, VERSION, FEATURES = "predicted_class", "score", "model_version", "feature_digest"


def log_key(key: Sequence[str], classes: Sequence[Any]) -> tuple[str, ...]:
    """What tells the lines of the log apart."""
    return (*key, VERSION, *([CLASS] if classes else []))


def log_lines(
    rows: pa.Table,
    scores: npt.NDArray[Any],
    *,
    key: Sequence[str],
    inputs: Inputs,
    classes: Sequence[Any],
    version: int,
) -> pa.Table:
    """Scores (B,), or (B, classes), as lines: key, model_version, class, score, feature_digest and both timestamps.

    A prediction is an event of its prediction time, and known then. `feature_digest` is 64 bits over the inputs.

    Raises:
        ModelError: a score that is not finite.
    """
    scores = np.asarray(scores, np.float64)
    if not np.isfinite(scores).all():
        count = int((~np.isfinite(scores)).any(axis=tuple(range(1, scores.ndim))).sum())
        raise ModelError(
            f"version {version} gives scores that are not finite", got=f"{count:,} of {len(scores):,} rows"
        )
    digests = row_digests(rows, [*inputs.numeric, *inputs.categorical])
    lines = rows.select([*key, TIME]).append_column(FEATURES, pa.array(digests))
    if classes:
        names = pa.array([str(name) for name in classes])
        lines = lines.take(np.repeat(np.arange(rows.num_rows), len(classes)))
        lines = lines.append_column(CLASS, names.take(pa.array(np.tile(np.arange(len(classes)), rows.num_rows))))
    return pa.table(
        {
            **{name: lines[name] for name in key},
            VERSION: pa.repeat(pa.scalar(version, pa.int64()), lines.num_rows),
            **({CLASS: lines[CLASS]} if classes else {}),
            SCORE: pa.array(scores.reshape(-1)),
            FEATURES: lines[FEATURES],
            EVENT: pc.cast(lines[TIME], pa.timestamp("us", "UTC")),
            CREATED: pc.cast(lines[TIME], pa.timestamp("us", "UTC")),
        }
    )
