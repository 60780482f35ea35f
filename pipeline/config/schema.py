"""The schema of the configuration: a class is a section, a field is a key.

A field's description is the key's documentation. `pipeline.config.reference` makes the help of `fullgrad run` and
docs/configuration.md from it. `load_config` reads a file and the values of `--set KEY=VALUE`. Wrong input raises a
`ConfigError`: one sentence that names the file, the key and what would be right.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from pipeline.config.model import Model
from pipeline.config.problems import (
    ConfigError,
    Values,
    enumerated,
    keys_of,
    problems_of,
    refusal,
    show,
    takes_mapping,
)
from pipeline.config.section import Section
from pipeline.config.values import (
    AcceleratorOrNull,
    Index,
    NameOrNull,
    OnOff,
    Path,
    Paths,
    Positive,
    RunnerName,
    RunnerOptions,
    Size,
    TargetsSetting,
    Whole,
    WholeOrAuto,
    WholeOrNull,
)
from pipeline.config.yaml import Source, apply_override, parse_override, read_yaml
from transforms.methods import DEFAULTS, METHODS, NOISE_LEVEL, SAMPLES, misplaced, takers
from transforms.targets import Targets

# What an output was made with whose identity does not have the key: from before there was such a key, or now with the
# same value, so that it can be gone on with.
DEFAULT_IDENTITY = {"model.preprocess.exif": "apply"}


class Fields(Section):
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


class Input(Section):
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


class Explain(Section):
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


class Output(Section):
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


class Errors(Section):
    """What is tolerated."""

    max_fraction: Annotated[
        float, Field(strict=True, allow_inf_nan=False, ge=0, le=1), Values("a number from 0 to 1")
    ] = Field(
        default=0.01,
        description="The fraction of images that may fail before the command reports failure, from 0 to 1; the default "
        "is 0.01.",
    )


class Runner(Section):
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


class Config(Section):
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
