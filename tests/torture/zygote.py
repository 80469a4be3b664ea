"""A process that has the whole stack imported, and is forked for each run: a run then costs what it does, not imports.

Each line of its input is JSON: a job, answered by its process id, or {"wait": process id}, answered by its exit code.
"""

import importlib
import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows import ingest, monitor, pipeline, retrain, shell  # noqa: F401
from tasks.home import preload


def serve() -> None:
    preload()
    import lightning
    import torch  # noqa: F401

    import tasks.core.plots
    import tasks.stores.serving  # noqa: F401

    assert lightning
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
        elif (answer := os.fork()) == 0:
            be(asked)
        print(answer, flush=True)
    os._exit(0)  # to take the interpreter apart takes longer than anyone waits


def be(job: dict[str, Any]) -> None:
    """Do one job in this process, and leave."""
    os.setsid()
    log = os.open(job["log"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.environ.update(job["environment"])
    tempfile.tempdir = None  # as it would be in a process that was started with this environment
    from tests.torture import dying, invariants

    with suppress(SystemExit):
        if job["does"] == "flow":
            dying.arm(Path(job["marks"]), job["boundary"])
            module = importlib.import_module(f"flows.{job['flow']}")
            shell.main(getattr(module, job["flow"]), job["arguments"])
        else:
            found = getattr(invariants, job["does"])(*job["arguments"])
            Path(job["answer"]).write_text(json.dumps(found))
    shell.leave(0)


if __name__ == "__main__":
    serve()
