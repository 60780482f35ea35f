"""Nothing of an output is lost, mixed or silently wrong, whatever happened to its files."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.cli import main, run_config
from pipeline.config import Config
from pipeline.run import CannotRun, launch, prepare
from pipeline.summary import Summary
from tests import shards
from tests.outputs import assert_same_output
from tests.samples import configuration, encoded_images
from transforms.output import KINDS, DamagedOutput, NewParts, OtherRun, Output, committed, read_maps
from transforms.unit import Receipt

SHARDS = ("a", "b")


@dataclasses.dataclass(frozen=True)
class Case:
    """A folder with two shards of six images, and the output of a finished run in two units."""

    value: dict[str, Any]
    folder: pathlib.Path
    whole: pathlib.Path  # the output as it was

    @property
    def output(self) -> Output:
        return Output(self.value["output"]["path"])

    @property
    def receipts(self) -> list[Receipt]:
        return self.output.read_receipts()

    def run(self, **changes: Any) -> Summary:
        value = {**self.value, **{name: {**self.value[name], **section} for name, section in changes.items()}}
        return launch(prepare(Config.from_dict(value)))

    def is_whole(self) -> None:
        assert_same_output(self.output.path, str(self.whole))
        assert visible(self.output) == {each.unit.id for each in self.receipts}
        assert os.listdir(self.output.file("tmp")) == []


def visible(output: Output) -> set[str]:
    """The units whose parts a reader of `maps/*.parquet`, or of the other folders, takes for data."""
    return {path.stem for kind in KINDS for path in pathlib.Path(output.path, kind).glob("*.parquet")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], pathlib.Path]:
    folder = tmp_path_factory.mktemp("made")
    for seed, name in enumerate(SHARDS):
        shards.write_tfrecord(folder / f"{name}.tfrecord", encoded_images(6, seed))
    value = configuration(folder, str(folder / "*.tfrecord"))
    launch(prepare(Config.from_dict(value)))
    return value, folder


@pytest.fixture
def case(made: tuple[dict[str, Any], pathlib.Path]) -> Case:
    """The same folder for every test, as the receipts name it; the test begins with the shards and output as made."""
    value, folder = made
    whole = folder / "whole"
    if not whole.exists():
        shutil.copytree(folder / "out", whole)
        shutil.copytree(folder, folder.parent / f"{folder.name}-shards", ignore=shutil.ignore_patterns("out", "whole"))
    shutil.rmtree(folder / "out")
    shutil.copytree(whole, folder / "out")
    for path in (*folder.glob("*.tfrecord"), *folder.glob("moved")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (folder.parent / f"{folder.name}-shards").glob("*.tfrecord"):
        shutil.copy2(path, folder / path.name)
    return Case(value, folder, whole)


# ---- A: outputs do not mix


@pytest.mark.slow
def test_units_of_other_settings_are_refused_by_name_also_without_run_json(case: Case) -> None:
    os.remove(case.output.file("run.json"))
    with pytest.raises(CannotRun, match=r"receipts/a\S+\.json is of a run with other settings"):
        case.run(explain={"maps": "signed"})
    assert case.run().units_computed == 0
    assert case.output.read_json("run.json") is not None


def test_of_two_configurations_that_planned_the_same_fresh_output_the_second_is_refused(case: Case) -> None:
    shutil.rmtree(case.output.path)
    first, second = (
        prepare(Config.from_dict({**case.value, "explain": {**case.value["explain"], "maps": maps}}))
        for maps in ("reference", "signed")
    )
    launch(first)
    with pytest.raises(CannotRun, match=r'explain\.maps = "reference", where it is now "signed"'):
        launch(second)
    case.is_whole()


def test_a_worker_refuses_a_unit_that_was_committed_with_other_settings(case: Case) -> None:
    other = dataclasses.replace(case.output, fingerprint="0" * 16, run="other")
    receipt = case.receipts[0]
    with pytest.raises(OtherRun, match=r"receipts/\S+\.json is of a run with other settings"):
        committed(receipt.unit, other)
    with NewParts(other, receipt.unit) as parts:
        parts.copy("maps", receipt.unit)
        with pytest.raises(OtherRun):
            parts.commit(receipt)
    case.is_whole()


# ---- B: shards that changed, moved or are gone


def test_a_shard_of_the_same_size_with_other_content_is_refused_or_explained_anew(case: Case) -> None:
    path = case.folder / "a.tfrecord"
    times = path.stat()
    content = bytearray(path.read_bytes())
    swapped = encoded_images(6, 0)
    shards.write_tfrecord(path, [(name, image, (label + 1) % 3) for name, image, label in swapped])
    assert path.stat().st_size == len(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(CannotRun, match=r"a\.tfrecord has changed since it was explained: its size is still \d+"):
        case.run()
    assert case.run(input={"changed": "recompute"}).units_computed == 1
    labels = [row["label"] for row in read_maps(case.output.path) if row["shard"] == str(path)]
    assert labels == [(label + 1) % 3 for _, _, label in swapped]


def test_a_shard_with_another_time_and_the_same_content_has_not_changed(case: Case) -> None:
    os.utime(case.folder / "a.tfrecord", (0, 0))
    assert case.run().units_computed == 0
    case.is_whole()


@pytest.mark.slow
def test_a_shard_that_moved_is_refused_adopted_or_explained_anew_and_never_counts_twice(case: Case) -> None:
    (case.folder / "a.tfrecord").rename(case.folder / "c.tfrecord")
    with pytest.raises(CannotRun, match=r"a\.tfrecord has moved to \S+/c\.tfrecord; set input\.changed to"):
        case.run()
    before = {(row["image_id"], row["total"]) for row in read_maps(case.output.path)}
    summary = case.run(input={"changed": "adopt"})
    assert (summary.units_computed, summary.images) == (0, 12)
    rows = list(read_maps(case.output.path))
    assert {(row["image_id"], row["total"]) for row in rows} == before
    assert {pathlib.Path(row["shard"]).stem for row in rows} == {"b", "c"}
    assert visible(case.output) == {each.unit.id for each in case.receipts}
    (case.folder / "c.tfrecord").rename(case.folder / "a.tfrecord")
    summary = case.run(input={"changed": "recompute"})
    assert (summary.units_computed, summary.images) == (1, 12)
    case.is_whole()


def test_a_shard_that_is_gone_is_refused_kept_or_dropped(case: Case) -> None:
    os.remove(case.folder / "a.tfrecord")
    with pytest.raises(CannotRun, match=r"a\.tfrecord, which was explained, is no longer in input\.shards"):
        case.run()
    assert case.run(input={"changed": "adopt"}).images == 12
    assert case.run(input={"changed": "recompute"}).images == 6
    assert {pathlib.Path(row["shard"]).stem for row in read_maps(case.output.path)} == {"b"}


# ---- C: what has no receipt is not where readers look


def test_parts_without_a_receipt_are_removed_and_files_of_others_stay(case: Case) -> None:
    lost = case.receipts[0]
    os.remove(case.output.receipt(lost.unit))
    own = pathlib.Path(case.output.file("maps", "mine.parquet"))
    own.write_bytes(b"somebody's own")
    summary = case.run(input={"images_per_unit": 4})
    assert (summary.units, summary.units_computed, summary.images) == (3, 2, 12)
    assert own.read_bytes() == b"somebody's own"
    own.unlink()
    case.is_whole()


def test_parts_come_in_place_only_once_their_receipt_is_there(case: Case) -> None:
    receipt = case.receipts[0]
    output = dataclasses.replace(case.output, run="now", fingerprint=str(receipt.fingerprint))
    ids = {each.unit.id for each in case.receipts}
    with NewParts(output, dataclasses.replace(receipt.unit, stop=3)) as parts:
        parts.copy("maps", receipt.unit)
        assert visible(output) == ids
    assert visible(output) == ids
    assert os.listdir(output.file("tmp")) == []


def test_a_unit_whose_worker_was_killed_after_the_receipt_is_read_and_not_computed_again(case: Case) -> None:
    receipt = case.receipts[0]
    rows = [row["total"] for row in read_maps(case.output.path)]
    for kind in receipt.parts or {}:
        os.rename(case.output.part(kind, receipt.unit), case.output.staged(str(receipt.attempt), kind, receipt.unit.id))
    assert [row["total"] for row in read_maps(case.output.path)] == rows
    assert case.run().units_computed == 0
    case.is_whole()


def test_of_two_attempts_at_a_unit_the_first_that_commits_counts(case: Case) -> None:
    receipt = case.receipts[0]
    output = dataclasses.replace(case.output, run="late", fingerprint=str(receipt.fingerprint))
    with NewParts(output, receipt.unit) as parts:
        parts.copy("maps", receipt.unit)
        assert parts.commit(dataclasses.replace(receipt, run="late")) == receipt
    case.is_whole()


# ---- D, E: damaged files

_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "{}": lambda content: b"{}",
    "an unknown field": lambda content: json.dumps({**json.loads(content), "unknown": 1}).encode(),
    "another number": lambda content: content.replace(b'"images": 6', b'"images": 7'),
}


@pytest.mark.quick_cases(every=6)
@pytest.mark.parametrize("damage", _DAMAGES)
def test_a_damaged_receipt_is_named_and_its_unit_computed_again(
    case: Case, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pathlib.Path(case.output.receipt(case.receipts[0].unit))
    path.write_bytes(_DAMAGES[damage](path.read_bytes()))
    with pytest.raises(DamagedOutput, match=rf"^{path} is damaged \("):
        list(read_maps(case.output.path))
    assert main(["status", case.output.path]) == 1
    shown = capsys.readouterr()
    assert "1 of 2 done" in shown.out
    assert str(path) in shown.err
    assert main(["report", case.output.path]) == 2
    assert str(path) in capsys.readouterr().err
    plan = prepare(Config.from_dict(case.value))
    assert str(path) in "".join(plan.repairs.notes)
    assert launch(plan).units_computed == 1
    case.is_whole()


@pytest.mark.quick_cases(every=3)
@pytest.mark.parametrize("kind", ["maps", "partials"])
@pytest.mark.parametrize("damage", ["removed", "truncated", "empty"])
def test_a_unit_whose_part_is_not_as_its_receipt_says_is_computed_again(case: Case, kind: str, damage: str) -> None:
    path = pathlib.Path(case.output.part(kind, case.receipts[0].unit))
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(_DAMAGES[damage](path.read_bytes()))
    if kind == "maps":
        with pytest.raises(DamagedOutput, match=rf"^{path} is damaged \("):
            list(read_maps(case.output.path))
    assert case.run().units_computed == 1
    case.is_whole()


@pytest.mark.quick_cases(every=2)
@pytest.mark.parametrize("content", ["", "{}", "[]", '{"images'])
def test_a_damaged_summary_is_named_and_written_again(
    case: Case, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pathlib.Path(case.output.file("summary.json"))
    path.write_text(content)
    assert main(["status", case.output.path]) == 0
    assert str(path) in capsys.readouterr().out
    assert main(["report", case.output.path]) == 2
    assert case.output.path in capsys.readouterr().err
    case.run()
    case.is_whole()


@pytest.mark.quick_cases(every=2)
@pytest.mark.parametrize("content", ["", "{}", "[1", "null"])
def test_a_damaged_run_json_beside_receipts_is_written_again(case: Case, content: str) -> None:
    pathlib.Path(case.output.file("run.json")).write_text(content)
    assert case.run().units_computed == 0
    case.is_whole()


# ---- F: flipped bits


def test_a_flipped_bit_is_noticed_by_readers_and_by_verify(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--verify", case.output.path]) == 0
    unit = case.receipts[0].unit
    path = pathlib.Path(case.output.part("maps", unit))
    column = pq.read_schema(path).names.index("map")
    metadata = pq.read_metadata(path).row_group(0).column(column)
    content = bytearray(path.read_bytes())
    content[metadata.data_page_offset + metadata.total_compressed_size - 3] ^= (
        16  # in the data; the page's header comes first
    )
    path.write_bytes(content)
    with pytest.raises(DamagedOutput, match=rf"^{path} is damaged \("):
        list(read_maps(case.output.path))
    capsys.readouterr()
    assert main(["status", "--verify", case.output.path]) == 1
    error = capsys.readouterr().err
    assert str(path) in error
    assert f"{unit.id}.json" in error
    os.remove(case.output.receipt(unit))  # as `status --verify` says
    assert case.run().units_computed == 1
    case.is_whole()


def test_a_run_that_meets_a_flipped_bit_drops_the_unit_so_that_the_same_command_goes_on(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pathlib.Path(case.output.part("partials", case.receipts[0].unit))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 16
    path.write_bytes(content)
    from pipeline.run import RunFailed

    with pytest.raises(RunFailed, match=r"partials/\S+ is damaged"):
        run_config(Config.from_dict(case.value))
    assert case.run().units_computed == 1
    case.is_whole()


# ---- G: power loss


def test_parts_and_folders_are_on_the_disk_before_the_receipt(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(case.output.path)
    synced: list[str] = []
    fsync, link = os.fsync, os.link

    def record(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def receipt_follows(source: str, destination: str) -> None:
        if "receipts" in destination:
            unit = pathlib.Path(destination).stem
            for kind in ("maps", "small_maps", "partials"):
                assert any(f"~{kind}~{unit}" in path for path in synced)
            assert case.output.file("tmp") in synced
            assert source in synced
        link(source, destination)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "link", receipt_follows)
    case.run()
    assert case.output.file("receipts") in synced


# ---- L: leftovers and status


def test_what_a_killed_launcher_left_in_tmp_is_cleared_at_the_next_start(case: Case) -> None:
    run = case.output.read_json("run.json")
    pathlib.Path(case.output.file("tmp", f"{run['run']}~classes-000000.parquet")).write_bytes(b"")
    alive = pathlib.Path(case.output.file("tmp", "another~classes-000000.parquet"))
    alive.write_bytes(b"")
    path = pathlib.Path(case.output.file("run.json"))
    path.write_text(json.dumps({**run, "launcher": {**run["launcher"], "process": 2**22 + 1}}))
    case.run()
    assert os.listdir(case.output.file("tmp")) == [alive.name]


@pytest.mark.parametrize("name", ["classes.parquet", "examples.parquet"])
def test_an_output_without_one_of_its_tables_is_not_done(
    case: Case, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.remove(case.output.file(name))
    assert main(["status", case.output.path]) == 0
    assert "all units done, their statistics not yet merged" in capsys.readouterr().out


def test_receipts_that_may_not_be_read_are_named(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    as_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        os.chmod(name, 0o755)
        output = pathlib.Path(shutil.copytree(case.output.path, pathlib.Path(name) / "out"))
        main(["status", str(output)])  # imports what another user may not be able to
        os.chmod(output / "receipts", 0)
        if as_root:  # who may read everything
            os.seteuid(65534)
        try:
            assert main(["status", str(output)]) == 2
        finally:
            if as_root:
                os.seteuid(0)
            os.chmod(output / "receipts", 0o755)
        assert str(output / "receipts") in capsys.readouterr().err


# ---- outputs of earlier versions


@pytest.mark.slow
def test_an_output_of_an_earlier_version_is_read_and_continued_and_said(case: Case) -> None:
    for receipt in case.receipts:
        value = json.loads(receipt.to_json())
        for name in ("parts", "attempt", "fingerprint", "content"):
            del value[name]
        pathlib.Path(case.output.receipt(receipt.unit)).write_text(json.dumps(value))
    assert len(list(read_maps(case.output.path))) == 12
    plan = prepare(Config.from_dict(case.value))
    assert plan.repairs.notes == (
        "2 units are kept that an earlier version of fullgrad wrote; they have no checksums, so only whether their "
        "files are there is checked",
    )
    assert launch(plan).units_computed == 0
    case.is_whole()
    os.remove(case.output.part("partials", case.receipts[0].unit))
    assert case.run().units_computed == 1
    case.is_whole()
