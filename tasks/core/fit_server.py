"""A process that has imported what a fit needs, and forks one for each: `python -m tasks.core.fit_server`.

A fit then begins at once, and not after seconds of imports. It reads a line of JSON for each fit (page, log, path,
environment) and answers with the process id of the fork, then with its exit code; one fit at a time. On Linux alone:
elsewhere it is not safe to fork what has loaded numerical libraries.
"""

import json
import os
import sys
import traceback
from typing import Any

from tasks.core import fit
from tasks.core.fit_output import PARENT


def main() -> None:
    fit.die_with_parent()

    # The imports are what this process is for, and those of a first export come only with one.
    import tasks.core.train  # noqa: F401
    from tasks.core import export

    export.warm_up()
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            os._exit(run(json.loads(line)))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def run(order: dict[str, Any]) -> int:
    """The fork: as if it had been started for this fit alone; its exit code."""
    os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream, target in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(target, stream)
    os.environ.clear()
    os.environ.update(order["environment"] | {PARENT: str(os.getppid())})
    sys.path[:0] = [path for path in order["path"] if path not in sys.path]
    code = 0
    try:
        fit.main(order["page"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        print(end.code, file=sys.stderr)
    except BaseException:
        code = 1
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    main()
