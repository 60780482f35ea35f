"""Describes columns for Hugging Face's `datasets`, so that its readers and viewers show images as images."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

# The type of a column of images, as `datasets` stores them: an encoded file, and its name.
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

_DTYPES = {pa.bool_(): "bool", pa.float32(): "float32", pa.float64(): "float64"}


def hugging_face_metadata(schema: pa.Schema) -> str:
    """The value of the key `huggingface` in a schema's metadata: the features of all columns, as JSON.

    The form is that of `datasets.Features.to_dict()`, which `datasets` 2 to 4 read.
    """
    return json.dumps({"info": {"features": {field.name: _feature(field.type) for field in schema}}})


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}
    return {"dtype": _DTYPES.get(kind, str(kind)), "_type": "Value"}
