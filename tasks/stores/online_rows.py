"""Rows into Feast's online stores in bulk: the same rows that Feast writes, without an object for each value.

Feast makes a protobuf message of every value and, in SQL, runs a statement for each; here the few bytes that such a
message is serialised to are put together directly, and one statement runs over all rows.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import feast
    import pyarrow as pa
    from feast.infra.provider import Provider
    from feast.repo_config import RepoConfig

Encoded = tuple[bytes, str | None]  # a value as Feast keeps it, and as text
MISSING: Encoded = (b"", None)
_VARINT, _EIGHT_BYTES, _LENGTH = 0, 1, 2  # protobuf's wire types


class Write(Protocol):
    """Upsert a batch with one row for each key, each whole or not at all; returns how many were written.

    With `only_newer` a row replaces only one whose event time is before its own.
    """

    def __call__(
        self, provider: "Provider", config: "RepoConfig", view: "feast.FeatureView", keys: Sequence[Any],
        batch: "pa.RecordBatch", *, only_newer: bool,
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


def pack_keys(config: "RepoConfig", keys: Sequence[Any]) -> list[bytes]:
    from feast.infra.key_encoding_utils import serialize_entity_key

    version = config.entity_key_serialization_version
    return [serialize_entity_key(key, entity_key_serialization_version=version) for key in keys]


def encode_features(view: "feast.FeatureView", batch: "pa.RecordBatch") -> dict[str, list[Encoded]]:
    """Feature -> its values, in the order of the batch."""
    return {
        feature.name: encode(feature.dtype.to_value_type(), batch.column(feature.name).to_pylist())
        for feature in view.features
    }


def cell_rows(
    view: "feast.FeatureView", keys: list[bytes], batch: "pa.RecordBatch", moments: Callable[[str], Sequence[Any]]
) -> Iterator[tuple[Any, ...]]:
    """One row per key and feature, as Feast's SQL stores keep them. `moments` gives a time column as the store's own.

    Rows of one key lie beside each other in the table's index, and keys that follow each other on one page.
    """
    source = view.batch_source
    events, created = moments(source.timestamp_field), moments(source.created_timestamp_column)
    encoded = list(encode_features(view, batch).items())
    for place in sorted(range(len(keys)), key=keys.__getitem__):
        key, event, told = keys[place], events[place], created[place]
        for name, values in encoded:
            value, text = values[place]
            yield key, name, value, text, event, told


def encode(kind: Any, values: Sequence[Any]) -> list[Encoded]:
    """Values of a Feast value type as Feast's `Value` messages, serialised; a missing one is an empty message."""
    from feast import ValueType
    from feast.infra.online_stores.helpers import extract_text_and_num
    from feast.type_map import python_values_to_proto_values

    encoders: dict[Any, Callable[[Any], Encoded]] = {
        ValueType.DOUBLE: _double("double_val"),
        ValueType.INT64: _whole("int64_val"),
        ValueType.INT32: _whole("int32_val"),
        ValueType.STRING: _string("string_val"),
    }
    if kind not in encoders:
        protos = python_values_to_proto_values(list(values), kind)
        return [(proto.SerializeToString(), extract_text_and_num(proto, False)[0]) for proto in protos]
    one = encoders[kind]
    return [MISSING if value is None or value != value else one(value) for value in values]


def _tag(field: str, wire_type: int) -> int:
    from feast.protos.feast.types.Value_pb2 import Value

    return Value.DESCRIPTOR.fields_by_name[field].number << 3 | wire_type


def _double(field: str) -> Callable[[float], Encoded]:
    tag, pack = _tag(field, _EIGHT_BYTES), struct.Struct("<Bd").pack
    return lambda value: (pack(tag, value), str(value))


def _whole(field: str) -> Callable[[int], Encoded]:
    tag = varint(_tag(field, _VARINT))
    return lambda value: (tag + varint(value), str(value))


def _string(field: str) -> Callable[[str], Encoded]:
    tag = varint(_tag(field, _LENGTH))

    def one(value: str) -> Encoded:
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
