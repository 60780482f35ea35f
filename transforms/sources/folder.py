"""Folders of image files: one shard a folder, which for a folder of classes is one class."""

from __future__ import annotations

from collections.abc import Iterator

from apache_beam.io.filesystems import FileSystems

from transforms.sources.base import Found, Record, Source, UnreadableInput
from transforms.sources.files import file_name, is_image_name, list_folder, open_file
from transforms.unit import Shard


class FolderSource(Source):
    """Records are the folder's own image files, by name; the label is the shard's.

    The id is the file's name, behind its folder's where that is a class: `cat/0001.jpg`.
    """

    format = "folder"

    def check(self, shard: Shard) -> None:
        for field, name in (("image", self.fields.image), ("id", self.fields.id), ("label", self.fields.label)):
            if name:
                raise UnreadableInput(f"{shard.path} is a folder of images, which has no {name!r} for the {field}")
        if not _image_paths(shard):
            # A file system without folders lists nothing for one that is not there.
            kind = "holds no images" if FileSystems.exists(shard.path) else "is not there"
            raise UnreadableInput(f"the folder {shard.path} {kind}")

    def found(self, shard: Shard) -> Found | None:
        return Found(
            image="every file",
            id="its name",
            label=None if shard.label is None or self.fields.label == "" else "the class folder that it is in",
            there="" if self.fields.label == "" else "as the images are in no class folders",
        )

    def count(self, shard: Shard) -> int:
        return len(_image_paths(shard))

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        prefix = "" if shard.label is None else file_name(shard.path) + "/"
        label = None if self.fields.label == "" else shard.label
        for index, path in enumerate(_image_paths(shard)[start:stop], start):
            image = problem = None
            try:
                with open_file(path) as file:
                    image = file.read() or None
            except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
                problem = f"{path} cannot be read: {error.strerror or error}"
            if image is None and problem is None:
                problem = f"{path} is empty"
            yield Record(
                index, prefix + file_name(path), image, label, problem, None if label is None else "class folder"
            )


def _image_paths(shard: Shard) -> list[str]:
    return [file.path for file in list_folder(shard.path) if is_image_name(file_name(file.path))]
