"""Arrow IPC files of rows: streamed out with their content digest, memory-mapped in, whole or not there."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tasks.core.content import ContentDigest
from tasks.core.owners import unfinished


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A path to write to; what is there at the end appears under `path`, unless there was an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_rows(batches: pa.RecordBatchReader, path: Path) -> tuple[int, str]:
    """Stream into an Arrow IPC file; the number of rows and the digest of their content."""
    content, rows = ContentDigest(batches.schema), 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batches.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            content.update(batch)
            rows += batch.num_rows
    return rows, content.hexdigest()


def map_rows(path: Path | str) -> pa.Table:
    """The rows of an Arrow IPC file, left on disk until they are read."""
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


@dataclass(frozen=True)
class MappedRows:
    """The rows of an Arrow IPC file too large for memory: what was read of them can be let go again."""

    table: pa.Table
    memory: mmap.mmap

    def release(self) -> None:
        """Pages that were read no longer count as this process's memory; whoever asks again reads them again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.memory.madvise(mmap.MADV_DONTNEED)


def map_released(path: Path | str) -> MappedRows:
    """As `map_rows`, for one who reads the whole file and keeps little of it."""
    with open(path, "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return MappedRows(pa.ipc.open_file(pa.BufferReader(pa.py_buffer(memory))).read_all(), memory)
