"""The columns of an output's Parquet files."""

from __future__ import annotations

import dataclasses

import pyarrow as pa

from transforms.output.hugging_face import IMAGE
from transforms.statistics import FIGURE_COLUMNS, FIGURES, Moments

SCHEMA_VERSION = "3"
_FLOATS = pa.list_(pa.float32())
_DOUBLES = pa.list_(pa.float64())
_STRINGS = pa.list_(pa.string())

# The columns that hold a map, and what decoding it needs.
MAP_COLUMNS = ("map", "map_dtype", "map_scale", "map_offset", "map_height", "map_width")

MAPS = pa.schema(
    [
        ("image_id", pa.string()),
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("label", pa.int32()),
        ("label_name", pa.string()),
        ("predicted", pa.int32()),
        ("predicted_name", pa.string()),
        ("correct", pa.bool_()),
        ("target", pa.int32()),
        ("target_name", pa.string()),
        ("target_rank", pa.int32()),
        ("logit", pa.float32()),
        ("probability", pa.float32()),
        ("explained", pa.float32()),
        ("contrast_class", pa.int32()),
        ("input_term", pa.float32()),
        ("bias_term", pa.float32()),
        ("unlocated_term", pa.float32()),
        ("completeness_error", pa.float32()),
        ("channel_terms", _FLOATS),
        ("after_term", pa.float32()),
        ("map", pa.binary()),
        ("map_dtype", pa.string()),
        ("map_scale", pa.float64()),
        ("map_offset", pa.float64()),
        ("map_height", pa.int32()),
        ("map_width", pa.int32()),
        ("coarse_map", _FLOATS),
        ("evidence_map", _FLOATS),
        *((name, pa.float32()) for name in FIGURES),
        ("image", IMAGE),
    ]
)

# The columns of `MAPS` that examples do not have: they are long, and nobody reads them row by row.
_NOT_IN_EXAMPLES = ("coarse_map", "evidence_map", "channel_terms", "image")  # the image comes last

# A unit's maps on the grid of the class statistics, or smaller, for examples. A map is found by `index` and `target`.
SMALL_MAPS = pa.schema([MAPS.field(name) for name in ("index", "target", *MAP_COLUMNS)])

EXAMPLES = pa.schema(
    [
        ("class", pa.int32()),
        ("class_name", pa.string()),
        ("kind", pa.string()),
        ("cluster", pa.int32()),
        ("rank", pa.int32()),
        ("score", pa.float32()),
        *(field for field in MAPS if field.name not in _NOT_IN_EXAMPLES),
        ("similarity", pa.float32()),
        ("image", IMAGE),
    ]
)

CLUSTERS = pa.schema(
    [
        ("class", pa.int32()),
        ("class_name", pa.string()),
        ("view", pa.string()),
        ("cluster", pa.int32()),
        ("size", pa.int32()),
        ("share", pa.float64()),
        ("labelled", pa.int32()),
        ("correct", pa.int32()),
        ("accuracy", pa.float64()),
        ("separation", pa.float64()),
        ("silhouette", pa.float64()),
        ("peak", pa.string()),
        ("cells", pa.list_(pa.int32())),
        ("peak_share", pa.float64()),
        ("peak_others", pa.float64()),
        ("mean_map", _FLOATS),
        ("typical_ids", _STRINGS),
        ("typical_shards", _STRINGS),
        ("typical_indices", pa.list_(pa.int64())),
    ]
)

CLUSTER_MEMBERS = pa.schema(
    [
        ("class", pa.int32()),
        ("view", pa.string()),
        ("cluster", pa.int32()),
        ("image_id", pa.string()),
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("closeness", pa.float32()),
    ]
)

CONFUSION = pa.schema(
    [
        ("label", pa.int32()),
        ("label_name", pa.string()),
        ("predicted", pa.int32()),
        ("predicted_name", pa.string()),
        ("images", pa.int64()),
    ]
)

ERRORS = pa.schema(
    [
        ("image_id", pa.string()),
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("stage", pa.string()),
        ("error", pa.string()),
        ("message", pa.string()),
    ]
)

# The moments of `ClassStatistics`: each has a column for every field of `Moments`.
MOMENTS = ("logit", "probability", "map", "coarse", "evidence", "share", "wrong", "figures")
_MOMENT_FIELDS = tuple(f.name for f in dataclasses.fields(Moments))

PARTIALS = pa.schema(
    [
        ("class", pa.int32()),
        ("labelled", pa.int64()),
        ("correct", pa.int64()),
        ("predicted_classes", pa.list_(pa.int32())),
        ("predicted_images", pa.list_(pa.int64())),
        *(
            (f"{name}_{field}", pa.int64() if field == "count" else _DOUBLES)
            for name in MOMENTS
            for field in _MOMENT_FIELDS
        ),
        ("sample_size", pa.int64()),
        ("sample_keys", pa.list_(pa.uint64())),
        ("sample_rows", _FLOATS),
        ("cells_size", pa.int64()),
        ("cells_keys", pa.list_(pa.uint64())),
        ("cells_rows", _FLOATS),
        ("largest_error", pa.float64()),
        ("top_scores", _DOUBLES),
        ("top_ids", _STRINGS),
        ("bottom_scores", _DOUBLES),
        ("bottom_ids", _STRINGS),
    ]
)

CLASSES = pa.schema(
    [
        ("class", pa.int32()),
        ("class_name", pa.string()),
        ("images", pa.int64()),
        ("labelled", pa.int64()),
        ("correct", pa.int64()),
        *((f"mean_{name}{end}", pa.float64()) for name in ("logit", "probability") for end in ("", "_low", "_high")),
        ("mean_map", _FLOATS),
        ("std_map", _FLOATS),
        ("contrast_map", _FLOATS),
        ("wrong_map", _FLOATS),
        *((f"{name}_{what}", pa.float64()) for name in FIGURES for what in FIGURE_COLUMNS),
        ("similarity", pa.float64()),
        ("border_mass_z", pa.float64()),
        ("corner_mass_z", pa.float64()),
        ("top_logit_ids", _STRINGS),
        ("bottom_logit_ids", _STRINGS),
        ("top_similarity_ids", _STRINGS),
        ("bottom_similarity_ids", _STRINGS),
        ("completeness_error_p50", pa.float64()),
        ("completeness_error_p95", pa.float64()),
        ("completeness_error_max", pa.float64()),
    ]
)
