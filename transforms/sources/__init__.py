"""Image shards, one module a format; what they have in common is in `base`."""

from transforms.sources.base import DamagedShard, Fields, Found, Record, Source, UnreadableInput
from transforms.sources.find import find_shards
from transforms.sources.folder import FolderSource
from transforms.sources.parquet import ParquetSource
from transforms.sources.tfrecord import TFRecordSource
from transforms.sources.webdataset import WebDatasetSource

__all__ = ["DamagedShard", "Fields", "Found", "Record", "Source", "UnreadableInput", "find_shards", "source_for"]

_SOURCES: dict[str, type[Source]] = {
    source.format: source for source in (TFRecordSource, WebDatasetSource, ParquetSource, FolderSource)
}


def source_for(format: str, fields: Fields) -> Source:
    """The source that reads a shard's `format`."""
    return _SOURCES[format](fields)
