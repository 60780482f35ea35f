"""Plans units of work: cuts what is still to be explained into ranges of a shard, each committed as one."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from transforms.sources import Source
from transforms.unit import Receipt, Shard, Unit

# The largest unit of `images_per_unit: auto`. Its fixed cost is small beside its work, little is lost with a worker,
# and one large shard keeps many workers busy.
AUTO_IMAGES = 2_048

_COUNTED_TOGETHER = 1_024

Range = tuple[int, float]  # [start, stop), stop may be infinite


class ChangedShard(ValueError):
    """A shard changed after a part of it was explained."""


def plan_units(
    shards: Sequence[Shard],
    source: Source,
    receipts: Iterable[Receipt] = (),
    *,
    images_per_unit: int | None = None,
    limit: int | None = None,
) -> list[Unit]:
    """The units that have no receipt yet, in the order of the shards.

    Ranges that receipts cover are left out, however they were cut then. So a run may continue with other units or a
    larger limit.

    Args:
      shards: in the order in which `limit` counts their images.
      source: counts their records.
      receipts: of the output so far.
      images_per_unit: the most images of a unit; None for at most `AUTO_IMAGES`, shared out evenly.
      limit: only the first so many records of all shards.

    Raises:
      ChangedShard: the size of a shard differs from that in its receipts, or a folder's images were explained as those
        of a folder in it or above it.
    """
    covered: dict[str, list[Range]] = {}
    sizes: dict[str, int] = {}
    begun: list[Shard] = []
    for receipt in receipts:
        unit = receipt.unit
        covered.setdefault(unit.shard.path, []).append((unit.start, math.inf if unit.stop is None else unit.stop))
        sizes[unit.shard.path] = unit.shard.size
        begun.append(unit.shard)
    for shard in shards:
        if sizes.get(shard.path, shard.size) != shard.size:
            raise ChangedShard(
                f"{shard.path} has changed since it was explained: its size was {sizes[shard.path]} and is "
                f"{shard.size}; explain it to another output.path"
            )

    check_overlaps(shards, begun)

    def count_of(shard: Shard) -> int | None:
        worth_it = limit is not None or images_per_unit is not None or _counts_cheaply(shard)
        return source.count(shard) if worth_it else None

    units: list[Unit] = []
    left = math.inf if limit is None else limit
    with ThreadPoolExecutor(16) as pool:
        # In groups, because a shard that waits to be counted takes more memory than its unit.
        groups = (shards[i : i + _COUNTED_TOGETHER] for i in range(0, len(shards), _COUNTED_TOGETHER))
        counted = (pair for group in groups for pair in zip(group, pool.map(count_of, group), strict=True))
        for shard, count in counted:
            if left <= 0:
                break
            stop = math.inf
            if count is not None:
                stop = left if count > left else math.inf
                left -= min(count, left)
            for gap in _gaps((0, stop), covered.get(shard.path, [])):
                units.extend(_cut(shard, gap, count, images_per_unit))
    return units


def check_overlaps(shards: Iterable[Shard], begun: Iterable[Shard]) -> None:
    """Refuses folders whose images were explained under another folder's path, because they would count twice."""
    before = {shard.path for shard in begun if shard.format == "folder"}
    new = {shard.path for shard in shards if shard.format == "folder"} - before
    if not before or not new:
        return
    pairs = [(path, above) for path in new if (above := _one_above(path, before))]
    pairs += [(above, path) for path in before if (above := _one_above(path, new))]
    for now, then in pairs:
        raise ChangedShard(
            f"{now} is to be read as a folder of images, some of which were explained as those of {then}; explain "
            "it to another output.path"
        )


def _one_above(path: str, folders: Collection[str]) -> str | None:
    """The folder, of those given, that a path lies in; None if there is none."""
    parts = path.split("/")
    return next((up for i in range(1, len(parts)) if (up := "/".join(parts[:i])) in folders), None)


def _counts_cheaply(shard: Shard) -> bool:
    """Whether counting is cheap. On other file systems than the local one, it means reading a whole TFRecord or tar."""
    return "://" not in shard.path or shard.format in ("parquet", "folder")


def _gaps(wanted: Range, covered: Sequence[Range]) -> list[Range]:
    """The parts of `wanted` that are not covered."""
    gaps = []
    start, stop = wanted
    for low, high in sorted(covered):
        if low > start:
            gaps.append((start, min(low, stop)))
        start = max(start, high)  # type: ignore[assignment]  # infinite only where nothing follows
        if start >= stop:
            return gaps
    return [*gaps, (start, stop)]


def _cut(shard: Shard, gap: Range, count: int | None, images_per_unit: int | None) -> list[Unit]:
    """Cuts a range into units of even size. The last unit of an open range stays open."""
    start, stop = gap
    end = None if math.isinf(stop) else int(stop)
    if count is None:
        return [Unit(shard, start, end)]
    records = max(0, int(min(stop, count)) - start)
    if not records:
        # An empty shard is a unit, which reports that it is empty. An empty rest of a shard is no unit.
        return [Unit(shard, 0, end, records=0)] if not start else []
    size = images_per_unit or math.ceil(records / math.ceil(records / AUTO_IMAGES))
    starts = list(range(start, start + records, size))
    stops = [*starts[1:], end]
    return [
        Unit(shard, low, high, records=min(low + size, start + records) - low)
        for low, high in zip(starts, stops, strict=True)
    ]
