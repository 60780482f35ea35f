"""The output folder of a run: its files, their columns, and functions that read them."""

from transforms.output.codec import MAP_DTYPES, EncodedMaps, decode_map, encode_maps
from transforms.output.files import list_files, read_bytes
from transforms.output.finding import UnknownId, find_rows
from transforms.output.originals import NoOriginal, Originals, read_image
from transforms.output.partials import class_block, statistics_from_table, statistics_table
from transforms.output.reading import read_maps, read_table
from transforms.output.schemas import CLASSES, ERRORS, MAPS, PARTIALS, SCHEMA_VERSION
from transforms.output.store import Output, RowWriter

__all__ = [
    "CLASSES",
    "ERRORS",
    "MAPS",
    "MAP_DTYPES",
    "PARTIALS",
    "SCHEMA_VERSION",
    "EncodedMaps",
    "NoOriginal",
    "Originals",
    "Output",
    "RowWriter",
    "UnknownId",
    "class_block",
    "decode_map",
    "encode_maps",
    "find_rows",
    "list_files",
    "read_bytes",
    "read_image",
    "read_maps",
    "read_table",
    "statistics_from_table",
    "statistics_table",
]
