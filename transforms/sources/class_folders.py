"""Folders of classes: what is in them, and which class each one is."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from transforms.labels import places_of
from transforms.sources.base import UnreadableInput, listed
from transforms.sources.files import file_name
from transforms.sources.tree import LeftOut, walk

# Parts of a dataset, each with folders of classes in it.
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


def is_split(name: str) -> bool:
    """Whether a folder is called as a part of a dataset is, such as `train`."""
    return name.lower() in _SPLITS


@dataclasses.dataclass(frozen=True, slots=True)
class Contents:
    """What is in a folder.

    Attributes:
      own: how many images are in the folder itself.
      below: how many are below each of its sub-folders, by the sub-folder's name.
      inner: the names of the folders in a sub-folder that have images, by the sub-folder's name.
      left_out: what is no image.
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
        """The names of the sub-folders that have images in them or below."""
        return [name for name, count in self.below.items() if count]

    @property
    def nested(self) -> int:
        """How many images there are in sub-folders."""
        return sum(self.below.values())


class ClassFolders:
    """Folders that are classes by their names, from one or several places."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # of folders with images, by path
        self._all_names: set[str] = set()
        self._inner: dict[str, Collection[str]] = {}

    def add(self, path: str, images: int, inner: Collection[str]) -> None:
        """Adds a folder, with images or without, and the names of the folders in it."""
        name = file_name(path)
        self._all_names.add(name)
        if images:
            self._names[path] = name
            self._inner[path] = inner

    def labels(self, class_names: Sequence[str] | None, outputs: int | None) -> dict[str, int]:
        """Class indices of the folders with images, by path.

        Where all of these are among the class names, those say which class each one is. Otherwise it is the place in
        alphanumeric order, as in Keras' `image_dataset_from_directory`: of all folders, also those without images,
        where there are as many as classes; else of those with images.

        Args:
          class_names: of the model's outputs; None where they have none, or labels are not wanted.
          outputs: how many classes the model has; None where that does not matter.

        Raises:
          UnreadableInput: there is no telling which class a folder is.
        """
        names = sorted(set(self._names.values()))
        by_name = places_of(class_names or ())
        if shared := [name for name in names if len(by_name.get(name, ())) > 1]:
            raise UnreadableInput(
                f"the class folders {listed(shared)} are called as several classes are in model.class_names each; give "
                "every class a name of its own there, or set input.fields.label to '' to go without labels"
            )
        places = {name: first for name, (first, *_) in by_name.items()}
        unknown = [name for name in names if name not in places]
        if unknown:
            if class_names and len(unknown) < len(names):
                # Counting would label the others by their sorted order, which need not be that of the class names.
                raise UnreadableInput(
                    f"the class folders {listed(unknown)} are not among the model.class_names, while others are; "
                    "rename them, or set input.fields.label to '' to go without labels"
                )
            if outputs is not None:
                self._check_level(names, places, outputs)
            ordered = sorted(self._all_names) if outputs in (None, len(self._all_names)) else names
            places = {name: place for place, name in enumerate(ordered)}
        return {path: places[name] for path, name in self._names.items()}

    def _check_level(self, names: Sequence[str], class_names: Collection[str], outputs: int) -> None:
        """Refuses folders that are not the classes, as they are too many or too few, or as the folders in them are.

        Raises:
          UnreadableInput: what would be right instead.
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
