"""Batches: every row once in an epoch, the same steps on any number of devices, resumable anywhere."""

from itertools import chain, islice

import numpy as np
import pyarrow as pa
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.batches import ArrowRows, Batch, Encoder, TensorRows, TrainingBatches, ValidationBatches
from tasks.core.preprocessing import BLOCK_ROWS, fit_category_table, fit_label, fit_numeric_preprocessing


def numbered(rows: int) -> TensorRows:
    return TensorRows(Batch(torch.zeros(rows, 1), torch.zeros(rows, 1, dtype=torch.int64), torch.arange(rows)))


def places(batches: TrainingBatches, epochs: int = 1) -> list[list[int]]:
    return [batch.target.tolist() for _ in range(epochs) for batch in batches]


@given(
    rows=st.integers(8, 60), batch_size=st.integers(8, 70), accumulate=st.integers(1, 4), world_size=st.integers(1, 2)
)
def test_a_step_has_the_same_rows_on_any_number_of_devices(
    rows: int, batch_size: int, accumulate: int, world_size: int
) -> None:
    alone = places(TrainingBatches(numbered(rows), batch_size, seed=3))
    ranks = [
        places(TrainingBatches(numbered(rows), batch_size, 3, accumulate=accumulate, rank=r, world_size=world_size))
        for r in range(world_size)
    ]
    for step, expected in enumerate(alone):
        parts = [part for rank in ranks for part in rank[step * accumulate : (step + 1) * accumulate]]
        assert all(parts)
        assert sorted(chain(*parts)) == sorted(expected)
    seen = list(chain(*alone))
    assert len(set(seen)) == len(seen) == rows // min(batch_size, rows) * min(batch_size, rows)


def test_each_epoch_has_an_order_of_its_own_given_by_the_seed() -> None:
    first, second = (places(TrainingBatches(numbered(64), 64, seed=1), epochs=3) for _ in range(2))
    assert first == second
    assert first[0] != first[1] != first[2]
    assert first[0] != places(TrainingBatches(numbered(64), 64, seed=2))[0]


@given(st.integers(0, 12))
def test_a_fit_that_stops_anywhere_goes_on_with_the_rows_it_had_not_seen(taken: int) -> None:
    whole = places(TrainingBatches(numbered(50), 20, seed=5, accumulate=2), epochs=3)
    batches = TrainingBatches(numbered(50), 20, seed=5, accumulate=2)
    stopped = [batch.target.tolist() for _ in range(3) for batch in islice(batches, max(0, taken - batches.epoch * 4))]
    resumed = TrainingBatches(numbered(50), 20, seed=5, accumulate=2)
    resumed.load_state_dict(batches.state_dict())
    while len(stopped) < len(whole):
        stopped += places(resumed)
    assert stopped == whole


def make_encoder(table: pa.Table) -> Encoder:
    """Of a number `x`, a name `c` and a binary label."""
    return Encoder(
        ("x",),
        (fit_category_table("c", table["c"]),),
        fit_numeric_preprocessing(table, ["x"]),
        "label",
        fit_label("binary", table["label"]),
    )


def test_rows_of_the_arrow_file_equal_rows_in_memory_and_need_few_blocks() -> None:
    table = pa.table({"x": pa.array(np.arange(1000.0)), "c": [str(i % 7) for i in range(1000)], "label": [0, 1] * 500})
    encoder = make_encoder(table)
    in_memory, on_disk = TensorRows(encoder.encode(table)), ArrowRows(table, encoder, block_rows=64, window=3)
    order = on_disk.order(seed=1, epoch=0)
    assert sorted(order) == list(range(1000))
    assert not np.array_equal(order, on_disk.order(seed=1, epoch=1))
    for start in range(0, 1000, 100):
        chosen = order[start : start + 100]
        assert len(np.unique(chosen // 64)) <= 6  # two windows at most
        for mine, expected in zip(on_disk.take(chosen), in_memory.take(chosen), strict=True):
            assert torch.equal(mine, expected)
    assert len(on_disk._decoded) <= 6


def test_rows_encoded_block_by_block_equal_those_encoded_at_once() -> None:
    rows = 2 * BLOCK_ROWS + 5
    table = pa.table({"x": np.arange(rows) % 97.0, "c": pa.array(np.arange(rows) % 7).cast("string")})
    table = table.append_column("label", pa.array(np.arange(rows) % 2))
    encoder = make_encoder(table)
    released = []
    in_blocks = encoder.encode_blocks(table, lambda: released.append(1))
    assert len(released) == 3
    for mine, expected in zip(in_blocks, encoder.encode(table), strict=True):
        assert torch.equal(mine, expected)


@given(rows=st.integers(1, 40), batch_size=st.integers(1, 50), world_size=st.integers(1, 4))
def test_validation_shares_are_equal_and_cover_every_row(rows: int, batch_size: int, world_size: int) -> None:
    shares = [
        torch.cat([batch.target for batch in ValidationBatches(numbered(rows), batch_size, rank, world_size)])
        for rank in range(world_size)
    ]
    assert torch.stack(shares, dim=1).flatten()[:rows].tolist() == list(range(rows))
