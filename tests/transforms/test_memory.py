"""How many images are computed at once, and the memory that decides it."""

from __future__ import annotations

import pathlib

import pytest

from transforms.memory import memory_at_hand, sensible_batch, usable_cores

GIB = 1 << 30
MIB = 1 << 20


@pytest.mark.parametrize(
    ("image_bytes", "memory", "size"),
    [
        (148 * MIB, 64 * GIB, 8),  # ResNet-50 at 224²
        (87 * MIB, 64 * GIB, 8),  # MobileNetV2
        (32 * MIB, 64 * GIB, 16),  # SqueezeNet
        (int(2.8 * MIB), 64 * GIB, 128),  # ResNet-20 at 32²
        (148 * MIB, 8 * GIB, 4),
        (148 * MIB, 1 * GIB, 1),
        (148 * MIB, 0, 1),
        (0, 0, 1),
        (0, 64 * GIB, 128),
        (64 * GIB, 64 * GIB, 1),
    ],
)
def test_a_cpu_s_batch_is_what_is_of_use_and_fits(image_bytes: int, memory: int, size: int) -> None:
    assert sensible_batch(image_bytes, memory, accelerator=False) == size


def test_many_cores_have_an_image_each() -> None:
    assert sensible_batch(148 * MIB, 512 * GIB, accelerator=False, cores=64) == 64
    assert sensible_batch(148 * MIB, 16 * GIB, accelerator=False, cores=64) == 8


def test_batches_that_are_computed_at_once_share_the_memory_and_end_together() -> None:
    assert sensible_batch(148 * MIB, 512 * GIB, accelerator=False, batches_at_once=64) == 4
    assert sensible_batch(4 * MIB, 7 * GIB, accelerator=False, batches_at_once=2, unit_images=1250) == 63
    assert sensible_batch(4 * MIB, 64 * GIB, accelerator=False, batches_at_once=2, unit_images=129) == 65
    assert sensible_batch(4 * MIB, 64 * GIB, accelerator=False, batches_at_once=4, unit_images=3) == 1


@pytest.mark.parametrize(
    ("image_bytes", "memory", "size"),
    [(148 * MIB, 139 * GIB, 64), (148 * MIB, 16 * GIB, 8), (1, 139 * GIB, 512), (148 * MIB, 0, 1)],
)
def test_an_accelerator_s_batch_is_as_large_as_fits(image_bytes: int, memory: int, size: int) -> None:
    assert sensible_batch(image_bytes, memory, accelerator=True) == size


@pytest.mark.parametrize(
    ("unit_images", "cpu", "accelerator"), [(1250, 125, 128), (3, 3, 8), (128, 128, 128), (129, 65, 72), (0, 128, 128)]
)
def test_a_unit_s_batches_are_even(unit_images: int, cpu: int, accelerator: int) -> None:
    image, memory = 4 * MIB, 7 * GIB
    assert sensible_batch(image, memory, accelerator=False, unit_images=unit_images) == cpu
    assert sensible_batch(image, memory, accelerator=True, unit_images=unit_images) == accelerator


def _write(root: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:  8388608 kB\nMemAvailable:  4194304 kB\n"}


def test_memory_is_what_the_machine_can_give(tmp_path: pathlib.Path) -> None:
    assert memory_at_hand(_write(tmp_path, MEMINFO)) == 4 * GIB


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 4 * GIB), (str(3 * GIB), 3 * GIB - 1 * GIB + 256 * MIB), (str(64 * GIB), 4 * GIB)]
)
def test_memory_is_what_the_container_can_have(tmp_path: pathlib.Path, limit: str, expected: int) -> None:
    group = {
        "sys/fs/cgroup/memory.max": limit + "\n",
        "sys/fs/cgroup/memory.current": f"{GIB}\n",
        "sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {256 * MIB}\n",
    }
    assert memory_at_hand(_write(tmp_path, {**MEMINFO, **group})) == expected


def test_control_groups_of_the_first_version_count_too(tmp_path: pathlib.Path) -> None:
    group = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
        "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {512 * MIB}\n",
    }
    assert memory_at_hand(_write(tmp_path, {**MEMINFO, **group})) == GIB + 512 * MIB


def test_without_proc_half_of_the_memory_counts(tmp_path: pathlib.Path) -> None:
    assert memory_at_hand(tmp_path) > 0


def test_this_machine_has_memory_and_cores() -> None:
    assert memory_at_hand() > 0
    assert usable_cores() >= 1
