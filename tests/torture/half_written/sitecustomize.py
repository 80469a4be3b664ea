"""On the path of a training process: dies with its second `last.ckpt` half written, as the kernel leaves it then."""

import os
import signal
from pathlib import Path

_flush, _seen = os.fsync, 0


def _die_half_way(descriptor: int) -> None:
    global _seen
    path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    if path.name.startswith(".last.ckpt"):
        _seen += 1
        if _seen == 2:
            os.ftruncate(descriptor, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
    _flush(descriptor)


os.fsync = _die_half_way
