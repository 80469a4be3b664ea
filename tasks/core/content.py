"""The content of a table as one digest, or one for each row: equal for equal values, however they are laid out."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


class ContentDigest:
    """Digest of a table that comes in record batches.

    Each column is read as three streams in row order: which values are null, the values (fixed width; nulls and
    negative zeros as zero, every NaN as one), and for strings their lengths and bytes. Chunks, offsets, dictionaries
    and what lies under a null do not enter; the names, the plain types and the order of columns and rows do.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._fields = [(field.name, _plain_type(field.type)) for field in schema]
        self._streams = [(hashlib.sha256(), hashlib.sha256(), hashlib.sha256()) for _ in schema]
        self._rows = 0

    def update(self, batch: pa.RecordBatch) -> None:
        self._rows += batch.num_rows
        for (_, kind), streams, column in zip(self._fields, self._streams, batch.columns, strict=True):
            values = column.cast(kind) if column.type != kind else column
            for stream, data in zip(streams, _bytes(values), strict=True):
                stream.update(data)

    def hexdigest(self) -> str:
        """16 hex digits."""
        whole = hashlib.sha256(str(self._rows).encode())
        for (name, kind), streams in zip(self._fields, self._streams, strict=True):
            whole.update(f"\n{name!r} {kind}".encode())
            for stream in streams:
                whole.update(stream.digest())
        return whole.hexdigest()[:16]


_GOLDEN, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_NULL = np.uint64(1)


def row_digests(rows: pa.Table | pa.RecordBatch, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """64 bits for each row over the named columns in their order: equal for equal values. (N,)

    Numbers enter as what they are in 32 bits, whatever their type; the rest as text.
    Source: the mixing function is SplitMix64's (Steele, Lea and Flood 2014, Fast splittable pseudorandom generators).
    """
    digests = np.zeros(rows.num_rows, np.uint64)
    with np.errstate(over="ignore"):
        for name in names:
            digests = (digests + _GOLDEN) ^ _column_bits(rows[name])
            digests = (digests ^ (digests >> np.uint64(30))) * _FIRST
            digests = (digests ^ (digests >> np.uint64(27))) * _SECOND
            digests ^= digests >> np.uint64(31)
    return digests.view(np.int64)


def _column_bits(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        numbers = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float32) + 0.0
        missing = np.isnan(numbers)
        return np.where(missing, _NULL, numbers.astype(np.float64).view(np.uint64))
    encoded = (column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column).cast(pa.string())
    encoded = encoded.dictionary_encode()
    texts = [hashlib.blake2b(value.encode(), digest_size=8).digest() for value in encoded.dictionary.to_pylist()]
    bits = np.array([int(_NULL), *(int.from_bytes(text, "little") for text in texts)], np.uint64)
    return np.asarray(bits[pc.fill_null(encoded.indices, -1).to_numpy() + 1])


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return kind if plain or pa.types.is_temporal(kind) else pa.string()


def _bytes(values: pa.Array) -> tuple[bytes, bytes, bytes]:
    """Null flags, values or lengths, text."""
    nulls = _buffer(pc.is_null(values))
    if pa.types.is_string(values.type):
        filled = pc.fill_null(values, pa.scalar("", values.type))
        return nulls, _buffer(pc.binary_length(filled)), _text(filled)
    if pa.types.is_floating(values.type):
        numbers = pc.fill_null(values, 0).to_numpy(zero_copy_only=False) + 0.0
        numbers[np.isnan(numbers)] = np.nan
        return nulls, numbers.tobytes(), b""
    if pa.types.is_temporal(values.type):
        values = values.cast(pa.int64() if values.type.bit_width == 64 else pa.int32())
    return nulls, _buffer(pc.fill_null(values, False if pa.types.is_boolean(values.type) else 0)), b""


def _text(values: pa.Array) -> bytes:
    # A slice keeps its parent's buffers: only the bytes between its own first and last offset are its text.
    _, offsets, text = values.buffers()
    if text is None or not len(values):
        return b""
    own = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    return bytes(memoryview(text)[int(own[0]) : int(own[-1])])


def _buffer(values: pa.Array) -> bytes:
    return bytes(values.to_numpy(zero_copy_only=False).tobytes())
