"""Rows into Feast's online stores in bulk: the same rows that Feast writes, without an object for each value.

Feast makes a protobuf message of every value and, in SQL, runs a statement for each; here the few bytes that such a
message is serialised to are put together directly, a column at a time, and one statement runs over all rows.
"""

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tasks.stores.feast_online import key_protos

if TYPE_CHECKING:
    import feast
    import pyarrow as pa
    from feast.infra.provider import Provider
    from feast.repo_config import RepoConfig

_VARINT, _EIGHT_BYTES, _LENGTH = 0, 1, 2  # protobuf's wire types


class Cells(NamedTuple):
    """A column as Feast's stores keep it: each value as a serialised `Value` message (a missing one is empty), and as
    text."""

    values: list[bytes]
    texts: list[str | None]


class Write(Protocol):
    """Upsert a batch with one row for each key, each whole or not at all; returns how many were written.

    With `only_newer` a row replaces only one whose event time is before its own.
    """

    def __call__(
        self, provider: "Provider", config: "RepoConfig", view: "feast.FeatureView", batch: "pa.RecordBatch", *,
        only_newer: bool,
    ) -> int: ...  # fmt: skip


def bulk_writer(provider: "Provider", config: "RepoConfig") -> Write | None:
    """The one for this online store; None where there is none, or the store has columns that are not written here."""
    from tasks.stores import postgres_online, redis_online, sqlite_online

    writers: dict[str, Write] = {
        "feast.infra.online_stores.sqlite.SqliteOnlineStore": sqlite_online.write,
        "feast.infra.online_stores.postgres_online_store.postgres.PostgreSQLOnlineStore": postgres_online.write,
        "feast.infra.online_stores.redis.RedisOnlineStore": redis_online.write,
    }
    store, online = type(provider.online_store), config.online_store
    more = any(getattr(online, name, False) for name in ("vector_enabled", "enable_openai_compatible_store"))
    return None if more else writers.get(f"{store.__module__}.{store.__qualname__}")


def pack_keys(config: "RepoConfig", view: "feast.FeatureView", batch: "pa.RecordBatch") -> list[bytes]:
    """Each row's key as Feast's `serialize_entity_key` gives it.

    Source: https://github.com/feast-dev/feast, `feast/infra/key_encoding_utils.py`, version 3: the number of key
    columns, in order of their names; type, length and bytes of each name; then the same of each value.
    """
    from feast.infra.key_encoding_utils import serialize_entity_key

    version, names = config.entity_key_serialization_version, sorted(view.join_keys)
    kinds = {column.name: column.dtype.to_value_type().name for column in view.entity_columns}
    columns = {name: batch.column(name).to_pylist() for name in view.join_keys}
    if version != 3 or any(kinds[name] not in _KEY_BYTES or None in columns[name] for name in names):
        protos = key_protos(view, list(columns.values()))
        return [serialize_entity_key(key, entity_key_serialization_version=version) for key in protos]
    head = struct.pack("<I", len(names)) + b"".join(_key_parts("STRING", names))
    parts = [_key_parts(kinds[name], columns[name]) for name in names]
    return [head + b"".join(values) for values in zip(*parts, strict=True)]


def _key_parts(kind: str, values: Sequence[Any]) -> list[bytes]:
    from feast.protos.feast.types.Value_pb2 import ValueType

    number, pack = ValueType.Enum.Value(kind), struct.Struct("<II").pack
    return [pack(number, len(data)) + data for data in map(_KEY_BYTES[kind], values)]


_KEY_BYTES: dict[str, Callable[[Any], bytes]] = {
    "STRING": str.encode,
    "INT64": struct.Struct("<q").pack,
    "INT32": struct.Struct("<i").pack,
}


def encode_features(view: "feast.FeatureView", batch: "pa.RecordBatch") -> dict[str, Cells]:
    """Feature -> its values, in the order of the batch."""
    return {
        feature.name: encode(feature.dtype.to_value_type(), batch.column(feature.name)) for feature in view.features
    }


def encode(kind: Any, column: "pa.Array") -> Cells:
    """Values of a Feast value type."""
    from feast import ValueType
    from feast.infra.online_stores.helpers import extract_text_and_num
    from feast.type_map import python_values_to_proto_values

    if kind == ValueType.DOUBLE:
        return _doubles(column)
    if kind in (ValueType.INT64, ValueType.INT32, ValueType.STRING):
        one = _string("string_val") if kind == ValueType.STRING else _whole(f"{kind.name.lower()}_val")
        values = column.to_pylist()
        # Counts and names repeat: each is put together once.
        known = {value: (b"", None) if value is None else one(value) for value in set(values)}
        return Cells([known[value][0] for value in values], [known[value][1] for value in values])
    protos = python_values_to_proto_values(column.to_pylist(), kind)
    texts = [extract_text_and_num(proto, False)[0] for proto in protos]
    return Cells([proto.SerializeToString() for proto in protos], texts)


def _doubles(column: "pa.Array") -> Cells:
    import numpy as np

    numbers = column.to_numpy(zero_copy_only=False)  # a null is NaN, which is missing, too
    messages = np.empty(len(numbers), [("tag", "u1"), ("number", "<f8")])
    messages["tag"], messages["number"] = _tag("double_val", _EIGHT_BYTES), numbers
    values, texts = messages.view(f"V{messages.itemsize}").tolist(), list(map(str, numbers.tolist()))
    for place in np.flatnonzero(np.isnan(numbers)).tolist():
        values[place], texts[place] = b"", None
    return Cells(values, texts)


def _tag(field: str, wire_type: int) -> int:
    from feast.protos.feast.types.Value_pb2 import Value

    return Value.DESCRIPTOR.fields_by_name[field].number << 3 | wire_type


def _whole(field: str) -> Callable[[int], tuple[bytes, str]]:
    tag = varint(_tag(field, _VARINT))
    return lambda value: (tag + varint(value), str(value))


def _string(field: str) -> Callable[[str], tuple[bytes, str]]:
    tag = varint(_tag(field, _LENGTH))

    def one(value: str) -> tuple[bytes, str]:
        data = value.encode()
        return tag + varint(len(data)) + data, value

    return one


def varint(number: int) -> bytes:
    """Source: https://protobuf.dev/programming-guides/encoding (negative numbers as 64 bits, in two's complement)."""
    number &= 2**64 - 1
    if number < 128:
        return bytes((number,))
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
