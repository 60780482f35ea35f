"""Says which files of an output are not as they were written, for `fullgrad status`."""

from __future__ import annotations

from collections.abc import Collection

from pipeline.terminal import err, out
from transforms.output import DamagedOutput, Output
from transforms.output.mending import TABLES, damaged_tables, orphans, verify


def verify_output(output: Output) -> int:
    """Reads all files of an output and names those that are damaged; returns the exit code, 1 if there are any."""
    receipts, unreadable = output.look_at_receipts()
    damages = verify(receipts, output)
    tables = damaged_tables(output)
    for error in unreadable.values():
        err.print(f"fullgrad: {error}", style="red")
    for each in damages:
        err.print(
            f"fullgrad: {each.path} is damaged ({each.reason}); delete {output.file('receipts', each.unit_id)}.json, "
            "and the same fullgrad run computes the unit again",
            style="red",
        )
    for each in tables:
        err.print(
            f"fullgrad: {each.path} is damaged ({each.reason}); the same fullgrad run writes it again", style="red"
        )
    for paths in orphans(output).values():
        for path in paths:
            err.print(f"fullgrad: {path} has no receipt; the same fullgrad run deletes it", style="red")
            unreadable[path] = DamagedOutput(path)
    wrong = len(unreadable) + len(damages) + len(tables)
    old = sum(receipt.parts is None for receipt in receipts)
    without = f"; {old:,} units of earlier versions have no checksums" if old else ""
    what = "all are as they were written" if not wrong else f"{wrong:,} damaged"
    out.print(f"verified {len(receipts):,} units and the tables: {what}{without}")
    return 1 if wrong else 0


def state_when_done(
    output: Output, *, at_work: bool = False, files: Collection[str] = ("summary.json", *TABLES)
) -> str:
    """The state of an output whose units are all done: whether the files about all of them are there."""
    from apache_beam.io.filesystems import FileSystems

    missing = [name for name in files if not FileSystems.exists(output.file(name))]
    if not missing:
        try:
            summary = output.read_json("summary.json")
        except DamagedOutput:
            summary = None
        if isinstance(summary, dict) and "images" in summary:
            return "done"
        return f"all units done, but {output.file('summary.json')} is damaged; the same fullgrad run writes it again"
    if at_work:
        return "all units done, their statistics being merged"
    return "all units done, their statistics not yet merged"
