"""Great Expectations without what few of its gallery need: it is imported by the one that needs it."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CODE = """
import sys
from pathlib import Path
import duckdb
from tasks.stores import suite_audit
from tasks.stores.suites import Expectation, Suite

suite_audit.preload()
assert not {"altair", "scipy.stats"} & set(sys.modules)
expected = {"values": ["a", "b"], "weights": [float(sys.argv[2]), 1 - float(sys.argv[2])]}
kwargs = {"column": "s", "partition_object": expected, "threshold": 0.1}
suite = Suite("kl", (Expectation("expect_column_kl_divergence_to_be_less_than", kwargs, "critical", "batch"),))
with duckdb.connect() as connection:
    found = suite_audit.audit(connection, sys.argv[1] + "/rows.parquet", suite, docs=Path(sys.argv[1], "page.html"))
print(*(finding.reason for finding in found), {"altair", "scipy.stats"} <= set(sys.modules))
"""


def ask(folder: Path, weight: str) -> str:
    code = [sys.executable, "-c", CODE, str(folder), weight]
    ended = subprocess.run(code, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_expectation_that_draws_and_counts_with_distributions_does_both(tmp_path: Path) -> None:
    pq.write_table(pa.table({"s": ["a"] * 3 + ["b"]}), tmp_path / "rows.parquet")
    assert ask(tmp_path, "0.75").strip() == "True"
    assert "observed 1.69728738" in ask(tmp_path, "0.05")
