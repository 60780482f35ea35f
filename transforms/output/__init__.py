"""The output folder of a run: its files, their columns, and functions that read them."""

from transforms.output.codec import MAP_DTYPES, EncodedMaps, decode_map, encode_maps, round_keeping_sums
from transforms.output.committing import NewParts, OtherRun, committed
from transforms.output.files import DamagedOutput, list_files, open_file, read_bytes
from transforms.output.finding import UnknownId, find_rows
from transforms.output.hugging_face import IMAGE, hugging_face_metadata
from transforms.output.leftovers import is_running
from transforms.output.originals import NoOriginal, Originals, read_image
from transforms.output.parquet import ParquetReader, open_parquet
from transforms.output.partials import class_block, statistics_from_table, statistics_table
from transforms.output.reading import read_maps, read_table
from transforms.output.rows import RowWriter
from transforms.output.schemas import (
    CLASSES,
    CLUSTER_MEMBERS,
    CLUSTERS,
    CONFUSION,
    ERRORS,
    EXAMPLES,
    MAP_COLUMNS,
    MAPS,
    PARTIALS,
    SCHEMA_VERSION,
    SMALL_MAPS,
)
from transforms.output.store import KINDS, Output

__all__ = [
    "CLASSES",
    "CLUSTERS",
    "CLUSTER_MEMBERS",
    "CONFUSION",
    "ERRORS",
    "EXAMPLES",
    "IMAGE",
    "KINDS",
    "MAPS",
    "MAP_COLUMNS",
    "MAP_DTYPES",
    "PARTIALS",
    "SCHEMA_VERSION",
    "SMALL_MAPS",
    "DamagedOutput",
    "EncodedMaps",
    "NewParts",
    "NoOriginal",
    "Originals",
    "OtherRun",
    "Output",
    "ParquetReader",
    "RowWriter",
    "UnknownId",
    "class_block",
    "committed",
    "decode_map",
    "encode_maps",
    "find_rows",
    "hugging_face_metadata",
    "is_running",
    "list_files",
    "open_file",
    "open_parquet",
    "read_bytes",
    "read_image",
    "read_maps",
    "read_table",
    "round_keeping_sums",
    "statistics_from_table",
    "statistics_table",
]
