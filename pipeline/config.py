"""The configuration: what a run is told, in one YAML file, validated before anything is loaded.

`load_config` reads a file and the command line's `--set KEY=VALUE`; what is wrong comes back as a `ConfigError`, one
sentence that names the file, the key and what would be right. The classes below are the schema: a class is a section,
a field is a key, and its description is the key's documentation, in `describe_keys` as here.

Relative paths are relative to the directory in which the command is started, not to the configuration file.
"""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic.fields import FieldInfo

from pipeline.problems import (
    ConfigError,
    Values,
    enumerated,
    is_leaf,
    keys_of,
    problems_of,
    refusal,
    show,
    takes_mapping,
)
from pipeline.values import (
    AcceleratorOrNull,
    Index,
    Modules,
    NameOrNull,
    Number,
    OnOff,
    Path,
    PathOrNull,
    Paths,
    Positive,
    RunnerName,
    RunnerOptions,
    Size,
    Switch,
    TargetsSetting,
    Text,
    Whole,
    WholeOrAuto,
    WholeOrNull,
)
from pipeline.yaml_settings import Source, apply_override, parse_override, read_yaml
from transforms.methods import DEFAULTS, METHODS, NOISE_LEVEL, SAMPLES, misplaced, takers
from transforms.targets import Targets

# What an output was made with whose identity does not have the key: from before there was such a key, or now with the
# same value, so that it can be gone on with.
DEFAULT_IDENTITY = {"model.preprocess.exif": "apply"}


class _Section(BaseModel):
    """A mapping with known keys. An empty one, which YAML reads as null, leaves every key at its default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        return {} if value is None else value


class Fields(_Section):
    """The names of a record's features or columns."""

    image: NameOrNull = Field(
        default=None,
        description="The feature or column that holds the encoded image, or null (the default) for the format's own "
        "name (image/encoded in TFRecord).",
    )
    id: NameOrNull = Field(
        default=None,
        description="The one that names the image, or null (the default) for the format's own name (image/filename in "
        "TFRecord); an image without one is named by its shard and index.",
    )
    label: Annotated[str | None, Values('null, a name, or "" for no labels')] = Field(
        default=None,
        description="The one that holds the class: its index, its name or a one-hot list; or null (the default) for "
        'the first of the usual names (image/class/label, label, target, …; cls in tars), or "" to use no labels.',
    )


class Input(_Section):
    """What is read."""

    shards: Paths = Field(
        description="The image shards (required): a path, a pattern such as data/*.tfrecord, or a list of them, on any "
        "file system that Beam knows (gs://, s3://, hdfs://).",
    )
    format: Literal["auto", "tfrecord", "webdataset", "parquet", "folder"] = Field(
        default="auto",
        description="The shards' format: tfrecord, webdataset, parquet, folder, or auto (the default), which tells by "
        "the name.",
    )
    fields: Fields = Field(
        default_factory=Fields,
        description="The names of a record's features or columns, where they are not the format's own.",
    )
    limit: WholeOrNull = Field(
        default=None, description="Explain only the first so many images, or null (the default) for all of them."
    )
    images_per_unit: WholeOrAuto = Field(
        default="auto",
        description="How many images are computed, committed and retried as one, where a shard holds more: a whole "
        "number, or auto (the default), which is at most 2,048, shared out evenly. With auto and without a limit, a "
        "TFRecord or tar on another than the local file system stays whole, as counting its images means to read it.",
    )


class Resize(_Section):
    """From an image of any size to the model's input."""

    shape: Size = Field(
        default=None,
        description="The size that the model gets, as [HEIGHT, WIDTH] or one number for both, or null (the default) "
        "for the model's own input size.",
    )
    how: Literal["stretch", "center_crop"] = Field(
        default="stretch",
        description="Either stretch (the default), which resizes the image to the shape, or center_crop, which "
        "resizes it so that its shorter side is short_side and takes the shape from the centre.",
    )
    short_side: WholeOrNull = Field(
        default=None,
        description="With center_crop, the length of the shorter side before the crop, or null (the default) for the "
        "shape's larger side over 0.875, such as 256 for 224.",
    )
    filter: Literal["bilinear", "bicubic", "nearest", "lanczos", "box"] = Field(
        default="bilinear",
        description="How pixels are interpolated: bilinear (the default), bicubic, nearest, lanczos or box.",
    )

    @model_validator(mode="after")
    def _side_fits(self) -> Resize:
        key = "model.preprocess.resize.short_side"
        if self.short_side is not None and self.how != "center_crop":
            raise refusal(f"`{key}` is used only where `model.preprocess.resize.how` is center_crop", key)
        if self.short_side is not None and self.shape is not None and self.short_side < max(self.shape):
            raise refusal(f"`{key}` must be at least {max(self.shape)}, the longer side of the shape", key)
        return self


class Scale(_Section):
    """From 0…255 to what the model was trained on: (pixels / divide − mean) / std."""

    divide: Annotated[Positive, Values("a number above 0")] = Field(
        default=1.0, description="Pixels, which are 0 to 255, are divided by this number above 0; the default is 1."
    )
    mean: Annotated[
        Annotated[tuple[Number, ...], Field(min_length=1)] | None,
        Values("null or a list of numbers, one a channel, such as [0.485, 0.456, 0.406]"),
    ] = Field(
        default=None, description="Then this is subtracted: one number a channel, or null (the default) for nothing."
    )
    std: Annotated[
        Annotated[tuple[Positive, ...], Field(min_length=1)] | None,
        Values("null or a list of numbers above 0, one a channel, such as [0.229, 0.224, 0.225]"),
    ] = Field(
        default=None,
        description="Then it is divided by this: one number above 0 a channel, or null (the default) for 1.",
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


class Preprocess(_Section):
    """From decoded pixels to what the model takes."""

    resize: Resize = Field(default_factory=Resize, description="How an image gets the model's input size.")
    scale: Annotated[
        Annotated[Scale, Tag("mapping")] | Annotated[Text, Tag("name")],
        Discriminator(_scale_tag),
        Values(
            "auto, none, tf, torch, caffe, the name of a Keras application, or a mapping with divide, mean and std",
        ),
    ] = Field(
        default="auto",
        description="How pixels are scaled: auto (the default; a Keras application's own way, and none for a model "
        "file), none, tf, torch, caffe, the name of a Keras application, or a mapping with divide, mean and std.",
    )
    exif: Literal["ignore", "apply"] = Field(
        default="ignore",
        description="What becomes of an orientation in an image's EXIF or XMP, as phones and cameras write it: ignore "
        "(the default), which takes the pixels as they are stored, as the loaders of Keras, TensorFlow and torchvision "
        "do, or apply, which turns the image upright, for a model whose training did so.",
    )


class Model(_Section):
    """What is explained."""

    path: PathOrNull = Field(
        default=None,
        description="The model file (.keras or .h5); null (the default) where application is given instead.",
    )
    application: NameOrNull = Field(
        default=None,
        description="A model of keras.applications by its name, such as Xception; null (the default) where path is "
        "given instead.",
    )
    weights: Annotated[Text | None, Values("imagenet or a path")] = Field(
        default=None,
        description="The application's weights: imagenet (its default) or a file; null (the default) with path.",
    )
    output: Annotated[Text | Index | None, Values("null, an output's name or its index from 0 up")] = Field(
        default=None,
        description="Which output of a model with several is explained, by name or index; null (the default) where "
        "there is one.",
    )
    class_names: PathOrNull = Field(
        default=None,
        description="A file that names the classes in the order of the logits, or null (the default): one name a line, "
        "also numbered from 0, or a table with a header, or JSON such as Keras' imagenet_class_index.json.",
    )
    preprocess: Preprocess = Field(
        default_factory=Preprocess, description="From decoded pixels to what the model takes."
    )
    trust: Switch = Field(
        default=False,
        description="Whether the model file may run code of its own (Lambda layers, pickled objects): true or false "
        "(the default).",
    )
    custom_objects: Modules = Field(
        default=None,
        description="The Python module that defines the model file's own layers, such as mypackage.layers, or a list "
        "of modules, or null (the default) for none. Importing a module runs its code, so model.trust must be true. "
        "It must be importable here and on every worker.",
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


class Explain(_Section):
    """How it is explained."""

    method: Literal[
        "fullgrad", "gradients", "input_x_gradient", "smoothgrad", "simple_fullgrad", "smooth_fullgrad", "grad_cam"
    ] = Field(
        default="fullgrad",
        description="The method: fullgrad (the default), gradients, input_x_gradient, smoothgrad, simple_fullgrad, "
        "smooth_fullgrad or grad_cam; only fullgrad adds up to the logit.",
    )
    maps: Literal["reference", "channelwise", "signed"] = Field(
        default="reference",
        description="How a map is made of the terms: reference (the default), as the paper's authors do; channelwise, "
        "rescaled per channel; signed, without absolute values, so that the map sums to the logit. The last two are "
        "taken by fullgrad and smooth_fullgrad, signed also by input_x_gradient.",
    )
    biases: Literal["all", "explicit"] = Field(
        default="all",
        description="Which biases have a term: all (the default), with the implicit ones of activations such as SiLU, "
        "or explicit, only those of layers; taken by fullgrad and smooth_fullgrad.",
    )
    targets: TargetsSetting = Field(
        default=Targets(),
        description="The classes explained for each image: predicted (the default), label, top-K such as top-3, or a "
        "list of class indices.",
    )
    contrast: Literal["none", "runner_up"] = Field(
        default="none",
        description="Explain the class's logit as it is, none (the default), or minus the largest other one, "
        "runner_up.",
    )
    samples: Annotated[Whole, Values("a whole number from 1 up")] = Field(
        default=SAMPLES,
        description="How many noisy copies of an image smoothgrad and smooth_fullgrad average over, from 1 up; the "
        f"default is {SAMPLES}.",
    )
    noise_level: Annotated[Positive, Values("a number above 0")] = Field(
        default=NOISE_LEVEL,
        description="The standard deviation of smoothgrad's and smooth_fullgrad's noise, over the range of the image's "
        f"values as the model gets them; the default is {NOISE_LEVEL:g}.",
    )
    seed: Annotated[Index, Values("a whole number from 0 up")] = Field(
        default=0,
        description="The seed of smoothgrad's and smooth_fullgrad's noise, which depends on it and the image alone; "
        "the default is 0.",
    )
    batch_size: WholeOrAuto = Field(
        default="auto",
        description="How many images are computed at once, a whole number or auto (the default): by the model's "
        "activations and the memory at hand, of which a process takes a quarter, at most 128 on CPUs and 512 on "
        "accelerators; halved where memory does not suffice.",
    )
    jit: OnOff = Field(default="auto", description="Whether XLA compiles the model: on, off or auto (the default).")

    @model_validator(mode="after")
    def _method_takes_options(self) -> Explain:
        name = misplaced(self.method, {name: getattr(self, name) for name in DEFAULTS})
        if name is None:
            return self
        value = getattr(self, name)
        raise refusal(
            f"`explain.{name}` is {show(value)}, which is used only where `explain.method` is "
            f"{enumerated(takers(name, value), 'or')}, not {self.method}",
            f"explain.{name}",
            "explain.method",
        )


class Output(_Section):
    """What is written."""

    path: Path = Field(
        description="The folder that is written (required), on any file system that Beam knows; a run that is started "
        "again goes on there.",
    )
    map_size: Size = Field(
        default=None,
        description="The size of the stored maps, as [HEIGHT, WIDTH] or one number for both, or null (the default) for "
        "the model's input size.",
    )
    map_dtype: Literal["float16", "float32", "uint8", "none"] = Field(
        default="float16",
        description="The type of the stored maps' values: float16 (the default), float32, uint8 (scaled for each map), "
        "or none, which stores their figures only.",
    )
    grid: Annotated[int, Field(strict=True, ge=4, le=512), Values("a whole number from 4 to 512")] = Field(
        default=56, description="Height and width of the class statistics' maps, from 4 to 512; the default is 56."
    )


class Errors(_Section):
    """What is tolerated."""

    max_fraction: Annotated[
        float, Field(strict=True, allow_inf_nan=False, ge=0, le=1), Values("a number from 0 to 1")
    ] = Field(
        default=0.01,
        description="The fraction of images that may fail before the command reports failure, from 0 to 1; the default "
        "is 0.01.",
    )


class Runner(_Section):
    """Where it runs."""

    name: RunnerName = Field(
        default="direct",
        description="Beam's runner: direct (the default; this machine), FlinkRunner, SparkRunner, DataflowRunner or "
        "PrismRunner.",
    )
    options: RunnerOptions = Field(
        default_factory=dict,
        description="Options handed to Beam, as a mapping from name to text, number, true, false or a list, such as "
        "{direct_num_workers: 4}; null leaves one out; the default is {}.",
    )
    accelerator: AcceleratorOrNull = Field(
        default=None,
        description="With DataflowRunner, the accelerator of the workers that explain, and of no others, as a hint "
        "such as type:nvidia-tesla-t4;count:1;install-nvidia-driver, or null (the default) for none.",
    )

    @model_validator(mode="after")
    def _runner_takes_hints(self) -> Runner:
        # Others do not act on it: they would only start one more worker, for the step that has it.
        key = "runner.accelerator"
        if self.accelerator is not None and self.name != "DataflowRunner":
            raise refusal(
                f"`{key}` is used only where `runner.name` is DataflowRunner, not {self.name}", key, "runner.name"
            )
        return self


class Config(_Section):
    """All that a run is told."""

    input: Input = Field(description="What is read.")
    model: Model = Field(description="What is explained.")
    explain: Explain = Field(default_factory=Explain, description="How it is explained.")
    output: Output = Field(description="What is written.")
    errors: Errors = Field(default_factory=Errors, description="What is tolerated.")
    runner: Runner = Field(default_factory=Runner, description="Where it runs.")

    @model_validator(mode="before")
    @classmethod
    def _absent_is_empty(cls, value: Any) -> Any:
        """A required section that is absent is reported by the keys it lacks."""
        if not isinstance(value, Mapping):
            return value
        return {**{name: None for name, field in cls.model_fields.items() if field.is_required()}, **value}

    @model_validator(mode="after")
    def _labels_for_targets(self) -> Config:
        if self.explain.targets.kind == "label" and self.input.fields.label == "":
            raise refusal(
                '`explain.targets` is label, but `input.fields.label` is "", which means to use no labels',
                "explain.targets",
                "input.fields.label",
            )
        return self

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Config:
        """The configuration from plain values, such as `to_dict` gives.

        Raises:
          ConfigError: if it is not valid.
        """
        _require_sections(value, "the configuration")
        return _validated(value, Source("the configuration"))

    def to_dict(self) -> dict[str, Any]:
        """Every key with its value, in what JSON can hold."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """What decides the content of the output: two runs that agree here, and in the model's content, may share it.

        A key that is added to `model`, `explain` or `output` belongs to it unless it is excluded here. What a method
        does not use does not, so that an output from before there was such a key can be gone on with.
        """
        unused = set() if METHODS[self.explain.method].noise else {"samples", "noise_level", "seed"}
        value = self.model_dump(
            mode="json",
            include={"input": {"fields"}, "model": True, "explain": True, "output": True},
            exclude={
                "model": {"path", "weights", "class_names", "trust", "custom_objects"},
                "explain": {"batch_size", "jit"} | unused,
                "output": {"path"},
            },
        )
        if self.model.preprocess.exif == DEFAULT_IDENTITY["model.preprocess.exif"]:
            del value["model"]["preprocess"]["exif"]
        return value


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration file.

    Args:
      path: the YAML file.
      overrides: `KEY=VALUE` each, such as `explain.batch_size=64`, read as `parse_override` says; later ones win. A
        section that the file does not have is made.

    Raises:
      ConfigError: if the file cannot be read, is not YAML, or is not a valid configuration.
    """
    name = os.fspath(path)
    value, lines = read_yaml(name)
    if value is None:
        raise ConfigError(
            f"{name} is empty; it needs at least input.shards, model.path or model.application, and output.path"
        )
    _require_sections(value, name)
    mappings = {key for key, field in schema_keys().items() if takes_mapping(field)}
    settings = [parse_override(text, mappings) for text in overrides]
    for setting in settings:
        apply_override(setting, value)
    return _validated(value, Source(name, lines, settings))


def schema_keys() -> dict[str, FieldInfo]:
    """Every key, sections among them, by its dotted name, in the order in which a file has them."""
    return dict(keys_of(Config))


def describe_keys() -> str:
    """Every key with its default and what it is, to be read in a terminal."""
    blocks = []
    for key, field in schema_keys().items():
        if not is_leaf(field):
            default = ""
        elif field.is_required():
            default = "  (required)"
        else:
            default = f"  (default: {_default(field)})"
        text = textwrap.fill(field.description or "", 100, initial_indent="    ", subsequent_indent="    ")
        blocks.append(f"{key}{default}\n{text}")
    return "\n".join(blocks)


def _require_sections(value: object, name: str) -> None:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} must have the sections {enumerated(Config.model_fields)}, not {show(value)}")


def _validated(value: Mapping[str, Any], source: Source) -> Config:
    try:
        return Config.model_validate(value)
    except ValidationError as error:
        problems = problems_of(error, value, Config)
    first, *others = problems
    more = f" (and {len(others)} more problem{'s' if len(others) > 1 else ''})" if others else ""
    raise ConfigError(f"{source.of(*first.keys)}: {first.sentence}{more}")


def _default(field: FieldInfo) -> str:
    """A default as it would be written in the file."""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Targets):
        value = value.to_setting()
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
