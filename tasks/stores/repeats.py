"""Whether rows repeat, told by their hashes, which numpy sorts: a fifth of what counting the different ones takes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import duckdb
    from numpy.typing import NDArray

MOST_ROWS = 32_000_000  # 256 MB of hashes; of more rows DuckDB counts, which can spill
BATCH_ROWS = 1_000_000


def may_repeat(connection: "duckdb.DuckDBPyConnection", rows: str, columns: Sequence[str]) -> bool:
    """Whether two rows of `rows` (SQL for FROM) have one hash of these columns (SQL).

    Equal rows have, and different ones nearly never: where it is so, look at the columns themselves.
    """
    hashed = f"select hash({', '.join(columns)}) as hash_ from {rows}"
    parts, count = [], 0
    with connection.sql(hashed).to_arrow_reader(BATCH_ROWS) as reader:
        for batch in reader:
            parts.append(np.sort(batch.column(0).to_numpy()))
            count += batch.num_rows
            if _has_neighbours(parts[-1]):
                return True
            if count > MOST_ROWS:
                break
    if count > MOST_ROWS:
        parts.clear()
        ((repeats,),) = connection.execute(f"select count(*) > count(distinct hash_) from ({hashed})").fetchall()
        return bool(repeats)
    return len(parts) > 1 and _has_neighbours(np.sort(np.concatenate(parts)))


def _has_neighbours(hashes: "NDArray[np.uint64]") -> bool:
    return bool((hashes[1:] == hashes[:-1]).any())
