"""Unfinished files and folders bear the name of the process that makes them: what is left of a dead one can be told.

`.rows.arrow~host~4711` is a file on its way to `rows.arrow`.
"""

import os
import re
import socket
from pathlib import Path

UNFINISHED = re.compile(r"\..+~[^~]+~\d+")
MEMORY = Path("/dev/shm") / "perennial"  # where there is such a folder; what lies there outlives its process
CLOCK_SECONDS = 2.0  # by which the start of a process and the time of a file may differ


def unfinished(path: Path) -> Path:
    """The name beside `path` under which this process makes it."""
    return path.with_name(f".{path.name}~{socket.gethostname()}~{os.getpid()}")


def is_left(path: Path) -> bool:
    """Whether its maker is dead. True only where it can be known: on this machine."""
    import psutil

    _, host, process = path.name.rsplit("~", 2)
    if host != socket.gethostname():
        return False
    try:
        found = psutil.Process(int(process))
        # A process that began after the file was last written is another one with the same number.
        began = found.create_time() if found.status() != psutil.STATUS_ZOMBIE else float("inf")
        return began > path.stat().st_mtime + CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return True
    except FileNotFoundError:  # finished at this moment
        return False
