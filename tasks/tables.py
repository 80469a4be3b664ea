"""The tables of a moment: what the lake holds now, and the feature tables built from just that."""

from configs.sections.rows import FeaturesSection
from tasks.core.records import TableRef
from tasks.features import build_features
from tasks.home import open_lake
from tasks.run import Run


def current_tables(run: Run, rivals: tuple[FeaturesSection, ...] = ()) -> tuple[TableRef, ...]:
    """Versions of every lake table of the recipe and of every feature table of its service and its rivals'.

    Feature tables that are behind are brought up to `as_of`; those that are not are left alone.
    """
    lake = open_lake(run.project)
    ingested = tuple(lake.latest(name) for name in run.recipe.tables)
    services = tuple(dict.fromkeys(section.service for section in (run.recipe.features, *rivals)))
    return (*ingested, *build_features(run.project, services, ingested, run.as_of))
