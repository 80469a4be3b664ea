"""Rows into Feast's SQLite online store in bulk."""

from itertools import chain
from typing import TYPE_CHECKING

from tasks.stores.online_rows import encode_features, pack_keys

if TYPE_CHECKING:
    import feast
    import pyarrow as pa
    from feast.infra.provider import Provider
    from feast.repo_config import RepoConfig

COLUMNS = ("entity_key", "event_ts", "created_ts", "feature_name", "value", "value_text")


def write(
    provider: "Provider", config: "RepoConfig", view: "feast.FeatureView", batch: "pa.RecordBatch", *, only_newer: bool
) -> int:
    """See `online_rows.Write`. One transaction; times are whole seconds.

    A statement writes all features of a key, which names its key and times once.
    """
    import pyarrow as pa
    from feast.infra.online_stores import sqlite

    def seconds(name: str) -> list[int | None]:
        moments = batch.column(name).cast(pa.timestamp("s", "UTC"), safe=False)
        return list(moments.cast(pa.int64()).to_pylist())

    table = sqlite._table_id(config.project, view, config.registry.enable_online_feature_view_versioning)
    source, features = view.batch_source, encode_features(view, batch)
    keys = pack_keys(config, view, batch)
    times = [seconds(source.timestamp_field), seconds(source.created_timestamp_column)]
    connection = provider.online_store._get_conn(config)  # type: ignore[attr-defined]
    with connection:
        done = connection.executemany(
            _upsert(sqlite._quote_id(table), list(features), only_newer=only_newer),
            zip(keys, *times, *chain.from_iterable(features.values()), strict=True),
        )
    return int(done.rowcount) // len(features)


def _upsert(table: str, features: list[str], *, only_newer: bool) -> str:
    """Its parameters: key, event and created time, then value and text of each feature."""
    names = [feature.replace("'", "''") for feature in features]
    rows = [f"(?1, ?2, ?3, '{name}', ?{4 + 2 * place}, ?{5 + 2 * place})" for place, name in enumerate(names)]
    news = [f"{column} = excluded.{column}" for column in COLUMNS if column not in ("entity_key", "feature_name")]
    guard = f" where excluded.event_ts > {table}.event_ts" if only_newer else ""
    return (
        f"insert into {table} ({', '.join(COLUMNS)}) values {', '.join(rows)}"
        f" on conflict (entity_key, feature_name) do update set {', '.join(news)}{guard}"
    )
