"""The home of a project: its lake, feature store, registry and ledger, opened where the settings say."""

from typing import TYPE_CHECKING

from configs.settings import load_settings
from tasks.core.imports import importing

if TYPE_CHECKING:
    from tasks.stores.feature_store import FeatureStore
    from tasks.stores.lake import Lake
    from tasks.stores.ledger import Ledger
    from tasks.stores.registry import Registry


def preload() -> None:
    """Import now what takes seconds each: Great Expectations, Feast, MLflow."""
    from tasks.stores import suite_audit, tracking_database

    with importing():
        suite_audit.preload()
        tracking_database.preload()
        from tasks.stores import asof_store  # noqa: F401


def open_lake(project: str) -> "Lake":
    from tasks.stores.lake import Lake

    settings = load_settings()
    return Lake(settings.lake(project), **_query_settings(project))


def open_feature_store(project: str) -> "FeatureStore":
    from tasks.stores.feature_store import FeatureStore

    settings = load_settings()
    return FeatureStore(
        project=project,
        folder=settings.feature_repo,
        home=settings.feast(project),
        lake_uri=settings.lake(project),
        registry_url=settings.feast_registry,
        online_store=settings.online_store,
        offline=_query_settings(project),
    )


def open_registry(project: str) -> "Registry":
    from tasks.stores.registry import Registry

    settings = load_settings()
    return Registry(settings.mlflow_uri, settings.mlflow_artifacts, project)


def open_ledger(project: str) -> "Ledger":
    from tasks.stores.ledger import Ledger

    return Ledger(load_settings().folder("ledger", project))


def _query_settings(project: str) -> dict[str, object]:
    settings = load_settings()
    scratch = str(settings.folder("scratch", project))
    return {
        "memory_limit": settings.memory_limit,
        "threads": settings.threads,
        "scratch": scratch,
        "borrowed": settings.borrowed_tables,
    }
