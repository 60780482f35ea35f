"""Explains shards with workers of a pool: `python -m tests.containers.job FOLDER ADDRESS SHARD…`."""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.config import Config
from pipeline.graph import build
from pipeline.run import prepare, read_summary
from tests.cluster.servers import accepts
from tests.samples import configuration


def main(folder: str, address: str, *shards: str) -> None:
    """Runs the job, and prints what its receipts say as one line of JSON."""
    os.umask(0)  # the workers are another user, who writes into folders that are made here
    plan = prepare(Config.from_dict(configuration(pathlib.Path(folder), list(shards))))
    plan.settings.output.create()
    host, _, port = address.partition(":")
    while not accepts(host, int(port)):  # the caller sets a limit
        time.sleep(0.2)
    flags = ["--job_endpoint=embed", "--environment_type=EXTERNAL", f"--environment_config={address}"]
    pipeline = beam.Pipeline(runner="PortableRunner", options=PipelineOptions(flags))
    build(pipeline, plan.units, plan.settings)
    state = pipeline.run().wait_until_finish()
    receipts = plan.settings.output.read_receipts()
    print(
        json.dumps(
            {
                "state": state,
                "images": read_summary(plan.settings.output).images,
                "workers": sorted({receipt.worker for receipt in receipts}),
                "models_loaded": [receipt.models_loaded for receipt in receipts],
                "launcher": os.getpid(),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
