"""How much memory there is at hand, and how many images may share it."""

from __future__ import annotations

import math
import os
import pathlib

# What a pass holds of an image over its activations: themselves, their gradients, and copies of some in other layouts.
# The resident memory of processes grew by less, 1.1 to 1.3 of the activations; the rest is for what was not seen.
_HELD = 3

# A process takes so much of the memory at hand and leaves the rest: to decoded images and maps, and to the processes
# that other workers on the machine are about to start.
_PART = 1 / 4

# On CPUs, speed is that of memory once a batch's activations exceed the caches: 8, 16 and 32 images of 224² are within
# 8 % of each other on ResNet-50, MobileNetV2 and SqueezeNet, as are 64 to 512 of 32² on ResNet-20. Larger batches only
# take memory, and leave a unit fewer of them to decode ahead of and to write behind.
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

    The largest power of two that the memory allows and that is of use: on accelerators at most 512; on CPUs as many as
    have 512 MiB of activations, at least 8 and as many as there are cores, which share the images out, and at most 128.
    Then as few as give the same number of batches a unit, or as many more as keep all that go on at once busy to the
    end, so that little of the last one is padding.

    Args:
      image_bytes: of all activations of one image.
      memory: bytes at hand.
      accelerator: whether one computes; `memory` is then its own.
      cores: how many compute a batch.
      batches_at_once: how many batches are computed at once, and share the memory.
      unit_images: how many images a unit has; None where that is not known.
    """
    fits = int(memory * _PART) // (_HELD * max(1, image_bytes) * batches_at_once)
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
    # Accelerators' matrix units take numbers in eights.
    return min(size, -8 * (-even // 8)) if accelerator else even


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_at_hand(root: str | os.PathLike[str] = "/") -> int:
    """Bytes of main memory that can be had now: of the machine, and of the container where that has a limit.

    Args:
      root: where /proc and /sys are; for tests.
    """
    root = pathlib.Path(root)
    found = [amount for amount in (_of_machine(root), _of_container(root)) if amount is not None]
    if found:
        return max(0, min(found))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # where there is no /proc, as on macOS


def _of_machine(root: pathlib.Path) -> int | None:
    for line in _lines(root / "proc" / "meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def _of_container(root: pathlib.Path) -> int | None:
    """What a control group's limit leaves; None where there is no limit."""
    groups = root / "sys" / "fs" / "cgroup"
    for folder, limit, used, cache in (
        (groups, "memory.max", "memory.current", "inactive_file"),
        (groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, now = _lines(folder / limit), _lines(folder / used)
        if not most or not now or not most[0].isdigit():
            continue
        # Files that were read count as used, but are given up for whoever needs the memory.
        statistics = dict(line.split()[:2] for line in _lines(folder / "memory.stat") if len(line.split()) >= 2)
        return int(most[0]) - int(now[0]) + int(statistics.get(cache, 0))
    return None


def _lines(path: pathlib.Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def accelerator_memory() -> int:
    """Bytes that TensorFlow may use of the first GPU, less what it uses now."""
    import tensorflow as tf
    from tensorflow.python.client import device_lib  # nothing public says how much there is

    limits = [device.memory_limit for device in device_lib.list_local_devices() if device.device_type == "GPU"]
    used = int(tf.config.experimental.get_memory_info("GPU:0")["current"])
    return max(0, min(limits, default=0) - used)
