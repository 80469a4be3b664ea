"""Rows into Feast's PostgreSQL online store in bulk: by COPY into a temporary table, then one upsert.

Feast's own write gives a time without its zone, which a server in another zone than UTC takes for its own time; here
times keep theirs.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tasks.stores.online_rows import encode_features, pack_keys

if TYPE_CHECKING:
    import feast
    import pyarrow as pa
    from feast.infra.provider import Provider
    from feast.repo_config import RepoConfig

COLUMNS = {
    "entity_key": "bytea", "feature_name": "text", "value": "bytea", "value_text": "text", "event_ts": "timestamptz",
    "created_ts": "timestamptz",
}  # fmt: skip


def write(
    provider: "Provider", config: "RepoConfig", view: "feast.FeatureView", batch: "pa.RecordBatch", *, only_newer: bool
) -> int:
    """See `online_rows.Write`. One transaction."""
    from feast.infra.online_stores.postgres_online_store.postgres import _table_id
    from psycopg import sql

    table = sql.Identifier(_table_id(config.project, view, config.registry.enable_online_feature_view_versioning))
    names = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
    news = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in list(COLUMNS)[2:])
    guard = sql.SQL("where excluded.event_ts > {}.event_ts").format(table) if only_newer else sql.SQL("")
    with provider.online_store._get_conn(config) as connection, connection.transaction(), connection.cursor() as cursor:  # type: ignore[attr-defined]
        cursor.execute(
            sql.SQL("create temp table incoming on commit drop as select {} from {} limit 0").format(names, table)
        )
        with cursor.copy(sql.SQL("copy incoming ({}) from stdin (format binary)").format(names)) as copy:
            copy.set_types(list(COLUMNS.values()))
            for row in _rows(config, view, batch):
                copy.write_row(row)
        cursor.execute(
            sql.SQL(
                "insert into {} ({}) select {} from incoming on conflict (entity_key, feature_name) do update set {} {}"
            ).format(table, names, names, news, guard)
        )
        return int(cursor.rowcount) // len(view.features)


def _rows(config: "RepoConfig", view: "feast.FeatureView", batch: "pa.RecordBatch") -> Iterator[tuple[Any, ...]]:
    """One of each key and feature."""
    source, keys = view.batch_source, pack_keys(config, view, batch)
    times = [batch.column(name).to_pylist() for name in (source.timestamp_field, source.created_timestamp_column)]
    for name, cells in encode_features(view, batch).items():
        for key, value, text, event, created in zip(keys, *cells, *times, strict=True):
            yield key, name, value, text, event, created
