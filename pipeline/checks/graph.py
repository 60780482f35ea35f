"""The Beam graph of each half of a check: units → parts. Between the halves, the launcher reads small files."""

from __future__ import annotations

from collections.abc import Sequence

import apache_beam as beam

from fullgrad_beam import Checked
from pipeline.checks.units import CheckUnit
from pipeline.checks.work import ComputeUnits


def build(
    pipeline: beam.Pipeline, units: Sequence[CheckUnit], compute: ComputeUnits, accelerator: str | None = None
) -> None:
    """Adds one half of a check to an empty pipeline; units that have a part are not computed again.

    Args:
      units: what is to be computed.
      compute: how.
      accelerator: a resource hint for the workers.
    """
    step = beam.ParDo(compute)
    if accelerator is not None:
        step = step.with_resource_hints(accelerator=accelerator)
    _ = (
        pipeline
        | "Units" >> beam.Create([unit.to_json() for unit in units])
        | "ReadUnits" >> beam.Map(Checked(CheckUnit.from_json))
        | "Spread" >> beam.Reshuffle()
        | type(compute).__name__ >> step
    )
