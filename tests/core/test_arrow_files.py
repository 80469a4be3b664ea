"""Arrow files are there whole, or not at all."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.core.arrow_files import appearing, map_released, map_rows, write_rows
from tasks.core.content import ContentDigest

ROWS = pa.table({"a": [1, 2, 3], "b": ["x", None, "z"]})


def test_rows_come_back_with_their_digest(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.arrow"
    with appearing(path) as unfinished:
        rows, digest = write_rows(ROWS.to_reader(max_chunksize=2), unfinished)
        assert not path.exists()
    whole = ContentDigest(ROWS.schema)
    whole.update(ROWS.to_batches()[0])
    assert (rows, digest) == (3, whole.hexdigest())
    assert map_rows(path).equals(ROWS)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told by /proc")
def test_rows_that_were_let_go_are_read_again_and_take_no_memory_meanwhile(tmp_path: Path) -> None:
    def mapped_kilobytes() -> int:
        return int(re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1))  # type: ignore[union-attr]

    rows = pa.table({"a": range(1_000_000)})
    write_rows(rows.to_reader(max_chunksize=10_000), tmp_path / "rows.arrow")
    mapped = map_released(tmp_path / "rows.arrow")
    assert mapped.table.equals(rows)
    before = mapped_kilobytes()
    mapped.release()
    assert before - mapped_kilobytes() > 7_000  # of 8 MB
    assert mapped.table.equals(rows)


def test_an_error_on_the_way_leaves_what_was_there(tmp_path: Path) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield from ROWS.to_batches()
        raise OSError("disk full")

    path = tmp_path / "rows.arrow"
    path.write_text("older")
    with pytest.raises(OSError, match="disk full"), appearing(path) as unfinished:
        write_rows(pa.RecordBatchReader.from_batches(ROWS.schema, batches()), unfinished)
    assert [file.name for file in tmp_path.iterdir()] == ["rows.arrow"]
    assert path.read_text() == "older"
