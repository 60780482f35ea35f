"""Reads folders of image files. Each folder is one shard; a class folder is a shard with one label."""

from __future__ import annotations

from collections.abc import Iterator

from apache_beam.io.filesystems import FileSystems

from transforms.byte_names import as_text
from transforms.sources.base import Found, Record, Source, UnreadableInput
from transforms.sources.files import LASTING_ERRORS, open_file, read_up_to
from transforms.sources.ids import id_prefix
from transforms.sources.limits import TOO_LARGE, too_large
from transforms.sources.tree import Entry, image_entries
from transforms.unit import Shard


class FolderSource(Source):
    """The records are the image files in the folder and below it. Their label is the shard's.

    They come folder by folder, and by name within a folder. The id is the file's path from the folder. A class folder's
    name comes before it: `cat/0001.jpg`, `cat/kaggle/0001.jpg`. A sub-folder that cannot be listed is a record without
      an
    image.
    """

    format = "folder"

    def check(self, shard: Shard) -> None:
        for field, name in (("image", self.fields.image), ("id", self.fields.id), ("label", self.fields.label)):
            if name:
                raise UnreadableInput(f"{shard.path} is a folder of images, which has no {name!r} for the {field}")
        if not _entries(shard):
            # A file system without folders lists nothing for a missing folder.
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
        return len(_entries(shard))

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        prefix = id_prefix(shard)
        label = None if self.fields.label == "" else shard.label
        label_name = None if label is None else "class folder"
        for index, entry in enumerate(_entries(shard)[start:stop], start):
            image_id = as_text((prefix + entry.path).rstrip("/"))
            found = self._read(f"{shard.path}/{entry.path}".rstrip("/"), entry)
            if isinstance(found, bytes):
                yield Record(index, image_id, found, label, label_name=label_name)
            else:
                kind, problem = found
                yield Record(index, image_id, None, label, problem, kind, label_name=label_name)

    def _read(self, path: str, entry: Entry) -> bytes | tuple[str, str]:
        """The file's bytes, or the kind of error and the reason."""
        if entry.kind == "unreadable":
            return "NoImage", f"the folder {path} cannot be listed: {entry.problem}"
        try:
            with open_file(path) as file:
                image = read_up_to(file, self.fields.record_bytes + 1)
                if len(image) > self.fields.record_bytes:
                    file.seek(0, 2)
                    return TOO_LARGE, too_large(path, file.tell(), self.fields.record_bytes)
        except OSError as error:
            if error.errno not in LASTING_ERRORS and not isinstance(error, FileNotFoundError):
                raise
            return "NoImage", f"{path} cannot be read: {error.strerror or error}"
        return image or ("NoImage", f"{path} is empty")


def _entries(shard: Shard) -> list[Entry]:
    try:
        return image_entries(shard.path)
    except FileNotFoundError:
        return []
