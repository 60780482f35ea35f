"""Units, receipts and rows of maps to write."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from transforms.output import MAPS, Output, encode_maps
from transforms.statistics import FIGURES
from transforms.unit import Receipt, Shard, Unit


def unit(name: str = "a", start: int = 0) -> Unit:
    return Unit(Shard(f"/data/{name}.tfrecord", "tfrecord", 1), start)


def receipt(of: Unit) -> Receipt:
    return Receipt(of, "run", 1, 1, {}, 0.0, 1.0, "host/1", 1)


def map_rows(count: int, map_dtype: str = "float16", prefix: str = "image") -> pa.RecordBatch:
    maps = np.random.default_rng(count).random((count, 4, 6), np.float32)
    encoded = encode_maps(maps, map_dtype)
    columns: dict[str, Any] = {
        "image_id": [f"{prefix}{i}" for i in range(count)],
        "index": list(range(count)),
        "map": encoded.data,
        "map_dtype": [map_dtype] * count,
        "map_scale": encoded.scale,
        "map_offset": encoded.offset,
        "map_height": [4] * count,
        "map_width": [6] * count,
        "coarse_map": list(np.full((count, 196), 1 / 196, np.float32)),
        **{name: np.arange(count, dtype=np.float32) for name in FIGURES},
    }
    arrays_ = [pa.array(columns.get(field.name, [None] * count), field.type) for field in MAPS]
    return pa.RecordBatch.from_arrays(arrays_, schema=MAPS)


def commit(output: Output, of: Unit, *batches: pa.RecordBatch) -> None:
    with output.writing_rows(output.part("maps", of), MAPS) as rows:
        for batch in batches:
            rows.write(batch)
        assert rows.rows == sum(batch.num_rows for batch in batches)
    output.write_json(output.receipt(of), receipt(of).to_json())
