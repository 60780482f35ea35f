"""Folders of images as people have them, compared with what Keras' `image_dataset_from_directory` makes of them."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import keras
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.config import Config
from pipeline.run import CannotRun, Plan, launch, prepare
from tests.samples import configuration, encoded_images
from transforms.output import Output, read_maps, read_table
from transforms.sources import Fields, LeftOut, Record, UnreadableInput, find_shards, source_for

IMAGES = [image for _, image, _ in encoded_images(16)]
CLASSES = ("ant", "bee", "cat")


def _put(root: pathlib.Path, *names: str) -> pathlib.Path:
    """Writes an image under each name."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(IMAGES[i % len(IMAGES)])
    return root


def _records(root: pathlib.Path | str, outputs: int | None = None, left_out: LeftOut | None = None) -> list[Record]:
    source = source_for("folder", Fields())
    shards = find_shards(str(root), outputs=outputs, left_out=left_out)
    records = [record for shard in shards for record in source.read(shard)]
    assert [source.count(shard) for shard in shards] == [shard.size for shard in shards]
    assert len({record.image_id for record in records}) == len(records)
    return records


def _as_keras_does(root: pathlib.Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Keras' class names, and its files with their labels in its order."""
    dataset = keras.utils.image_dataset_from_directory(
        root, shuffle=False, follow_links=True, image_size=(8, 8), batch_size=None, verbose=False
    )
    labels = [int(label) for _, label in dataset]
    files = [os.path.relpath(path, root) for path in dataset.file_paths]
    return dataset.class_names, list(zip(files, labels, strict=True))


def _assert_as_keras_does(root: pathlib.Path, classes: int) -> None:
    class_names, files = _as_keras_does(root)
    assert len(class_names) == classes
    records = _records(root, outputs=classes)
    assert [(record.image_id, record.label) for record in records] == files
    assert all(record.image == (root / record.image_id).read_bytes() for record in records)


def test_class_folders_that_are_links_are_followed(tmp_path: pathlib.Path) -> None:
    """huggingface/datasets#6853: images that are curated by links, to files and to folders."""
    store = _put(tmp_path / "store", "a/1.png", "a/2.png", "b/3.png", "b/4.png")
    root = _put(tmp_path / "root", "ant/1.png", "ant/2.png", "ant/3.png", "ant/4.png")
    (root / "bee").symlink_to(store / "a")
    (root / "cat").symlink_to(store / "b")
    (root / "ant" / "5.png").symlink_to(store / "a" / "1.png")
    _assert_as_keras_does(root, 3)
    assert len(_records(root)) == 9


def test_folders_below_class_folders_belong_to_the_class(tmp_path: pathlib.Path) -> None:
    """keras-team/keras#4657: photographs from several sources, each in a folder of its own, linked or not."""
    elsewhere = _put(tmp_path / "external-disk", "x.png", "deeper/y.png")
    root = _put(
        tmp_path / "root",
        *(f"cats/{i}.png" for i in range(4)),
        *(f"cats/from-kaggle/{i}.png" for i in range(3)),
        "cats/from-kaggle/more/0.png",
        "cats-and-dogs/0.png",
        "dogs/archive/1/a.png",
        "dogs/archive/2/a.png",
    )
    (root / "dogs" / "external-disk").symlink_to(elsewhere)
    _assert_as_keras_does(root, 3)
    ids = [record.image_id for record in _records(root)]
    assert "cats/from-kaggle/more/0.png" in ids
    assert "dogs/external-disk/deeper/y.png" in ids
    assert len(ids) == 13


def test_the_same_folder_linked_twice_is_two_classes(tmp_path: pathlib.Path) -> None:
    store = _put(tmp_path / "store", "1.png", "2.png")
    root = _put(tmp_path / "root", "ant/own.png")
    for name in ("bee", "cat", "ant/more"):
        (root / name).symlink_to(store)
    _assert_as_keras_does(root, 3)


def test_a_link_back_to_a_folder_above_ends(tmp_path: pathlib.Path) -> None:
    root = _put(tmp_path / "root", "ant/1.png", "bee/2.png", "bee/deep/3.png")
    (root / "bee" / "deep" / "loop").symlink_to(root / "bee")
    (root / "ant" / "self").symlink_to(".")
    (root / "around").symlink_to(root)
    (root / "ant" / "itself.png").symlink_to("itself.png")
    left_out = LeftOut()
    records = _records(root, 2, left_out)
    assert [record.image_id for record in records if record.image] == ["ant/1.png", "bee/2.png", "bee/deep/3.png"]
    assert "3 links to a folder above it (such as " in str(left_out)
    assert [record.problem for record in records if not record.image] == [
        f"{root}/ant/itself.png cannot be read: Too many levels of symbolic links"
    ]


def test_a_link_to_an_image_that_is_gone_is_an_error(tmp_path: pathlib.Path) -> None:
    root = _put(tmp_path / "root", "ant/1.png", "bee/2.png")
    (root / "bee" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "ghost").symlink_to(tmp_path / "nowhere")
    left_out = LeftOut()
    records = _records(root, 2, left_out)
    assert [record.problem for record in records][2] == f"{root}/bee/gone.png cannot be read: No such file or directory"
    assert "1 link that leads nowhere" in str(left_out)


def test_a_class_without_images_keeps_its_place_where_the_model_has_it(tmp_path: pathlib.Path) -> None:
    """A subset of the images in which one class has none: Keras numbers all folders."""
    root = _put(tmp_path / "root", "ant/1.png", "cat/2.png")
    (root / "bee").mkdir()
    _assert_as_keras_does(root, 3)
    assert [record.label for record in _records(root, 3)] == [0, 2]
    assert [record.label for record in _records(root, 2)] == [0, 1], "of a model that was trained without it"


def test_the_order_of_classes_is_that_of_their_names(tmp_path: pathlib.Path) -> None:
    names = ("10", "9", "B", "a", "Ä", "a-b", "a_b", "a b", "class.v2", "x.png")
    _assert_as_keras_does(_put(tmp_path / "root", *(f"{name}/1.png" for name in names)), len(names))


@pytest.mark.quick_cases(every=14)
@pytest.mark.parametrize(
    "extension", ["jfif", "jpe", "jif", "JPG", "Jpeg", "avif", "jp2", "j2k", "tif", "webp", "ppm", "pgm", "dib", "apng"]
)
def test_every_extension_that_pillow_reads_is_an_image(tmp_path: pathlib.Path, extension: str) -> None:
    kinds = {"avif": "AVIF", "jp2": "JPEG2000", "j2k": "JPEG2000", "tif": "TIFF", "webp": "WEBP", "apng": "PNG"}
    kind = kinds.get(extension, {"p": "PPM", "d": "BMP"}.get(extension[0], "JPEG"))
    image = Image.open(io.BytesIO(IMAGES[0]))
    root = _put(tmp_path / "root", "0.png")
    image.convert("L" if extension == "pgm" else "RGB").save(root / f"1.{extension}", kind)
    value = configuration(tmp_path, str(root))
    summary = launch(prepare(Config.from_dict(value)))
    assert (summary.images, summary.failed) == (2, 0)


def test_an_image_that_cannot_be_decoded_is_an_error_row(tmp_path: pathlib.Path) -> None:
    """python-pillow/Pillow#2806: phones write HEIC, which Pillow does not read by itself."""
    root = _put(tmp_path / "root", "ant/1.png", "bee/2.png", "cat/3.png")
    (root / "ant" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    (root / "ant" / "drawing.svg").write_text("<svg/>")
    (root / "ant" / "IMG_2.dng").write_bytes(b"II*\0" + bytes(8))
    value = configuration(tmp_path, str(root))
    summary = launch(prepare(Config.from_dict(value)))
    assert (summary.images, summary.failures) == (3, {"UndecodableImage": 3})
    output = Output(value["output"]["path"])
    errors = [row for receipt in output.read_receipts() if receipt.failed for row in _errors(output, receipt.unit)]
    assert {row["image_id"] for row in errors} == {"ant/IMG_1.HEIC", "ant/drawing.svg", "ant/IMG_2.dng"}
    assert any("HEIC" in row["message"] and "convert" in row["message"] for row in errors)


def _errors(output: Output, unit):  # type: ignore[no-untyped-def]
    return read_table(output.part("errors", unit)).to_pylist()


def test_what_other_programs_leave_beside_images_is_left_out_and_said(tmp_path: pathlib.Path) -> None:
    """open-mmlab/mmpretrain#507: a notebook's hidden folder was taken for a class. pytorch/vision#79: .DS_Store."""
    root = _put(
        tmp_path / "root",
        *("ant/1.png", "bee/2.png", ".ipynb_checkpoints/1.png", "ant/.ipynb_checkpoints/1-checkpoint.png"),
        *("__MACOSX/ant/._1.png", "ant/._1.png", "bee/@eaDir/2.png/SYNOPHOTO_THUMB_M.jpg"),
    )
    for name in (".DS_Store", "bee/Thumbs.db", "ant/labels.txt", "bee/labels.TXT", "ant/README"):
        (root / name).write_bytes(b"x")
    (root / "empty").mkdir()
    os.mkfifo(root / "ant" / "pipe.png")
    left_out = LeftOut()
    records = _records(root, 2, left_out)
    assert [(record.image_id, record.label) for record in records] == [("ant/1.png", 0), ("bee/2.png", 1)]
    said = str(left_out)
    for part in (
        "4 hidden folders (such as ",
        "2 hidden files (such as ",
        "2 .txt files (such as ",
        f"1 .db file ({root}/bee/Thumbs.db)",
        f"1 file without an extension ({root}/ant/README)",
        f"1 folder without images ({root}/empty)",
        f"1 special file ({root}/ant/pipe.png)",
    ):
        assert part in said
    value = configuration(tmp_path, str(root), input={"fields": {"label": ""}})
    assert prepare(Config.from_dict({**value, "input": {**value["input"], "shards": str(root)}})).left_out == said


@pytest.fixture
def open_path() -> Iterator[pathlib.Path]:
    """A temporary folder that every user of the machine may enter, as pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield pathlib.Path(name)


@contextlib.contextmanager
def _as_nobody() -> Iterator[None]:
    """Gives up root's right to read everything, where a test has it."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_folder_that_may_not_be_entered_is_an_error_row(open_path: pathlib.Path) -> None:
    root = _put(open_path / "root", "ant/1.png", "ant/secret/2.png", "bee/3.png", "cat/4.png")
    (root / "bee" / "3.png").chmod(0)
    for name in ("ant/secret", "cat"):
        (root / name).chmod(0)
    with _as_nobody():
        records = _records(root, 3)
    for name in ("ant/secret", "cat"):
        (root / name).chmod(0o755)
    assert [(record.image_id, record.problem) for record in records] == [
        ("ant/1.png", None),
        ("ant/secret", f"the folder {root}/ant/secret cannot be listed: permission denied"),
        ("bee/3.png", f"{root}/bee/3.png cannot be read: Permission denied"),
        ("cat", f"the folder {root}/cat cannot be listed: permission denied"),
    ]


def test_a_folder_called_as_an_image_is_a_folder(tmp_path: pathlib.Path) -> None:
    root = _put(tmp_path / "root", "ant/1.png", "ant/frames.png/2.png", "bee/3.png")
    (root / "bee" / "empty.jpg").mkdir()
    _assert_as_keras_does(root, 2)


def test_a_flat_folder_may_have_folders_without_images(tmp_path: pathlib.Path) -> None:
    root = _put(tmp_path / "root", "1.png", "2.png")
    (root / "notes").mkdir()
    (root / "notes" / "x.txt").touch()
    assert [(record.image_id, record.label) for record in _records(root, 3)] == [("1.png", None), ("2.png", None)]


def test_images_beside_class_folders_are_refused_or_taken_without_labels(tmp_path: pathlib.Path) -> None:
    root = _put(tmp_path / "root", "montage.png", "ant/1.png", "bee/x/2.png")
    with pytest.raises(UnreadableInput, match=r"1 images itself and others in 2 sub-folders; .*label to ''"):
        find_shards(str(root), outputs=2)
    value = configuration(tmp_path, str(root), input={"fields": {"label": ""}})
    value["input"]["shards"] = str(root)
    launch(prepare(Config.from_dict(value)))
    rows = list(read_maps(value["output"]["path"]))
    assert {row["image_id"]: row["label"] for row in rows} == dict.fromkeys(["ant/1.png", "bee/x/2.png", "montage.png"])


def _planned(value: dict, root: pathlib.Path) -> Plan:  # type: ignore[type-arg]
    return prepare(Config.from_dict({**value, "input": {**value["input"], "shards": str(root)}}))


@pytest.mark.slow
def test_images_are_not_explained_twice_when_folders_change_their_shape(tmp_path: pathlib.Path) -> None:
    root = _put(tmp_path / "root", "ant/1.png", "bee/2.png")
    value = configuration(tmp_path, str(root), input={"fields": {"label": ""}})
    launch(_planned(value, root))
    _put(root, "montage.png")
    with pytest.raises(CannotRun, match=r"root is to be read as a folder of images, some of which were explained as"):
        _planned(value, root)
    (root / "montage.png").unlink()
    assert _planned(value, root).units == []


def test_a_whole_run_on_a_glob_of_class_folders(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _put(tmp_path / "f", *(f"{name}/{i}.png" for name in CLASSES for i in range(4)), "cat/kaggle/0.png")
    (root / "ant" / "notes.txt").touch()
    shutil.move(root / "bee", tmp_path / "bees")
    (root / "bee").symlink_to(tmp_path / "bees")
    value = configuration(tmp_path, str(root))
    path = tmp_path / "run.yaml"
    path.write_text(
        f"input: {{shards: {root}/*}}\nmodel: {{path: {value['model']['path']}}}\n"
        f"output: {{path: {tmp_path / 'glob'}}}\n"
    )
    assert main(["run", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "13 images in all" in printed
    assert f"left out: 1 .txt file ({root}/ant/notes.txt)" in printed
    rows = list(read_maps(str(tmp_path / "glob")))
    assert {row["image_id"]: row["label"] for row in rows} == {
        record.image_id: record.label for record in _records(root, 3)
    }
