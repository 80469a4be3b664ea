"""Unfinished files and folders bear the name of the process that makes them: what is left of a dead one can be told.

`.rows.arrow~host~4711` is a file on its way to `rows.arrow`.
"""

import os
import re
import socket
from pathlib import Path

UNFINISHED = re.compile(r"\..+~[^~]+~\d+")
MEMORY = Path("/dev/shm") / "perennial"  # where there is such a folder; what lies there outlives its process
CLOCK_SECONDS = 2.0  # by which the start of a process, as it is told at another time, or the time of a file may differ


def unfinished(path: Path) -> Path:
    """The name beside `path` under which this process makes it."""
    return path.with_name(f".{path.name}~{socket.gethostname()}~{os.getpid()}")


def began_then(start: float, moment: float) -> bool:
    """Whether a process's start is that moment, told earlier: the machine's clock may have been set since."""
    return abs(start - moment) < CLOCK_SECONDS
