"""The columns of a comparison's Parquet files."""

from __future__ import annotations

import pyarrow as pa

from transforms.statistics import FIGURES

COMPARISON = pa.schema(
    [
        ("image_id", pa.string()),
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("label", pa.int32()),
        ("label_name", pa.string()),
        *(
            (f"{name}_{which}", kind)
            for which in ("a", "b")
            for name, kind in (
                ("predicted", pa.int32()),
                ("predicted_name", pa.string()),
                ("target", pa.int32()),
                ("target_name", pa.string()),
                ("logit", pa.float32()),
                ("probability", pa.float32()),
            )
        ),
        ("changed", pa.bool_()),
        ("cosine", pa.float32()),
        ("spearman", pa.float32()),
    ]
)

# What is averaged over a class's images, with the interval of the mean.
AVERAGED = ("cosine", "spearman", "probability_shift", *(f"{name}_shift" for name in FIGURES))

COMPARED_CLASSES = pa.schema(
    [
        ("class", pa.int32()),
        ("class_name", pa.string()),
        ("images", pa.int64()),
        ("changed", pa.int64()),
        ("changed_low", pa.float64()),
        ("changed_high", pa.float64()),
        ("labelled", pa.int64()),
        ("correct_a", pa.int64()),
        ("correct_b", pa.int64()),
        *((f"{name}_{what}", pa.float64()) for name in AVERAGED for what in ("mean", "low", "high")),
        ("shift_map", pa.list_(pa.float32())),
        ("shift_map_low", pa.list_(pa.float32())),
        ("shift_map_high", pa.list_(pa.float32())),
    ]
)
