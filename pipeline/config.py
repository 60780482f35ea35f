"""The configuration: what a run is told, in one YAML file, validated before anything is loaded.

`load_config` reads a file and the command line's `--set KEY=VALUE`; what is wrong comes back as a `ConfigError`, one
sentence that names the file, the key and what would be right. The classes below are the schema: a class is a section,
a field is a key, and its description is the key's documentation, in `describe_keys` as here.

Relative paths are relative to the directory in which the command is started, not to the configuration file.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import pathlib
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from transforms.methods import DEFAULTS, METHODS, NOISE_LEVEL, SAMPLES, misplaced, takers
from transforms.targets import Targets


class ConfigError(ValueError):
    """The configuration cannot be used; the message is one sentence for the user."""


# The types of values. Where the type alone does not say what a user may write, `Values` does.


@dataclasses.dataclass(frozen=True, slots=True)
class Values:
    """Says in an error message what a key takes.

    Attributes:
      text: what would be right, to be read after "must be".
      choices: the words among it, of which the nearest is suggested.
      items: the same as text for one entry, where the value is a mapping with free keys.
    """

    text: str
    choices: tuple[str, ...] = ()
    items: str = ""


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _squared(value: object) -> object:
    return [value, value] if isinstance(value, int) else value


def _switched(value: object) -> object:
    """YAML 1.1 reads the bare words `on` and `off` as true and false."""
    return ("on" if value else "off") if isinstance(value, bool) else value


def _spelled(*names: str) -> BeforeValidator:
    """Accepts the names in upper and lower case, and gives them their own spelling."""
    spellings = {name.lower(): name for name in names}
    return BeforeValidator(lambda value: spellings.get(value.lower(), value) if isinstance(value, str) else value)


def _option_names(options: dict[str, Any]) -> dict[str, Any]:
    """Checks the names, and leaves out what is null, so that `--set runner.options.x=null` undoes a file's x."""
    for name in options:
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            right = name.lstrip("-").replace("-", "_")
            raise _refusal(
                f"`runner.options` has the name {_show(name)}, but Beam's options are named here without leading "
                f"dashes and with underscores{f', as {right}' if right.isidentifier() else ''}",
                f"runner.options.{name}",
            )
        if name == "runner":
            key = "runner.options.runner"
            raise _refusal(f"`{key}` is not taken, as `runner.name` names the runner", key)
    return {name: value for name, value in options.items() if value is not None}


Text = Annotated[str, Field(min_length=1)]
Whole = Annotated[int, Field(strict=True, ge=1)]
Index = Annotated[int, Field(strict=True, ge=0)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0)]
Scalar = Annotated[bool, Field(strict=True)] | Annotated[int, Field(strict=True)] | Number | str

Switch = Annotated[bool, Field(strict=True)]
Path = Annotated[Text, Values("a path")]
PathOrNull = Annotated[Text | None, Values("null or a path")]
NameOrNull = Annotated[Text | None, Values("null or a name")]
Paths = Annotated[
    tuple[Text, ...],
    BeforeValidator(_listed),
    Field(min_length=1),
    Values("a path, a pattern such as data/*.tfrecord, or a list of them"),
]
WholeOrAuto = Annotated[Literal["auto"] | Whole, Values("auto or a whole number from 1 up", ("auto",))]
WholeOrNull = Annotated[Whole | None, Values("null or a whole number from 1 up")]
Size = Annotated[
    Annotated[tuple[Whole, Whole], BeforeValidator(_squared)] | None,
    Values("null, [HEIGHT, WIDTH] or one whole number for both"),
]
OnOff = Annotated[Literal["auto", "on", "off"], BeforeValidator(_switched)]
TargetsSetting = Annotated[
    Targets,
    PlainValidator(Targets.parse),
    PlainSerializer(Targets.to_setting),
    Values(
        "predicted, label, top-K such as top-3, or a list of different class indices such as [207, 281]",
        ("predicted", "label"),
    ),
]
Runners = Literal["direct", "FlinkRunner", "DataflowRunner", "PrismRunner"]
RunnerName = Annotated[Runners, _spelled(*get_args(Runners))]
RunnerOptions = Annotated[
    dict[str, Scalar | list[Scalar] | None],
    AfterValidator(_option_names),
    Values(
        "a mapping from the names of Beam's options to their values",
        items="text, a number, true, false or a list of these",
    ),
]


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
        description="The one that holds the class index, or null (the default) for the format's own name "
        '(image/class/label in TFRecord), or "" to use no labels.',
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
        "number or auto (the default).",
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
            raise _refusal(f"`{key}` is used only where `model.preprocess.resize.how` is center_crop", key)
        if self.short_side is not None and self.shape is not None and self.short_side < max(self.shape):
            raise _refusal(f"`{key}` must be at least {max(self.shape)}, the longer side of the shape", key)
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
            raise _refusal(
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
        description="A text file that names the classes, one a line in the order of the logits, or null (the default).",
    )
    preprocess: Preprocess = Field(
        default_factory=Preprocess, description="From decoded pixels to what the model takes."
    )
    trust: Switch = Field(
        default=False,
        description="Whether the model file may run code of its own (Lambda layers, pickled objects): true or false "
        "(the default).",
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
            raise _refusal(
                "`model.path` or `model.application` is required: a model file, or the name of a Keras application",
                "model.path",
                "model.application",
                "model",
            )
        if self.path is not None and self.application is not None:
            raise _refusal(
                "`model.path` and `model.application` are both given, where one must be left out or null",
                "model.application",
                "model.path",
            )
        if self.weights is not None and self.application is None:
            raise _refusal(
                "`model.weights` is used only with `model.application`, as a model file has its own", "model.weights"
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
        description="How many images are computed at once, a whole number or auto (the default); halved where memory "
        "does not suffice.",
    )
    jit: OnOff = Field(default="auto", description="Whether XLA compiles the model: on, off or auto (the default).")

    @model_validator(mode="after")
    def _method_takes_options(self) -> Explain:
        name = misplaced(self.method, {name: getattr(self, name) for name in DEFAULTS})
        if name is None:
            return self
        value = getattr(self, name)
        raise _refusal(
            f"`explain.{name}` is {_show(value)}, which is used only where `explain.method` is "
            f"{_enumerated(takers(name, value), 'or')}, not {self.method}",
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
        description="Beam's runner: direct (the default; this machine), FlinkRunner, DataflowRunner or PrismRunner.",
    )
    options: RunnerOptions = Field(
        default_factory=dict,
        description="Options handed to Beam, as a mapping from name to text, number, true, false or a list, such as "
        "{direct_num_workers: 4}; null leaves one out; the default is {}.",
    )


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
            raise _refusal(
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
        return _validated(value, _Source("the configuration"))

    def to_dict(self) -> dict[str, Any]:
        """Every key with its value, in what JSON can hold."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """What decides the content of the output: two runs that agree here, and in the model's content, may share it.

        A key that is added to `model`, `explain` or `output` belongs to it unless it is excluded here. What a method
        does not use does not, so that an output from before there was such a key can be gone on with.
        """
        unused = set() if METHODS[self.explain.method].noise else {"samples", "noise_level", "seed"}
        return self.model_dump(
            mode="json",
            include={"input": {"fields"}, "model": True, "explain": True, "output": True},
            exclude={
                "model": {"path", "weights", "class_names", "trust"},
                "explain": {"batch_size", "jit"} | unused,
                "output": {"path"},
            },
        )


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration file.

    Args:
      path: the YAML file.
      overrides: `KEY=VALUE` each, such as `explain.batch_size=64`; the value is YAML, and later ones win. A section
        that the file does not have is made.

    Raises:
      ConfigError: if the file cannot be read, is not YAML, or is not a valid configuration.
    """
    value, lines = _read(os.fspath(path))
    settings = [_parse_override(text) for text in overrides]
    for setting in settings:
        _apply(setting, value)
    return _validated(value, _Source(os.fspath(path), lines, settings))


def schema_keys() -> dict[str, FieldInfo]:
    """Every key, sections among them, by its dotted name, in the order in which a file has them."""
    return dict(_keys_of(Config))


def describe_keys() -> str:
    """Every key with its default and what it is, to be read in a terminal."""
    blocks = []
    for key, field in schema_keys().items():
        if not _is_leaf(field):
            default = ""
        elif field.is_required():
            default = "  (required)"
        else:
            default = f"  (default: {_default(field)})"
        text = textwrap.fill(field.description or "", 100, initial_indent="    ", subsequent_indent="    ")
        blocks.append(f"{key}{default}\n{text}")
    return "\n".join(blocks)


# The schema, asked about its keys.


def _keys_of(section: type[_Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        yield prefix + name, field
        inner = _section_in(field.annotation)
        if inner is not None:
            yield from _keys_of(inner, f"{prefix}{name}.")


def _section_in(annotation: Any) -> type[_Section] | None:
    """The section that a value of this type is or may be."""
    if isinstance(annotation, type) and issubclass(annotation, _Section):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


def _is_leaf(field: FieldInfo) -> bool:
    """Whether a key takes a value that is not (or not only) a section."""
    return _section_in(field.annotation) is not field.annotation


def _values_of(field: FieldInfo) -> Values:
    """What a key takes, from its `Values` or else from its type."""
    for each in field.metadata:
        if isinstance(each, Values):
            return each
    if field.annotation is bool:
        return Values("true or false")
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if not choices:
        raise TypeError(f"a key of type {field.annotation} needs Values")
    return Values(_enumerated(choices, "or"), choices)


def _default(field: FieldInfo) -> str:
    """A default as it would be written in the file."""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Targets):
        value = value.to_setting()
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


# Problems, put into sentences.


def _refusal(sentence: str, *keys: str) -> PydanticCustomError:
    """What a validator raises whose sentence is complete; the keys are those that it is about."""
    return PydanticCustomError("refusal", "{sentence}", {"sentence": sentence, "keys": keys or ("",)})


@dataclasses.dataclass(frozen=True, slots=True)
class _Override:
    """A `KEY=VALUE` from the command line, its value parsed."""

    text: str
    key: str
    value: Any


@dataclasses.dataclass(frozen=True, slots=True)
class _Source:
    """Where values came from, so that a sentence can name it."""

    name: str
    lines: Mapping[str, int] = dataclasses.field(default_factory=dict)
    overrides: Sequence[_Override] = ()

    def of(self, *keys: str) -> str:
        """The place of the first of the keys that has one; the command line goes before the file."""
        for override in reversed(self.overrides):
            if any(
                _within(key, override.key) or (_within(override.key, key) and key not in self.lines) for key in keys
            ):
                return f"{self.name} with --set {_shortened(override.text)}"
        for key in keys:
            if key in self.lines:
                return f"{self.name}, line {self.lines[key]}"
        return self.name


@dataclasses.dataclass(frozen=True, slots=True)
class _Problem:
    """A sentence about one or more keys.

    Attributes:
      unknown: it is about a key that does not exist; `meant` is the one that the user probably meant, where that is
        known.
      from_absence: it goes away where its first key is the one meant by an unknown key.
    """

    sentence: str
    keys: tuple[str, ...]
    unknown: bool = False
    from_absence: bool = False
    meant: str = ""


def _validated(value: object, source: _Source) -> Config:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{source.name} must have the sections {_enumerated(Config.model_fields)}, not {_show(value)}"
        )
    try:
        return Config.model_validate(value)
    except ValidationError as error:
        problems = _problems(error, value)
    first, *others = problems
    more = f" (and {len(others)} more problem{'s' if len(others) > 1 else ''})" if others else ""
    raise ConfigError(f"{source.of(*first.keys)}: {first.sentence}{more}")


def _problems(error: ValidationError, value: Mapping[str, Any]) -> list[_Problem]:
    """One problem for each key that has any, unknown keys first: what else is wrong is often their consequence."""
    by_key: dict[tuple[str, ...], _Problem] = {}
    for detail in error.errors(include_url=False):
        problem = _problem(detail, value)
        by_key.setdefault(problem.keys, problem)
    meant = {problem.meant for problem in by_key.values() if problem.meant}
    problems = [
        problem
        for problem in by_key.values()
        if not (problem.from_absence and any(_within(problem.keys[0], key) for key in meant))
    ]
    return sorted(problems, key=lambda problem: not problem.unknown)


def _problem(detail: ErrorDetails, value: Mapping[str, Any]) -> _Problem:
    location = detail["loc"]
    if detail["type"] == "refusal":
        keys = tuple(detail["ctx"]["keys"])
        return _Problem(detail["ctx"]["sentence"], keys, from_absence=True)
    if detail["type"] in ("extra_forbidden", "invalid_key"):
        names, _ = _located(location[:-1], value)
        return _unknown_key(".".join(names), str(location[-1]))

    names, field = _located(location, value)
    assert field is not None, f"a problem without a key: {detail}"
    key, given = ".".join(names), _at(names, value)
    if not _is_leaf(field):
        keys_within = _enumerated(field.annotation.model_fields)  # type: ignore[union-attr]
        return _Problem(f"`{key}` must be a section with the keys {keys_within}, not {_show(given)}", (key,))
    values = _values_of(field)
    needs = values.text if key in schema_keys() else values.items
    if detail["type"] == "missing" and location[-1] == names[-1]:
        return _Problem(f"the required key `{key}` is missing, which must be {needs}", (key,), from_absence=True)
    nearest = _nearest(given, values.choices) if isinstance(given, str) else None
    hint = f"; did you mean {nearest}?" if nearest else ""
    return _Problem(f"`{key}` must be {needs}, not {_show(given)}{hint}", (key,))


def _located(location: Sequence[int | str], value: Mapping[str, Any]) -> tuple[list[str], FieldInfo | None]:
    """The key, name by name, and the field that an error's location is about.

    Beyond keys, a location holds positions in a list, names of a union's members, and the entries of a mapping; only of
    the last is the name kept.
    """
    section: type[_Section] | None = Config
    field: FieldInfo | None = None
    names: list[str] = []
    for part in location:
        if section is not None and part in section.model_fields:
            field = section.model_fields[str(part)]
            section = _section_in(field.annotation)
            names.append(str(part))
        elif section is None:
            entries = _at(names, value)
            if isinstance(entries, Mapping) and part in entries:
                names.append(str(part))
            break
    return names, field


def _unknown_key(section: str, name: str) -> _Problem:
    """An unknown key in a section (dotted; "" for the top level), with the key that was probably meant."""
    key = f"{section}.{name}" if section else name
    every = list(schema_keys())
    siblings = {each.rpartition(".")[2]: each for each in every if each.rpartition(".")[0] == section}
    homes = [each for each in every if each.rpartition(".")[2] == name]
    nearest = _nearest(name, tuple(siblings))
    if key in every:  # a dotted name in the file
        home, _, leaf = key.rpartition(".")
        return _Problem(f"`{key}` must be written as `{leaf}` within the section {home}", (key,), True, meant=key)
    if homes:
        sections = _enumerated([each.rpartition(".")[0] or "the top level" for each in homes], "or")
        return _Problem(f"unknown key `{key}`; `{name}` belongs to {sections}", (key,), unknown=True, meant=homes[0])
    if nearest is None:
        elsewhere = {each.rpartition(".")[2]: each for each in every}
        distant = _nearest(name, tuple(elsewhere), cutoff=0.8)
        meant = elsewhere[distant] if distant else ""
    else:
        meant = siblings[nearest]
    if meant:
        return _Problem(f"unknown key `{key}`; did you mean `{meant}`?", (key,), unknown=True, meant=meant)
    place = f"the keys of {section}" if section else "the sections"
    return _Problem(f"unknown key `{key}`; {place} are {_enumerated(siblings)}", (key,), unknown=True)


def _within(key: str, section: str) -> bool:
    """Whether a dotted key is the section or below it."""
    return f"{key}.".startswith(f"{section}.")


def _at(names: Sequence[str], value: Any) -> Any:
    """The value that is found by following the names, None where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _nearest(word: str, words: Sequence[str], cutoff: float = 0.6) -> str | None:
    lowered = {each.lower(): each for each in words}
    found = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=cutoff)
    return lowered[found[0]] if found else None


def _enumerated(words: Any, conjunction: str = "and") -> str:
    *first, last = words
    return f"{', '.join(first)} {conjunction} {last}" if first else str(last)


def _show(value: object) -> str:
    """A value as it may be written in YAML, on one line and not too long."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):  # keys that are no text, or a value that contains itself
        text = str(value)
    return _shortened(text)


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else f"{text[:119]}…"


# YAML.


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, and a date, a time and a number with leading zeros are text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  PyYAML declares it for instances
        first: [
            (tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("timestamp", "int", "float")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]{0,99})$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.[0-9]*([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


def _read(path: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The file's content, and the line of each key by its dotted name."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist, where a configuration file was expected") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    except ValueError:
        raise ConfigError(f"{path} is not text in UTF-8, as a configuration file must be") from None

    try:
        value, lines = _parse_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: {_syntax_problem(error)}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if value is None:
        raise ConfigError(
            f"{path} is empty; it needs at least input.shards, model.path or model.application, and output.path"
        )
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must have the sections {_enumerated(Config.model_fields)}, not {_show(value)}")
    return value, lines


def _parse_yaml(text: str) -> tuple[Any, dict[str, int]]:
    """A YAML document's value, and the line of each key by its dotted name. A key that stands twice is an error."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines: dict[str, int] = {}
        _note_keys(node, "", lines, frozenset())
        return loader.construct_document(node), lines
    finally:
        loader.dispose()


def _note_keys(node: yaml.Node, prefix: str, lines: dict[str, int], above: frozenset[int]) -> None:
    """Notes the line of each key in and below the node, and makes every key text, as `on` and `1` are not in YAML."""
    if id(node) in above:
        mark = node.start_mark
        raise yaml.constructor.ConstructorError(None, None, "this value contains itself", mark)
    above = above | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _note_keys(each, f"{prefix.removesuffix('.')}[].", {}, above)
    if not isinstance(node, yaml.MappingNode):
        return
    for name, value in node.value:
        if isinstance(name, yaml.ScalarNode) and name.tag != "tag:yaml.org,2002:merge":
            name.tag = "tag:yaml.org,2002:str"
            key = prefix + name.value
            if key in lines:
                problem = f"the key `{key}` stands twice, here and on line {lines[key]}, where one would be right"
                raise yaml.constructor.ConstructorError(None, None, problem, name.start_mark)
            lines[key] = name.start_mark.line + 1
            _note_keys(value, f"{key}.", lines, above)


def _syntax_problem(error: yaml.MarkedYAMLError) -> str:
    if isinstance(error, yaml.constructor.ConstructorError):
        return error.problem or "this value cannot be read"
    if "alias" in (error.context or ""):
        return "this is not YAML, as text that begins with * must be put in quotes"
    if "cannot start any token" in (error.problem or ""):
        return f"this is not YAML: {error.problem} (indent with spaces, and put such text in quotes)"
    return f"this is not YAML: {', '.join(filter(None, [error.context, error.problem]))}"


def _parse_override(text: str) -> _Override:
    key, equals, right = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {_shortened(text)}: this must be KEY=VALUE, such as explain.batch_size=64")
    if right.lstrip().startswith("*"):  # a pattern; an alias has nothing to point to here
        return _Override(text, key, right.strip())
    try:
        return _Override(text, key, _parse_yaml(right)[0])
    except yaml.YAMLError as error:
        problem = _syntax_problem(error) if isinstance(error, yaml.MarkedYAMLError) else "this is not YAML"
        raise ConfigError(f"--set {_shortened(text)}: the value of `{key}` cannot be read; {problem}") from None


def _apply(override: _Override, value: dict[str, Any]) -> None:
    """Sets the override's key in place."""
    *sections, name = override.key.split(".")
    for depth, section in enumerate(sections, 1):
        inner = value.get(section)
        if inner is None:
            inner = value[section] = {}
        if not isinstance(inner, dict):
            above = ".".join(sections[:depth])
            raise ConfigError(
                f"--set {_shortened(override.text)}: `{override.key}` cannot be set, as `{above}` is {_show(inner)}, "
                "which has no keys"
            )
        value = inner
    value[name] = override.value
