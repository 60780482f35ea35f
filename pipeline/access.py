"""Tries, for a dry run, that the input can be read and that the output can be written, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor

from apache_beam.io.filesystems import FileSystems

from pipeline.preparation import CannotRun, Plan
from transforms.filesystems import STORE_ERRORS
from transforms.sources import DamagedShard, Source, source_for
from transforms.unit import Shard

_PROBE = b"fullgrad --dry-run\n" * 4096  # more than a file system keeps for the superuser alone in one block


def check_access(plan: Plan) -> list[str]:
    """Reads the first record of every shard, and writes a file where the output would be and deletes it.

    Returns:
      What a run would report as an error row: shards whose first record is damaged, one sentence each.

    Raises:
      CannotRun: a shard cannot be read, or the output cannot be written.
    """
    path = plan.config.output.path
    try:
        _write_probe(path)
    except STORE_ERRORS as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise CannotRun(f"output.path: {path} cannot be written; give a folder that can ({reason})") from error
    shards = list(dict.fromkeys(unit.shard for unit in plan.units))
    if not shards:
        return []
    source = source_for(shards[0].format, plan.settings.fields)
    with ThreadPoolExecutor(16) as pool:
        return [each for each in pool.map(lambda shard: _read_first(shard, source), shards) if each]


def _read_first(shard: Shard, source: Source) -> str:
    try:
        with contextlib.closing(source.read(shard, 0, 1)) as records:  # type: ignore[type-var]  # they are generators
            next(records, None)
    except DamagedShard as damage:
        return f"{shard.path} is damaged from its first record on: {damage}"
    except STORE_ERRORS as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise CannotRun(f"input.shards: {shard.path} cannot be read ({reason})") from error
    return ""


def _write_probe(path: str) -> None:
    if "://" in path:
        probe = FileSystems.join(path, f"dry-run-{uuid.uuid4().hex}")
        with FileSystems.create(probe) as sink:
            sink.write(_PROBE)
        FileSystems.delete([probe])
        return
    with contextlib.suppress(FileNotFoundError):
        os.stat(path)  # refuses names that are too long, and those below a file
    above = os.path.abspath(path)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    # Existing folders of the output are tried too: they may belong to another user.
    inside = [os.path.join(above, name) for name in ("receipts", "maps", "partials", "errors", "tmp")]
    for folder in [above, *(each for each in inside if above == os.path.abspath(path) and os.path.isdir(each))]:
        # A folder in it and a file in that: /proc, for one, has folders in which no folder can be made.
        with (
            tempfile.TemporaryDirectory(prefix=".fullgrad-", dir=folder) as made,
            open(os.path.join(made, "probe"), "wb") as sink,
        ):
            sink.write(_PROBE)
            sink.flush()
            os.fsync(sink.fileno())
