"""Finds the available memory and a batch size that fits it."""

from __future__ import annotations

import math
import os
import pathlib

# The memory of a pass, as a multiple of the images' activations: the activations, their gradients, and copies of some
# in other layouts. Measured processes grew by only 1.1 to 1.3 times the activations; the rest is a reserve.
_PASS_OVER_ACTIVATIONS = 3

# A process takes this share of the available memory. The rest is for decoded images and maps, and for other workers'
# processes that are about to start on the machine.
_SHARE = 1 / 4

# On CPUs, memory limits the speed once a batch's activations exceed the caches. The speeds with 8, 16 and 32 images of
# 224² are within 8 % of each other on ResNet-50, MobileNetV2 and SqueezeNet; so are those with 64 to 512 images of 32²
# on ResNet-20. Larger batches only take memory. And with fewer batches per unit, less decoding and writing overlaps
# with the compute.
_ENOUGH_BYTES_ON_CPUS = 1 << 29
_ENOUGH_IMAGES_ON_CPUS = 8
_MOST_ON_CPUS = 128
_MOST_ON_ACCELERATORS = 512


def sensible_batch(
    image_bytes: int,
    memory: int,
    *,
    accelerator: bool,
    cores: int = 1,
    batches_at_once: int = 1,
    unit_images: int | None = None,
) -> int:
    """How many images to compute in a batch.

    First, the largest power of two that fits the memory and is useful. On accelerators that is at most 512. On CPUs it
    is the number of images with 512 MiB of activations, at least 8, at least one per core, and at most 128.
    Then the size is reduced so that a unit's images fill its batches evenly and little of the last one is padding.
    Batches that run at once all get the same number of images.

    Args:
      image_bytes: the bytes of all activations of one image.
      memory: the available bytes.
      accelerator: whether an accelerator computes; `memory` is then the accelerator's.
      cores: the number of cores that compute a batch.
      batches_at_once: the number of batches that are computed at once and share the memory.
      unit_images: the number of images in a unit; None if it is unknown.
    """
    fits = int(memory * _SHARE) // (_PASS_OVER_ACTIVATIONS * max(1, image_bytes) * batches_at_once)
    if accelerator:
        useful = _MOST_ON_ACCELERATORS
    else:
        useful = max(_ENOUGH_BYTES_ON_CPUS // max(1, image_bytes), _ENOUGH_IMAGES_ON_CPUS, cores)
        useful = min(_MOST_ON_CPUS, useful)
    size = 1 << (max(1, min(fits, useful)).bit_length() - 1)
    if unit_images is None or unit_images < 1:
        return size
    rounds = math.ceil(unit_images / size / batches_at_once)
    even = math.ceil(unit_images / (rounds * batches_at_once))
    # Accelerators' matrix units work on multiples of eight.
    return min(size, -8 * (-even // 8)) if accelerator else even


def usable_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_at_hand(root: str | os.PathLike[str] = "/") -> int:
    """The bytes of main memory that are available now, on the machine and within the container's limit.

    Args:
      root: the folder that has `proc` and `sys`; for tests.
    """
    root = pathlib.Path(root)
    found = [amount for amount in (_of_machine(root), _of_container(root)) if amount is not None]
    if found:
        return max(0, min(found))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # without /proc, as on macOS


def _of_machine(root: pathlib.Path) -> int | None:
    for line in _lines(root / "proc" / "meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def _of_container(root: pathlib.Path) -> int | None:
    """The bytes left below a control group's limit; None without a limit."""
    groups = root / "sys" / "fs" / "cgroup"
    for folder, limit, used, cache in (
        (groups, "memory.max", "memory.current", "inactive_file"),
        (groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, now = _lines(folder / limit), _lines(folder / used)
        if not most or not now or not most[0].isdigit():
            continue
        # Cached files count as used, but the kernel drops them when memory is needed.
        statistics = dict(line.split()[:2] for line in _lines(folder / "memory.stat") if len(line.split()) >= 2)
        return int(most[0]) - int(now[0]) + int(statistics.get(cache, 0))
    return None


def _lines(path: pathlib.Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def accelerator_memory() -> int:
    """The bytes that TensorFlow may still use on the first GPU."""
    import tensorflow as tf
    from tensorflow.python.client import device_lib  # there is no public way to get a GPU's memory

    limits = [device.memory_limit for device in device_lib.list_local_devices() if device.device_type == "GPU"]
    used = int(tf.config.experimental.get_memory_info("GPU:0")["current"])
    return max(0, min(limits, default=0) - used)
