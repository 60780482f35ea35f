"""Lists class folders and finds the class of each one."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from transforms.byte_names import as_text
from transforms.labels import places_of
from transforms.sources.base import UnreadableInput, listed
from transforms.sources.files import file_name
from transforms.sources.tree import LeftOut, walk

# Names of folders for parts of a dataset. Each contains class folders.
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


def is_split(name: str) -> bool:
    """Whether a folder has the name of a part of a dataset, such as `train`."""
    return name.lower() in _SPLITS


@dataclasses.dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a folder.

    Attributes:
      own: the number of images in the folder itself.
      below: the number of images below each sub-folder, by the sub-folder's name.
      inner: the names of the folders with images in each sub-folder, by the sub-folder's name.
      left_out: what is not an image.
    """

    own: int
    below: Mapping[str, int]
    inner: Mapping[str, set[str]]
    left_out: LeftOut

    @classmethod
    def of(cls, folder: str) -> Contents:
        own = 0
        below: dict[str, int] = {}
        inner: dict[str, set[str]] = {}
        left_out = LeftOut()
        for entry in walk(folder, left_out):
            first, _, rest = entry.path.partition("/")
            if entry.kind == "image" and not rest:
                own += 1
                continue
            below.setdefault(first, 0)
            if entry.kind != "folder":
                below[first] += 1
                if "/" in rest:
                    inner.setdefault(first, set()).add(rest.partition("/")[0])
        for name, count in below.items():
            if not count:
                left_out.add("folder without images", name)
        return cls(own, below, inner, left_out)

    @property
    def with_images(self) -> list[str]:
        """The names of the sub-folders with images at any depth."""
        return [name for name, count in self.below.items() if count]

    @property
    def nested(self) -> int:
        """The number of images in all sub-folders."""
        return sum(self.below.values())


class ClassFolders:
    """Class folders from one or several parent folders. A folder's name is its class."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # of folders with images, by path
        self._all_names: set[str] = set()
        self._inner: dict[str, Collection[str]] = {}

    def add(self, path: str, images: int, inner: Collection[str]) -> None:
        """Adds a folder with its number of images, which may be 0, and the names of the folders in it."""
        name = as_text(file_name(path))
        self._all_names.add(name)
        if images:
            self._names[path] = name
            self._inner[path] = inner

    def labels(self, class_names: Sequence[str | None] | None, outputs: int | None) -> dict[str, int]:
        """The class indices of the folders with images, by path.

        If all these folders are among the class names, each gets the index of its name. Otherwise each gets its place
        in alphanumeric order, as in Keras' `image_dataset_from_directory`. The order is that of all folders, also those
        without images, if there are as many as classes; else it is that of the folders with images.

        Args:
          class_names: the names of the model's classes; None if there are none or labels are not wanted.
          outputs: the model's number of classes; None if it does not matter.

        Raises:
          UnreadableInput: the class of a folder cannot be determined.
        """
        names = sorted(set(self._names.values()))
        by_name = places_of(class_names or ())
        if shared := [name for name in names if len(by_name.get(name, ())) > 1]:
            raise UnreadableInput(
                f"each of the class folders {listed(shared)} has the name of several classes in model.class_names; "
                "give every class a name of its own there, or set input.fields.label to '' to go without labels"
            )
        places = {name: first for name, (first, *_) in by_name.items()}
        unknown = [name for name in names if name not in places]
        if unknown:
            if class_names and len(unknown) < len(names):
                # Numbering the folders in sorted order could contradict the class names that do match.
                raise UnreadableInput(
                    f"the class folders {listed(unknown)} are not among the model.class_names, while others are; "
                    "rename them, or set input.fields.label to '' to go without labels"
                )
            if outputs is not None:
                self._check_level(names, places, outputs)
            ordered = sorted(self._all_names) if outputs in (None, len(self._all_names)) else names
            places = {name: place for place, name in enumerate(ordered)}
        return {path: places[name] for path, name in self._names.items()}

    def _check_level(self, names: Sequence[str], class_names: Collection[str | None], outputs: int) -> None:
        """Refuses folders that cannot be the classes: too many, too few, or the classes are the folders inside them.

        Raises:
          UnreadableInput: the folders are refused; the message says what would be right.
        """
        deeper = set().union(*self._inner.values())
        instead = f"give {listed(sorted(self._inner))} instead, one or all of them"
        if deeper and deeper <= set(class_names):
            raise UnreadableInput(
                f"the folders {listed(names)} are not among the model.class_names, but those in them are; {instead}"
            )
        if all(map(is_split, names)):
            raise UnreadableInput(
                f"the folders {listed(names)} are called as parts of a dataset are, not as classes; {instead}, or "
                "set input.fields.label to '' to go without labels"
            )
        if outputs not in (len(names), len(self._all_names)):
            hint = f", or {instead}, as there are {len(deeper)} folders in them" if len(deeper) == outputs else ""
            raise UnreadableInput(
                f"there are {len(names)} class folders ({listed(names)}) but the model has {outputs} classes; give "
                "model.class_names in which these folders' names are, or set input.fields.label to '' to go without "
                f"labels{hint}"
            )
