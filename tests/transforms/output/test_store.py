"""What is written is whole or not there."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import socket
import subprocess
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.transforms.output.samples import commit, map_rows, receipt, unit
from transforms.output import ERRORS, Output, list_files, read_bytes, read_table


def files(output: Output) -> list[str]:
    root = pathlib.Path(output.path.removeprefix("elsewhere://"))
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_file_gets_its_name_when_it_is_whole(output: Output) -> None:
    path = output.file("maps", "a.parquet")
    with output.writing(path) as sink:
        sink.write(b"half")
        assert read_bytes(path) is None
        sink.write(b" and half")
    assert read_bytes(path) == b"half and half"
    assert files(output) == ["maps/a.parquet"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_nothing(output: Output, error: type[BaseException]) -> None:
    def attempt(path: str) -> None:
        with output.writing(path) as sink:
            sink.write(b"half")
            raise error

    with pytest.raises(error):
        attempt(output.file("maps", "a.parquet"))
    assert files(output) == []


def test_rows_that_end_in_an_error_leave_nothing(output: Output) -> None:
    def attempt() -> None:
        with output.writing_rows(output.file("maps", "a.parquet"), ERRORS) as rows:
            rows.write(pa.RecordBatch.from_pylist([{"image_id": "x"}], ERRORS))
            rows.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        attempt()
    assert files(output) == []


def test_a_file_that_is_there_is_replaced_whole_or_stays(output: Output) -> None:
    path = output.file("run.json")
    output.write_json(path, '{"long": "content"}')
    output.write_json(path, "{}")
    assert read_bytes(path) == b"{}"

    def attempt() -> None:
        with output.writing(path) as sink:
            sink.write(b"something else")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        attempt()
    assert read_bytes(path) == b"{}"
    assert files(output) == ["run.json"]


def test_two_that_write_the_same_unit_leave_one_whole_file(output: Output) -> None:
    path = output.part("maps", unit())
    table = pa.table({"image_id": [f"image{i}" for i in range(2000)]})
    together = threading.Barrier(4)
    errors: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(10):
                together.wait()
                output.write_table(path, table)
        except BaseException as error:
            errors.append(error)
            together.abort()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert read_table(path).equals(table)
    assert files(output) == [f"maps/{unit().id}.parquet"]


def test_folders_that_are_there_stay_as_they_are(output: Output) -> None:
    output.write_json(output.receipt(unit()), receipt(unit()).to_json())
    output.create()
    assert output.read_receipts() == [receipt(unit())]


def test_what_interrupted_attempts_left_is_cleared(output: Output) -> None:
    output.write_json(output.heartbeat(unit()), "{}")
    output.write_json(output.file("run.json"), "{}")
    output.clear_temporary()
    output.clear_temporary()
    assert files(output) == ["run.json"]


def test_what_another_run_is_writing_is_not_cleared(output: Output) -> None:
    other = dataclasses.replace(output, run="other")
    with other.writing(output.file("a.json")) as sink:
        sink.write(b"{}")
        output.clear_temporary()
    assert files(output) == ["a.json"]


def test_what_was_left_is_cleared_once_nobody_can_be_writing_it(output: Output) -> None:
    with subprocess.Popen(["true"]) as process:  # has ended behind this, and its id is nobody's
        pass
    here, hour = socket.gethostname(), 3600
    ages = {
        f"other~{here}~{process.pid}~1~ended-process.parquet.part": 0,
        f"other~elsewhere~{os.getpid()}~2~on-another-machine.parquet.part": hour,
        f"other~elsewhere~{os.getpid()}~3~long-ago.parquet.part": 25 * hour,
        "other~classes-000000.parquet": hour,
        f"mine~elsewhere~{os.getpid()}~4~of-this-run.parquet.part": 0,
    }
    for name, age in ages.items():
        path = pathlib.Path(output.file("tmp", name).removeprefix("elsewhere://"))
        path.write_bytes(b"")
        os.utime(path, (time.time() - age,) * 2)
    dataclasses.replace(output, run="mine").clear_temporary()
    left = [pathlib.PurePath(path).name.rpartition("~")[2] for path in files(output)]
    assert sorted(left) == ["classes-000000.parquet", "on-another-machine.parquet.part"]


def test_receipts_come_in_the_order_of_shards_and_records(output: Output) -> None:
    units = [unit("b"), unit("a", 7), unit("a")]
    for each in units:
        output.write_json(output.receipt(each), receipt(each).to_json())
    assert [each.unit for each in output.read_receipts()] == [unit("a"), unit("a", 7), unit("b")]
    assert output.read_receipt(unit("b")) == receipt(unit("b"))
    assert output.read_receipt(unit("c")) is None


def test_what_is_not_there_is_none(tmp_path: pathlib.Path) -> None:
    output = Output(str(tmp_path / "nowhere"))
    assert output.read_json("run.json") is None
    assert output.read_receipts() == []
    assert list_files(output.file("tmp", "*")) == []
    assert not (tmp_path / "nowhere").exists()


def test_a_json_file_that_is_none_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run.json").write_text("not JSON")
    with pytest.raises(ValueError, match=rf"^{tmp_path}/run\.json is no JSON file$"):
        Output(str(tmp_path)).read_json("run.json")


def test_a_file_that_cannot_be_read_is_an_error_and_not_none(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(OSError, match=r"run\.json"):
        Output(str(tmp_path)).read_json("run.json")


def test_rows_are_gathered_to_row_groups(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = Output(str(tmp_path))
    output.create()
    batches = [map_rows(5) for _ in range(10)]
    monkeypatch.setattr("transforms.output.rows._ROW_GROUP_BYTES", 3 * batches[0].nbytes)
    commit(output, unit(), *batches)
    stored = pq.read_metadata(output.part("maps", unit()))
    assert [stored.row_group(i).num_rows for i in range(stored.num_row_groups)] == [15, 15, 15, 5]
    assert os.listdir(tmp_path / "tmp") == []
