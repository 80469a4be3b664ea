"""Rows into Feast's SQLite online store in bulk: the same rows that Feast writes, without an object for each value.

Feast makes a protobuf message of every value and runs a statement for each; here the few bytes that such a message is
serialised to are put together directly, and one statement runs over all rows.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import feast
    import pyarrow as pa
    from feast.infra.provider import Provider
    from feast.repo_config import RepoConfig

Encoded = tuple[bytes, str | None]  # a value as Feast keeps it, and as text
_MISSING: Encoded = (b"", None)
_VARINT, _EIGHT_BYTES, _LENGTH = 0, 1, 2  # protobuf's wire types


def is_plain_sqlite(provider: "Provider", config: "RepoConfig") -> bool:
    """Whether the online store is Feast's SQLite store with the columns that are written here."""
    from feast.infra.online_stores.sqlite import SqliteOnlineStore

    online = config.online_store
    more = online.vector_enabled or getattr(online, "enable_openai_compatible_store", False)
    return type(provider.online_store) is SqliteOnlineStore and not more


def write_rows(
    provider: "Provider", config: "RepoConfig", view: "feast.FeatureView", keys: Sequence[Any], batch: "pa.RecordBatch"
) -> None:
    """Upsert a batch with one row for each key, in one transaction."""
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.infra.online_stores import sqlite

    table = sqlite._table_id(config.project, view, config.registry.enable_online_feature_view_versioning)
    version = config.entity_key_serialization_version
    packed = [serialize_entity_key(key, entity_key_serialization_version=version) for key in keys]
    columns = ("entity_key", "feature_name", "value", "value_text", "event_ts", "created_ts")
    news = ", ".join(f"{column} = excluded.{column}" for column in columns[2:])
    connection = provider.online_store._get_conn(config)  # type: ignore[attr-defined]
    with connection:
        connection.executemany(
            f"insert into {sqlite._quote_id(table)} ({', '.join(columns)}) values (?, ?, ?, ?, ?, ?)"
            f" on conflict (entity_key, feature_name) do update set {news}",
            _rows(view, packed, batch),
        )


def _rows(view: "feast.FeatureView", keys: list[bytes], batch: "pa.RecordBatch") -> Iterator[tuple[Any, ...]]:
    source = view.batch_source
    events, created = (_seconds(batch, name) for name in (source.timestamp_field, source.created_timestamp_column))
    names = [feature.name for feature in view.features]
    encoded = [
        encode(feature.dtype.to_value_type(), batch.column(feature.name).to_pylist()) for feature in view.features
    ]
    # Rows of one key lie beside each other in the table's index, and keys that follow each other on one page.
    for place in sorted(range(len(keys)), key=keys.__getitem__):
        key, event, told = keys[place], events[place], created[place]
        for name, values in zip(names, encoded, strict=True):
            value, text = values[place]
            yield key, name, value, text, event, told


def _seconds(batch: "pa.RecordBatch", name: str) -> list[int | None]:
    import pyarrow as pa

    moments = batch.column(name).cast(pa.timestamp("s", "UTC"), safe=False)
    return list(moments.cast(pa.int64()).to_pylist())


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
    return [_MISSING if value is None or value != value else one(value) for value in values]


def _tag(field: str, wire_type: int) -> int:
    from feast.protos.feast.types.Value_pb2 import Value

    return Value.DESCRIPTOR.fields_by_name[field].number << 3 | wire_type


def _double(field: str) -> Callable[[float], Encoded]:
    tag, pack = _tag(field, _EIGHT_BYTES), struct.Struct("<Bd").pack
    return lambda value: (pack(tag, value), str(value))


def _whole(field: str) -> Callable[[int], Encoded]:
    tag = _varint(_tag(field, _VARINT))
    return lambda value: (tag + _varint(value), str(value))


def _string(field: str) -> Callable[[str], Encoded]:
    tag = _varint(_tag(field, _LENGTH))

    def one(value: str) -> Encoded:
        data = value.encode()
        return tag + _varint(len(data)) + data, value

    return one


def _varint(number: int) -> bytes:
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
