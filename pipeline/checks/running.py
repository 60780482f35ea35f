"""Runs a check: locates, chooses findings and donors, tests, and writes the results."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from pipeline.checks.evidence import evidence_rows
from pipeline.checks.graph import build
from pipeline.checks.locating import LocateUnits
from pipeline.checks.plan import CannotCheck, CheckPlan
from pipeline.checks.results import Located, check_rows
from pipeline.checks.schemas import CHECKS, DONORS, EVIDENCE
from pipeline.checks.testing import TestSettings, TestUnits
from pipeline.checks.units import CheckUnit
from pipeline.checks.work import ComputeUnits, part_of
from pipeline.engines.jobs import JobFailed, new_pipeline, run_to_its_end
from pipeline.engines.options import UnusableEngine, check_reachable
from pipeline.launch import RunFailed
from transforms.filesystems import STORE_ERRORS
from transforms.output import Output, list_files, read_table
from transforms.probing import Finding, Grid, located_findings

DONORS_A_CLASS = 8
DONORS_OF_A_PART = 3


def run_check(plan: CheckPlan) -> list[dict[str, Any]]:
    """Runs a check to its end; writes `checks.parquet` and `evidence.parquet`, and returns the rows of the first.

    Raises:
      CannotCheck: the output cannot be written, or the engine could not be given the job.
      RunFailed: the runner gave up.
    """
    output, model = plan.settings.output, plan.model
    located = locate(plan)
    findings = {k: located_findings(k, each.drops, _of_others(k, located), plan.grid) for k, each in located.items()}
    tested = test(plan, located, findings)
    rows = check_rows(located, findings, tested, plan.grid, model.channels, model.name_of)
    output.write_table(output.file("checks.parquet"), pa.Table.from_pylist(rows, CHECKS))
    evidence = list(evidence_rows(located, findings, tested, plan.grid, model.name_of))
    output.write_table(output.file("evidence.parquet"), pa.Table.from_pylist(evidence, EVIDENCE))
    output.clear_temporary()
    return rows


def locate(plan: CheckPlan) -> dict[int, Located]:
    """Runs the first half; returns what it found for each class.

    Raises:
      CannotCheck: the output cannot be written, or the engine could not be given the job.
      RunFailed: the runner gave up.
    """
    output = plan.settings.output
    try:
        check_reachable(plan.config.runner, plan.beam_flags)
        for names in (("checks",), ("checks", "parts"), ("tmp",)):
            with contextlib.suppress(BeamIOError, OSError):  # it exists already, or the store has no folders
                FileSystems.mkdirs(output.file(*names))
        _run(plan, plan.locating, LocateUnits(plan.settings))
    except UnusableEngine as error:
        raise CannotCheck(str(error)) from error
    except STORE_ERRORS as error:
        raise CannotCheck(f"{output.path} cannot be written; the check writes its files there ({error})") from error
    rows = _read(output, LocateUnits.step, plan.locating)
    found: dict[int, Located] = {}
    for k in plan.choice.located:
        own = rows.filter(pc.equal(rows["class"], k))
        if own.num_rows:
            found[k] = Located(own, np.stack(own["drops"].to_numpy()))
    return found


def test(plan: CheckPlan, located: dict[int, Located], findings: dict[int, tuple[Finding, ...]]) -> pa.Table:
    """Runs the second half; returns all rows of `ANSWERS`.

    Raises:
      RunFailed: the runner gave up.
    """
    output = plan.settings.output
    table, classes = _donors(located, findings, plan.grid)
    key = json.dumps([[dataclasses.asdict(each) for each in own] for own in findings.values()])
    digest = hashlib.blake2b(key.encode(), digest_size=5)
    for column in ("pixels", "peak", "part"):
        digest.update(repr(table[column].to_pylist()).encode())
    settings = TestSettings(
        **{field.name: getattr(plan.settings, field.name) for field in dataclasses.fields(plan.settings)},
        findings=findings,
        donors=output.file("checks", "parts", f"donors-{digest.hexdigest()}.parquet"),
        donor_classes=classes,
        id=digest.hexdigest(),
    )
    with (
        output.writing(settings.donors) as sink,
        pq.ParquetWriter(sink, output.schema(DONORS), write_page_checksum=True) as writer,
    ):
        for k in classes:
            writer.write_table(table.filter(pc.equal(table["class"], k)))
    compute = TestUnits(settings)
    _run(plan, plan.testing, compute)
    return _read(output, compute.step, plan.testing)


def _of_others(k: int, located: dict[int, Located]) -> np.ndarray:
    """What covering each window costs images of the other classes: float32 [m, P]."""
    return np.concatenate([located[k].drops[:0], *(each.drops for other, each in located.items() if other != k)])


def _donors(
    located: dict[int, Located], findings: dict[int, tuple[Finding, ...]], grid: Grid
) -> tuple[pa.Table, tuple[int, ...]]:
    """The images whose parts are pasted: of those that were kept, the ones whose evidence is clearest.

    For what only a part of the class has, these are the images that lose most where that is covered.
    """
    rows = []
    for k, own in located.items():
        pixels = own.rows["pixels"].to_pylist()
        kept = [i for i, each in enumerate(pixels) if each is not None]
        [part] = [finding.boxes[0] for finding in findings[k] if finding.kind == "part"]
        for count, is_part, drops in (
            (DONORS_A_CLASS, False, own.drops.max(axis=1)),
            (DONORS_OF_A_PART, True, own.drops[:, grid.boxes.index(part)]),
        ):
            chosen = sorted(kept, key=lambda i, drops=drops: -float(drops[i]))[:count]  # type: ignore[misc]
            rows += [
                {"class": k, "part": is_part, "peak": int(own.drops[i].argmax()), "pixels": pixels[i]} for i in chosen
            ]
    return pa.Table.from_pylist(rows, DONORS), tuple(dict.fromkeys(row["class"] for row in rows))


def _run(plan: CheckPlan, units: Sequence[CheckUnit], compute: ComputeUnits) -> None:
    """Computes the units that have no part."""
    output = plan.settings.output
    there = set(_names(output))
    missing = [unit for unit in units if part_of(output, compute.step, unit).rsplit("/", 1)[-1] not in there]
    if not missing:
        return
    pipeline = new_pipeline(plan.config.runner, plan.beam_flags)
    build(pipeline, missing, compute, plan.config.runner.accelerator)
    try:
        run_to_its_end(pipeline, plan.config.runner, plan.beam_flags)
    except JobFailed as error:
        raise RunFailed(
            f"{plan.config.runner.name} did not run the check to its end: {error}; what was computed until then stays, "
            "and the same command goes on with what is missing"
        ) from error


def _names(output: Output) -> list[str]:
    return [path.rsplit("/", 1)[-1] for path in list_files(output.file("checks", "parts", "*.parquet"))]


def _read(output: Output, step: str, units: Sequence[CheckUnit]) -> pa.Table:
    return pa.concat_tables([read_table(part_of(output, step, unit)) for unit in units])
