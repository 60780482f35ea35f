"""Makes outputs by real runs on small data."""

from __future__ import annotations

import pathlib
from typing import Any

from pipeline.config import Config
from pipeline.run import launch, prepare
from tests.samples import configuration


def run(folder: pathlib.Path, patterns: Any, **sections: dict[str, Any]) -> pathlib.Path:
    """Explains shards with the small model of `tests.samples`; returns the output's folder."""
    explain = {"jit": "off", **sections.pop("explain", {})}
    launch(prepare(Config.from_dict(configuration(folder, patterns, explain=explain, **sections))))
    return folder / "out"
