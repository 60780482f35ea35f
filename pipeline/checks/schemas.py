"""The columns of the files of a check."""

from __future__ import annotations

import pyarrow as pa

from transforms.output.hugging_face import IMAGE

# One row per image on which evidence was located.
LOCATED = pa.schema(
    [
        ("class", pa.int32()),
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("image_id", pa.string()),
        ("logit", pa.float32()),
        ("probability", pa.float32()),
        ("drops", pa.list_(pa.float32())),  # one for each window of `Grid`
        ("answers", pa.list_(pa.int32())),  # the class that is predicted when the window is covered
        ("patch", pa.binary()),  # the pixels of the window that costs most
        ("pixels", pa.binary()),  # the whole image as PNG; null unless it is kept
    ]
)

# One row per finding, image and change of the image.
ANSWERS = pa.schema(
    [
        ("class", pa.int32()),
        ("kind", pa.string()),
        ("change", pa.string()),
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("image_id", pa.string()),
        ("label", pa.int32()),
        ("target", pa.int32()),  # whose logit and probability are in the row
        ("logit", pa.float32()),
        ("probability", pa.float32()),
        ("predicted", pa.int32()),
        ("picture", pa.binary()),  # WebP; null unless it is shown
    ]
)

# `part` tells the donors for what only a part of the class has.
DONORS = pa.schema([("class", pa.int32()), ("part", pa.bool_()), ("peak", pa.int32()), ("pixels", pa.binary())])

_F = pa.float64()
_BOX = [(side, pa.float32()) for side in ("top", "left", "bottom", "right")]  # fractions of the image's sides

CHECKS = pa.schema(
    [
        ("class", pa.int32()),
        ("class_name", pa.string()),
        ("kind", pa.string()),
        ("verdict", pa.string()),
        ("stands_out", pa.bool_()),
        ("main", pa.bool_()),
        ("sentence", pa.string()),
        ("place", pa.string()),
        *_BOX,
        ("area", pa.float32()),
        ("located_images", pa.int64()),
        ("near", _F),
        ("alikeness", _F),
        ("alikeness_p", _F),
        ("images", pa.int64()),
        ("others", pa.int64()),
        *(
            (name, _F)
            for what in ("logit_drop", "probability_drop", "turned")
            for name in (what, f"{what}_low", f"{what}_high")
        ),
        *((f"{what}_{where}", _F) for what in ("logit_drop", "turned") for where in ("blurred", "elsewhere", "others")),
        ("turned_into", pa.int32()),
        ("turned_into_name", pa.string()),
        ("accuracy_before", _F),
        ("accuracy_after", _F),
        ("added", _F),
        ("added_low", _F),
        ("added_high", _F),
        ("added_control", _F),
        ("p_cover", _F),
        ("q_cover", _F),
        ("p_add", _F),
        ("q_add", _F),
        ("covering_map", pa.list_(pa.float32())),
        ("covering_map_height", pa.int32()),
        ("covering_map_width", pa.int32()),
    ]
)

EVIDENCE = pa.schema(
    [
        ("class", pa.int32()),
        ("class_name", pa.string()),
        ("finding", pa.string()),
        ("kind", pa.string()),
        ("rank", pa.int32()),
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("image_id", pa.string()),
        *_BOX,
        ("target", pa.int32()),
        ("target_name", pa.string()),
        ("logit_before", pa.float32()),
        ("logit_after", pa.float32()),
        ("probability_before", pa.float32()),
        ("probability_after", pa.float32()),
        ("predicted_before", pa.int32()),
        ("predicted_before_name", pa.string()),
        ("predicted_after", pa.int32()),
        ("predicted_after_name", pa.string()),
        ("before", IMAGE),
        ("after", IMAGE),
    ]
)
