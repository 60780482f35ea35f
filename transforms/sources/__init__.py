"""Finds and reads image shards. Each format has its own module; `base` has what they share."""

from transforms.sources.base import DamagedShard, Fields, Found, Record, Source, UnreadableInput
from transforms.sources.content import content_hash
from transforms.sources.find import find_shards
from transforms.sources.folder import FolderSource
from transforms.sources.ids import with_distinct_names
from transforms.sources.limits import RECORD_BYTES
from transforms.sources.names import NamesInData, contradictions, names_in_data
from transforms.sources.parquet import ParquetSource
from transforms.sources.tfrecord import TFRecordSource
from transforms.sources.tree import LeftOut
from transforms.sources.webdataset import WebDatasetSource

__all__ = [
    "RECORD_BYTES",
    "DamagedShard",
    "Fields",
    "Found",
    "LeftOut",
    "NamesInData",
    "Record",
    "Source",
    "UnreadableInput",
    "content_hash",
    "contradictions",
    "find_shards",
    "names_in_data",
    "source_for",
    "with_distinct_names",
]

_SOURCES: dict[str, type[Source]] = {
    source.format: source for source in (TFRecordSource, WebDatasetSource, ParquetSource, FolderSource)
}


def source_for(format: str, fields: Fields) -> Source:
    """The source that reads shards of a format."""
    return _SOURCES[format](fields)
