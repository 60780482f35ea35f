"""A dry run tries the input and the output, and leaves nothing behind."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from pipeline.access import check_access
from pipeline.config import Config
from pipeline.run import CannotRun, prepare


@pytest.mark.parametrize("path", ["/proc/out", "/dev/null/out", "{folder}/a.tfrecord/out", "{folder}/" + "x" * 300])
def test_an_output_that_cannot_be_written_is_refused(
    dataset: dict[str, Any], tmp_path: pathlib.Path, path: str
) -> None:
    wrong = path.format(folder=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CannotRun, match=r"output\.path: .* cannot be written"):
        check_access(prepare(Config.from_dict({**dataset, "output": {"path": wrong}})))
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_tried_is_gone_again(dataset: dict[str, Any], tmp_path: pathlib.Path) -> None:
    plan = prepare(Config.from_dict(dataset))
    before = sorted(tmp_path.rglob("*"))
    assert check_access(plan) == []
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "a.tfrecord").unlink()
    with pytest.raises(CannotRun, match=r"input\.shards: .*a\.tfrecord cannot be read"):
        check_access(plan)
