"""What the lake's SQL is made of."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

DIGEST_RANGE = 2**64
ROW_HASHES = f"coalesce(sum(hash(fresh)::hugeint) % {DIGEST_RANGE}::hugeint, 0)"  # whatever the order of `fresh`


def describe(connection: "duckdb.DuckDBPyConnection", relation: str) -> dict[str, str]:
    return {name: kind for name, kind, *_ in connection.execute(f"describe {relation}").fetchall()}


def read_parquet(paths: "Iterator[str] | Sequence[str]") -> str:
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    return f"read_parquet([{listed}], hive_partitioning=false)"


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
