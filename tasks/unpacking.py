"""Sources that several tables of one ingest read: what is packed or lies elsewhere is unpacked once for all of them."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

from configs.sections.data import FileSource, TableSection
from configs.settings import load_settings
from tasks.core.owners import unfinished

_places: ContextVar[Mapping[str, Path]] = ContextVar("places", default=MappingProxyType({}))


@contextmanager
def unpacking_once(project: str, tables: Mapping[str, TableSection]) -> Iterator[None]:
    """Within, stages share what they unpack of files that the tables name more than once; at the end it is gone."""
    sources = [source for table in tables.values() for source in (table.source, *table.lookups.values())]
    named = Counter(source.path for source in sources if isinstance(source, FileSource))
    # Two ingests of one process are two folders; a killed one's is cleared away by the name of its process.
    folder = unfinished(load_settings().folder("staging", project) / f"sources-{uuid4().hex}")
    before = _places.set({path: folder / str(place) for place, (path, times) in enumerate(named.items()) if times > 1})
    try:
        yield
    finally:
        _places.reset(before)
        shutil.rmtree(folder, ignore_errors=True)


def shared_places() -> Mapping[str, Path]:
    """Where what is unpacked of a file, by its path in the recipe, lies for others to read."""
    return _places.get()
