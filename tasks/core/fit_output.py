"""The output folder of a fit: what lies there, whose it is, and what is read back from it.

Standard library only: the parent of the training child reads it too.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from tasks.core.errors import FitError
from tasks.core.records import FitResult, FitSpec, write_text_atomically

PARENT = "PERENNIAL_PARENT"  # environment: the process id of who started the child and wants it to die with it
LOG = "child.log"
NOTES = "notes.txt"  # what went wrong and was mended, a line each
WRITTEN = ("checkpoints", "model", "metrics.jsonl", "result.json", "error.json", "accumulate.json",
           "non_finite_gradient.json", NOTES, LOG)  # fmt: skip


def open_output(spec: FitSpec) -> Path:
    """Make the output folder this spec's: what an equal spec left is kept and gone on from, all else removed."""
    output = Path(spec.output)
    page = output / "spec.json"
    if not _is_of(output, spec):
        remove_written(output, WRITTEN)
        spec.write(page)
    remove_written(output, ("error.json",))
    return page


def remove_written(output: Path, names: tuple[str, ...]) -> None:
    for name in names:
        path = output / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # two ranks may be at it
        else:
            path.unlink(missing_ok=True)


def finished(spec: FitSpec) -> FitResult | None:
    """The result of an equal spec's finished fit, if there is one."""
    output = Path(spec.output)
    if not (output / "result.json").exists() or not _is_of(output, spec):
        return None
    return FitResult.read(output / "result.json")


def _is_of(output: Path, spec: FitSpec) -> bool:
    """By text, so that a spec which another version of the code wrote is another spec and not an error."""
    page = output / "spec.json"
    return page.exists() and page.read_text().strip() == spec.to_json()


def read_metrics(output: Path) -> list[dict[str, Any]]:
    """The whole lines of the metrics stream; one that is still being written is not there yet."""
    path = output / "metrics.jsonl"
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def append_metrics(output: Path, line: dict[str, Any]) -> None:
    with (output / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def keep_metrics(output: Path, epochs: int) -> None:
    """Cut the stream to its first `epochs` epochs."""
    kept = [json.dumps(line) + "\n" for line in read_metrics(output) if line["epoch"] <= epochs]
    write_text_atomically(output / "metrics.jsonl", "".join(kept))


def read_accumulate(output: Path) -> int:
    """How many micro-batches make a step: 1, until memory was not enough for that."""
    path = output / "accumulate.json"
    return int(json.loads(path.read_text())) if path.exists() else 1


def write_accumulate(output: Path, accumulate: int) -> None:
    """Begin anew with more micro-batches in a step: what was made with fewer is of no use to it."""
    remove_written(output, ("checkpoints", "metrics.jsonl"))
    write_text_atomically(output / "accumulate.json", json.dumps(accumulate))


def add_note(output: Path, text: str) -> None:
    """What went wrong and was mended: for the log of the child, and for whoever waits for it."""
    print(text, file=sys.stderr, flush=True)
    with (output / NOTES).open("a") as file:
        file.write(text.replace("\n", " ") + "\n")


def read_notes(output: Path) -> list[str]:
    path = output / NOTES
    return path.read_text().splitlines() if path.exists() else []


def write_error(output: Path, error: FitError) -> None:
    parts = {"what": error.what, "got": error.got, "expected": error.expected, "fix": error.fix}
    page = {name: part if part is None else str(part) for name, part in parts.items()}
    write_text_atomically(output / "error.json", json.dumps(page))


def read_error(output: Path) -> FitError | None:
    path = output / "error.json"
    if not path.exists():
        return None
    page = json.loads(path.read_text())
    return FitError(page["what"], got=page["got"], expected=page["expected"], fix=page["fix"])
