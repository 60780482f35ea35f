"""Finds and loads the models of `keras.applications`."""

from __future__ import annotations

import warnings
from typing import Any

from transforms.images.preprocess import application_family
from transforms.models.errors import UnusableModel, first_line
from transforms.models.files import LocalFile


def application_name(name: str) -> str:
    """The application's name as `keras.applications` spells it.

    Raises:
      UnusableModel: there is no such application; the message gives the nearest name, or the members of a family.
    """
    import keras

    known = {each.lower(): each for each in dir(keras.applications) if each[0].isupper()}
    if name.lower() not in known:
        try:
            family = application_family(name)
        except ValueError as error:  # it gives the nearest name
            raise UnusableModel(f"model.{error}") from error
        members = ", ".join(known[each] for each in known if application_family(each) == family)
        raise UnusableModel(f"model.application is {name!r}, which is a family; choose one of {members}")
    return known[name.lower()]


def load_application(application: str, weights: str | None, class_names: tuple[str | None, ...] | None) -> Any:
    """Builds a model of `keras.applications` with its weights.

    Args:
      application: its name, in any case.
      weights: `imagenet`, the default, or a file.
      class_names: the classes' names, which say how many classes a file's weights are for; 1000 without them.

    Raises:
      UnusableModel: there is no such application, or the weights cannot be had or do not fit it.
    """
    import keras

    name = application_name(application)
    build = getattr(keras.applications, name)
    weights = weights or "imagenet"
    if weights == "imagenet":
        try:
            return build(weights="imagenet")
        except Exception as error:  # Keras raises a plain Exception if the download fails
            raise UnusableModel(
                f"model.weights: Keras' weights of {name} cannot be had ({first_line(error)}); "
                "model.weights may also be a file"
            ) from error
    classes = 1000 if class_names is None else len(class_names)
    # Keras warns about layers that get no weights. If such a layer has weights, Keras also raises.
    with LocalFile(weights, "model.weights") as local, warnings.catch_warnings(action="ignore"):
        try:
            return build(weights=local, classes=classes)
        except Exception as error:
            raise UnusableModel(
                f"model.weights: {weights} does not fit {name} with {classes} classes, as many as "
                f"model.class_names has or else 1000 ({first_line(error)})"
            ) from error
