"""What a model was made of: the code, the definitions of its features, its rows, its fits."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from configs.settings import load_settings
from tasks.core.model_card import CodeVersion, Lineage
from tasks.core.records import FitResult, TrainingSetRef, digest
from tasks.run import Run

ROOT = Path(__file__).parents[1]
LIBRARIES = ("torch", "lightning", "numpy", "pyarrow", "duckdb", "feast", "mlflow")


def trace_lineage(run: Run, training_set: TrainingSetRef, judged: FitResult, served: FitResult) -> Lineage:
    return Lineage(
        project=run.project,
        decision_id=run.decision_id,
        as_of=run.as_of,
        cause=run.cause,
        attempt=run.attempt,
        seed=run.recipe.seed,
        recipe_digest=run.recipe.digest,
        training_set=training_set,
        feature_files=feature_files(run.project),
        judged=judged,
        served=served,
        code=code_version(),
    )


def feature_files(project: str) -> dict[str, str]:
    folder = load_settings().feature_repo
    paths = sorted([folder / f"{project}.py", *(folder / project).glob("*.sql")])
    return {str(path.relative_to(folder)): digest(path.read_text()) for path in paths if path.exists()}


def code_version() -> CodeVersion:
    commit, lock = _git("rev-parse", "HEAD"), ROOT / "requirements.lock"
    return CodeVersion(
        commit=commit,
        is_dirty=bool(commit and _git("status", "--porcelain", "--untracked-files=no")),
        lock_digest=digest(lock.read_text()) if lock.exists() else "none",
        python=platform.python_version(),
        libraries={name: metadata.version(name) for name in LIBRARIES},
    )


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or not a checkout
    return done.stdout.strip()
