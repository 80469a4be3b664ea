"""Rows into Feast's SQLite online store in bulk."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.stores.online_rows import cell_rows, pack_keys

if TYPE_CHECKING:
    import feast
    import pyarrow as pa
    from feast.infra.provider import Provider
    from feast.repo_config import RepoConfig

COLUMNS = ("entity_key", "feature_name", "value", "value_text", "event_ts", "created_ts")


def write(
    provider: "Provider", config: "RepoConfig", view: "feast.FeatureView", keys: Sequence[Any],
    batch: "pa.RecordBatch", *, only_newer: bool,
) -> int:  # fmt: skip
    """See `online_rows.Write`. One transaction; times are whole seconds."""
    import pyarrow as pa
    from feast.infra.online_stores import sqlite

    def seconds(name: str) -> list[int | None]:
        moments = batch.column(name).cast(pa.timestamp("s", "UTC"), safe=False)
        return list(moments.cast(pa.int64()).to_pylist())

    table = sqlite._table_id(config.project, view, config.registry.enable_online_feature_view_versioning)
    name = sqlite._quote_id(table)
    news = ", ".join(f"{column} = excluded.{column}" for column in COLUMNS[2:])
    guard = f" where excluded.event_ts > {name}.event_ts" if only_newer else ""
    connection = provider.online_store._get_conn(config)  # type: ignore[attr-defined]
    with connection:
        done = connection.executemany(
            f"insert into {name} ({', '.join(COLUMNS)}) values (?, ?, ?, ?, ?, ?)"
            f" on conflict (entity_key, feature_name) do update set {news}{guard}",
            cell_rows(view, pack_keys(config, keys), batch, seconds),
        )
    return int(done.rowcount) // len(view.features)
