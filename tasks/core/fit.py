"""The training child process: `python -m tasks.core.fit spec.json`.

It reads the spec and the training set and writes under the spec's `output`: `metrics.jsonl` as it goes, `checkpoints/`,
`model/`, at last `result.json`, or else `error.json`. Started again on the same spec it goes on from its last
checkpoint. For more than one device it starts `torch.distributed.run`, which starts this module once for each.
"""

import ctypes
import errno
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

from tasks.core.errors import FitError
from tasks.core.fit_output import (
    PARENT,
    add_note,
    finished,
    open_output,
    read_accumulate,
    read_error,
    write_accumulate,
    write_error,
)
from tasks.core.records import FitResult, FitSpec
from tasks.core.threads import SHORT_SPINS

CHECKPOINT_SECONDS = 60.0
MIN_MICRO_BATCH_ROWS = 8


def main(path: str) -> None:
    die_with_parent()
    for name, value in SHORT_SPINS.items():
        os.environ.setdefault(name, value)
    spec = FitSpec.read(path)
    try:
        if spec.devices > 1 and "LOCAL_RANK" not in os.environ:
            fit_distributed(spec, path)
        else:
            fit(spec)
    except FitError as error:
        write_error(Path(spec.output), error)
        sys.exit(f"FitError: {error}")


def die_with_parent() -> None:
    """Ask the kernel to end this process with the one that started it; elsewhere than on Linux it cannot be asked."""
    if PARENT not in os.environ or sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    # The parent may have died just before. A rank's parent is the launcher, of which the environment knows nothing.
    if "LOCAL_RANK" not in os.environ and os.getppid() != int(os.environ[PARENT]):
        sys.exit("the parent process is gone")


def halve_micro_batch(spec: FitSpec, accumulate: int, error: BaseException) -> None:
    """Write down that the next attempt takes twice as many micro-batches, half as large: the same effective batch.

    Raises:
        FitError: they would be smaller than is of any use.
    """
    step_rows = min(spec.batch_size, spec.fit_rows[1] - spec.fit_rows[0])
    if step_rows // (2 * accumulate * spec.devices) < MIN_MICRO_BATCH_ROWS:
        raise FitError(
            "out of memory, even for the smallest micro-batch",
            got=f"{step_rows // (accumulate * spec.devices)} rows: {str(error).splitlines()[0]}",
            expected=f"a network of which {MIN_MICRO_BATCH_ROWS} rows or more fit into memory",
            fix="choose a smaller network in model.options of the recipe, or a larger device",
        ) from error
    traceback.print_exception(error)  # into the child's log
    rows, less = (-(-step_rows // (times * accumulate * spec.devices)) for times in (1, 2))
    told = f"out of memory with micro-batches of {rows} rows: anew with {less}, of which a step takes twice as many"
    add_note(Path(spec.output), f"{told} ({str(error).splitlines()[0]})")
    write_accumulate(Path(spec.output), 2 * accumulate)


def fit(spec: FitSpec, checkpoint_seconds: float = CHECKPOINT_SECONDS) -> FitResult | None:
    """Fit until there is a result; None on ranks but the first. Out of memory: anew, with half the micro-batch.

    Raises:
        FitError: what stopped the fit, told so that the reader can act.
    """
    world_size, output = int(os.environ.get("WORLD_SIZE", 1)), Path(spec.output)
    if world_size == 1:
        open_output(spec)
        if (result := finished(spec)) is not None:
            return result
    from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error

    from tasks.core.train import train

    while True:
        accumulate = read_accumulate(output)
        try:
            result = train(spec, accumulate, checkpoint_seconds)
            break
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise FitError(
                f"no room left to write under {output}", got=error, fix="make room and start again: it goes on"
            ) from error
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or is_oom_error(error)):
                raise
            halve_micro_batch(spec, accumulate, error)
            if world_size > 1:
                # The other ranks wait for this one in a collective: only all of them together can begin anew.
                raise
        garbage_collection_cuda()
    if result is not None:
        result.write(output / "result.json")
    return result


def fit_distributed(spec: FitSpec, path: str) -> None:
    """One process for each device; all of them anew when one ran out of memory and halved the micro-batch.

    Raises:
        FitError: they ended without a result; the reason is in the log, or in what a rank wrote to `error.json`.
    """
    output = open_output(spec).parent
    environment = os.environ | {PARENT: str(os.getpid()), "OMP_NUM_THREADS": "1"}  # each rank sets its own number
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={spec.devices}"]
    command = [sys.executable, *launcher, "-m", "tasks.core.fit", path]
    while finished(spec) is None:
        accumulate = read_accumulate(output)
        # This process has one thread and is small, so that running code between fork and exec is safe.
        code = subprocess.run(command, env=environment, preexec_fn=die_with_parent, check=False).returncode
        if code and read_accumulate(output) == accumulate:
            raise read_error(output) or FitError(f"one of {spec.devices} processes of the fit died", got=f"code {code}")


if __name__ == "__main__":
    main(sys.argv[1])
