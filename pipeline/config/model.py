"""The section `model` of the configuration: which model, and how an image becomes its input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from pipeline.config.problems import Values, refusal
from pipeline.config.section import Section
from pipeline.config.values import (
    Index,
    Modules,
    NameOrNull,
    Number,
    PathOrNull,
    Positive,
    Size,
    Switch,
    Text,
    WholeOrNull,
)


class Resize(Section):
    """How an image of any size becomes the model's input size."""

    shape: Size = Field(
        default=None,
        description="The size that the model gets, as [HEIGHT, WIDTH] or one number for both. null (the default) "
        "takes the model's own input size.",
    )
    how: Literal["stretch", "center_crop"] = Field(
        default="stretch",
        description="stretch (the default) resizes the image to the shape. center_crop resizes it so that its shorter "
        "side is short_side, and takes the shape from the centre.",
    )
    short_side: WholeOrNull = Field(
        default=None,
        description="With center_crop, the length of the shorter side before the crop. null (the default) is the "
        "larger side of the shape divided by 0.875, such as 256 for 224.",
    )
    filter: Literal["bilinear", "bicubic", "nearest", "lanczos", "box"] = Field(
        default="bilinear",
        description="The interpolation of pixels: bilinear (the default), bicubic, nearest, lanczos or box.",
    )

    @model_validator(mode="after")
    def _side_fits(self) -> Resize:
        key = "model.preprocess.resize.short_side"
        if self.short_side is not None and self.how != "center_crop":
            raise refusal(f"`{key}` is used only where `model.preprocess.resize.how` is center_crop", key)
        if self.short_side is not None and self.shape is not None and self.short_side < max(self.shape):
            raise refusal(f"`{key}` must be at least {max(self.shape)}, the longer side of the shape", key)
        return self


class Scale(Section):
    """How pixels 0…255 become what the model was trained on: (pixels / divide − mean) / std."""

    divide: Annotated[Positive, Values("a number above 0")] = Field(
        default=1.0,
        description="The number above 0 by which pixels, which are 0 to 255, are divided. The default is 1.",
    )
    mean: Annotated[
        Annotated[tuple[Number, ...], Field(min_length=1)] | None,
        Values("null or a list of numbers, one a channel, such as [0.485, 0.456, 0.406]"),
    ] = Field(
        default=None,
        description="The numbers that are then subtracted, one a channel. null (the default) subtracts nothing.",
    )
    std: Annotated[
        Annotated[tuple[Positive, ...], Field(min_length=1)] | None,
        Values("null or a list of numbers above 0, one a channel, such as [0.229, 0.224, 0.225]"),
    ] = Field(
        default=None,
        description="The numbers above 0 by which the result is divided, one a channel. null (the default) divides by "
        "nothing.",
    )

    @model_validator(mode="after")
    def _channels_agree(self) -> Scale:
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise refusal(
                "`model.preprocess.scale.mean` and `model.preprocess.scale.std` must have one number a channel each, "
                f"but have {len(self.mean)} and {len(self.std)}",
                "model.preprocess.scale.mean",
                "model.preprocess.scale.std",
            )
        return self


def _scale_tag(value: object) -> str:
    return "mapping" if isinstance(value, Mapping | Scale) else "name"


class Preprocess(Section):
    """How decoded pixels become the model's input."""

    resize: Resize = Field(default_factory=Resize, description="How an image gets the model's input size.")
    scale: Annotated[
        Annotated[Scale, Tag("mapping")] | Annotated[Text, Tag("name")],
        Discriminator(_scale_tag),
        Values(
            "auto, none, tf, torch, caffe, the name of a Keras application, or a mapping with divide, mean and std",
        ),
    ] = Field(
        default="auto",
        description="How pixels are scaled: auto (the default), none, tf, torch, caffe, the name of a Keras "
        "application, or a mapping with divide, mean and std. auto takes a Keras application's own way, and none for "
        "a model file.",
    )
    exif: Literal["ignore", "apply"] = Field(
        default="ignore",
        description="What happens with the orientation that phones and cameras write into an image's EXIF or XMP. "
        "ignore (the default) takes the pixels as they are stored, like the loaders of Keras, TensorFlow and "
        "torchvision. apply turns the image upright, for a model that was trained so.",
    )


class Model(Section):
    """The model that is explained."""

    path: PathOrNull = Field(
        default=None,
        description="The model file (.keras or .h5). null (the default) if application is given instead.",
    )
    application: NameOrNull = Field(
        default=None,
        description="The name of a model in keras.applications, such as Xception. null (the default) if path is given "
        "instead.",
    )
    weights: Annotated[Text | None, Values("imagenet or a path")] = Field(
        default=None,
        description="The weights of the application: imagenet (its default) or a file. null (the default) with path.",
    )
    output: Annotated[Text | Index | None, Values("null, an output's name or its index from 0 up")] = Field(
        default=None,
        description="The output that is explained, by name or index, if the model has several. null (the default) if "
        "it has one.",
    )
    class_names: PathOrNull = Field(
        default=None,
        description="A file with the names of the classes in the order of the logits: one name a line, perhaps "
        "numbered from 0, or a table with a header, or JSON such as Keras' imagenet_class_index.json. null (the "
        "default) takes the names from the data, if they have any.",
    )
    preprocess: Preprocess = Field(
        default_factory=Preprocess, description="How decoded pixels become the model's input."
    )
    trust: Switch = Field(
        default=False,
        description="Whether the model file may run its own code (Lambda layers, pickled objects): true or false (the "
        "default).",
    )
    custom_objects: Modules = Field(
        default=None,
        description="The Python module that defines the model file's own layers, such as mypackage.layers, or a list "
        "of modules. null (the default) is for none. Importing a module runs its code, so model.trust must be true. "
        "The module must be importable here and on every worker.",
    )

    @model_validator(mode="before")
    @classmethod
    def _own_weights(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("application") is not None and value.get("weights") is None:
            return {**value, "weights": "imagenet"}
        return value

    @model_validator(mode="after")
    def _one_model(self) -> Model:
        if self.path is None and self.application is None:
            raise refusal(
                "`model.path` or `model.application` is required: a model file, or the name of a Keras application",
                "model.path",
                "model.application",
                "model",
            )
        if self.path is not None and self.application is not None:
            raise refusal(
                "`model.path` and `model.application` are both given, where one must be left out or null",
                "model.application",
                "model.path",
            )
        if self.weights is not None and self.application is None:
            raise refusal(
                "`model.weights` is used only with `model.application`, as a model file has its own", "model.weights"
            )
        if self.custom_objects and self.path is None:
            raise refusal("`model.custom_objects` is used only with `model.path`", "model.custom_objects")
        if self.custom_objects and not self.trust:
            raise refusal(
                "`model.custom_objects` needs `model.trust` to be true, as importing a module runs its code",
                "model.custom_objects",
                "model.trust",
            )
        return self
