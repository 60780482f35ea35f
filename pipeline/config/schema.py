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
    takes_empty_text,
    takes_mapping,
)
from pipeline.config.section import Section
from pipeline.config.values import (
    AcceleratorOrNull,
    ImageSide,
    NameOrNull,
    OnOff,
    OnOrOff,
    Path,
    Paths,
    Positive,
    RunnerName,
    RunnerOptions,
    Seed,
    Size,
    TargetsSetting,
    Whole,
    WholeOrAuto,
    WholeOrNull,
)
from pipeline.config.yaml import Source, apply_override, parse_override, read_yaml
from transforms.methods import DEFAULTS, METHODS, NOISE_LEVEL, SAMPLES, misplaced, takers
from transforms.targets import Targets

# The values with which an output was made if its identity lacks the key. The key is left out at this value, so that an
# output from before the key existed can be continued.
DEFAULT_IDENTITY = {"model.preprocess.exif": "apply"}


class Fields(Section):
    """The names of a record's features or columns."""

    image: NameOrNull = Field(
        default=None,
        description="The feature or column that holds the encoded image. null (the default) takes the format's own "
        "name, which is image/encoded in TFRecord.",
    )
    id: NameOrNull = Field(
        default=None,
        description="The feature or column that names the image. null (the default) takes the format's own name, "
        "which is image/filename in TFRecord. An image without a name is named by its shard and index.",
    )
    label: Annotated[str | None, Values('null, a name, or "" for no labels', empty=True)] = Field(
        default=None,
        description="The feature or column that holds the class: its index, its name or a one-hot list. null (the "
        'default) takes the first of the usual names (image/class/label, label, target, …; cls in tars). "" uses no '
        "labels.",
    )


class Input(Section):
    """The images."""

    shards: Paths = Field(
        description="The image shards (required): a path, a pattern such as data/*.tfrecord, or a list of them, on "
        "any file system that Beam knows (gs://, s3://, hdfs://).",
    )
    format: Literal["auto", "tfrecord", "webdataset", "parquet", "folder"] = Field(
        default="auto",
        description="The format of the shards: tfrecord, webdataset, parquet, folder, or auto (the default), which "
        "goes by the names.",
    )
    fields: Fields = Field(
        default_factory=Fields,
        description="The names of a record's features or columns, if they are not the format's own.",
    )
    limit: WholeOrNull = Field(
        default=None, description="Explain only the first images, up to this number. null (the default) explains all."
    )
    images_per_unit: WholeOrAuto = Field(
        default="auto",
        description="The number of images in a unit, which is computed, committed and retried as one; it applies if a "
        "shard holds more. auto (the default) cuts a shard into units of even size, at most 2,048 images. With auto "
        "and without a limit, a TFRecord or tar that is not on the local file system is one unit, because counting "
        "its images means reading it.",
    )
    record_mib: Annotated[Whole, Values("a whole number of MiB from 1 up")] = Field(
        default=256,
        description="The largest record that is read, in MiB, decompressed: the encoded image and what stands beside "
        "it. A larger one is an error row. The default is 256, as much as the largest image that can be decoded has "
        "without compression.",
    )
    decoding_mib: Annotated[Whole, Values("a whole number of MiB from 1 up")] = Field(
        default=1024,
        description="The memory, in MiB, that all images that a process decodes at the same time may take. Large "
        "images wait for each other. An image that needs more alone is an error row. The default is 1024.",
    )

    changed: Literal["refuse", "recompute", "adopt"] = Field(
        default="refuse",
        description="What a run does that continues an output whose shards changed, moved or are no longer in "
        "input.shards. refuse (the default) names them and stops. recompute explains anew what changed or moved, and "
        "drops the results of what is gone. adopt also explains anew what changed, but keeps the results of shards "
        "that moved, under their new path, or are gone.",
    )


class Explain(Section):
    """The method and its options."""

    method: Literal[
        "fullgrad", "gradients", "input_x_gradient", "smoothgrad", "simple_fullgrad", "smooth_fullgrad", "grad_cam"
    ] = Field(
        default="fullgrad",
        description="The method: fullgrad (the default), gradients, input_x_gradient, smoothgrad, simple_fullgrad, "
        "smooth_fullgrad or grad_cam. Only the terms of fullgrad add up to the logit.",
    )
    maps: Literal["reference", "channelwise", "signed"] = Field(
        default="reference",
        description="How the terms become a map. reference (the default) does it as the paper's authors do. "
        "channelwise rescales each channel. signed takes no absolute values, so the map sums to the logit. fullgrad "
        "and smooth_fullgrad take all three, input_x_gradient takes reference and signed.",
    )
    biases: Literal["all", "explicit"] = Field(
        default="all",
        description="Which biases have a term. all (the default) includes the implicit biases of activations such as "
        "SiLU. explicit takes only those of layers. fullgrad and smooth_fullgrad take this key.",
    )
    targets: TargetsSetting = Field(
        default=Targets(),
        description="The classes that are explained for each image: predicted (the default), label, top-K such as "
        "top-3, or a list of class indices.",
    )
    contrast: Literal["none", "runner_up"] = Field(
        default="none",
        description="What is explained: none (the default) is the logit of the class, runner_up is that logit minus "
        "the largest other one.",
    )
    channels: Annotated[str, Field(min_length=1), Values("auto, none or the name of a layer")] = Field(
        default="auto",
        description="The layer whose channels' contributions to the logit are stored: its name as fullgrad inspect "
        "prints it, auto (the default) for the last layer whose output has places in the image, or none. All paths of "
        "the model must go through the layer. Only fullgrad has them.",
    )
    samples: Annotated[Whole, Values("a whole number from 1 up")] = Field(
        default=SAMPLES,
        description="The number of noisy copies of an image that smoothgrad and smooth_fullgrad average over, from 1 "
        f"up. The default is {SAMPLES}.",
    )
    noise_level: Annotated[Positive, Values("a number above 0")] = Field(
        default=NOISE_LEVEL,
        description="The standard deviation of the noise of smoothgrad and smooth_fullgrad, as a fraction of the "
        f"range of the values that the model gets for the image. The default is {NOISE_LEVEL:g}.",
    )
    seed: Annotated[Seed, Values("a whole number from 0 up")] = Field(
        default=0,
        description="The seed of the noise of smoothgrad and smooth_fullgrad. The noise depends only on the seed and "
        "the image. The default is 0.",
    )
    batch_size: WholeOrAuto = Field(
        default="auto",
        description="The number of images in a batch. auto (the default) computes it from the model's activations and "
        "a quarter of the memory at hand for each process, at most 128 on CPUs and 512 on accelerators. A batch that "
        "does not fit the memory is halved.",
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
    """The files that are written."""

    path: Path = Field(
        description="The folder that is written (required), on any file system that Beam knows. A run that is started "
        "again goes on there.",
    )
    map_size: Size = Field(
        default=None,
        description="The size of the stored maps, as [HEIGHT, WIDTH] or one number for both. null (the default) takes "
        "the model's input size.",
    )
    map_dtype: Literal["float16", "float32", "uint8", "none"] = Field(
        default="float16",
        description="The type of the values of stored maps: float16 (the default), float32, uint8 (scaled for each "
        "map), or none, which stores the figures of maps and no maps.",
    )
    grid: Annotated[int, Field(strict=True, ge=4, le=512), Values("a whole number from 4 to 512")] = Field(
        default=56,
        description="The height and width of the maps in the class statistics and of the maps of examples, from 4 to "
        "512. The default is 56.",
    )
    images: ImageSide = Field(
        default=96,
        description="The longer side, in pixels, of the images that are stored with the maps: each image as the model "
        "saw it, reduced to this size but never enlarged. null stores no images. The default is 96.",
    )
    clusters: OnOrOff = Field(
        default="on",
        description="Whether the images of each class are clustered by their evidence: on (the default) or off. A run "
        "that is started again with another value makes the clusters of the images that are there, or leaves them out.",
    )


class Errors(Section):
    """The errors that are tolerated."""

    max_fraction: Annotated[
        float, Field(strict=True, allow_inf_nan=False, ge=0, le=1), Values("a number from 0 to 1")
    ] = Field(
        default=0.01,
        description="The fraction of images that may fail, from 0 to 1. If more fail, the command ends with exit code "
        "1. The default is 0.01.",
    )


class Runner(Section):
    """The engine that runs the pipeline."""

    name: RunnerName = Field(
        default="direct",
        description="Beam's runner: direct (the default; this machine), FlinkRunner, SparkRunner, DataflowRunner or "
        "PrismRunner.",
    )
    options: RunnerOptions = Field(
        default_factory=dict,
        description="Options for Beam: a mapping from names to text, numbers, true, false or lists, such as "
        "{direct_num_workers: 4}. null leaves an option out. The default is {}.",
    )
    accelerator: AcceleratorOrNull = Field(
        default=None,
        description="With DataflowRunner, a hint for the accelerator of the workers that explain, such as "
        "type:nvidia-tesla-t4;count:1;install-nvidia-driver. Other workers get none. null (the default) asks for no "
        "accelerator.",
    )

    @model_validator(mode="after")
    def _runner_takes_hints(self) -> Runner:
        # Other runners ignore the hint, but start one more worker for the step that has it.
        key = "runner.accelerator"
        if self.accelerator is not None and self.name != "DataflowRunner":
            raise refusal(
                f"`{key}` is used only where `runner.name` is DataflowRunner, not {self.name}", key, "runner.name"
            )
        return self


class Config(Section):
    """The whole configuration of a run."""

    input: Input = Field(description="The images.")
    model: Model = Field(description="The model.")
    explain: Explain = Field(default_factory=Explain, description="The method.")
    output: Output = Field(description="The files that are written.")
    errors: Errors = Field(default_factory=Errors, description="The errors that are tolerated.")
    runner: Runner = Field(default_factory=Runner, description="The engine that runs the pipeline.")
    report: OnOrOff = Field(
        default="off",
        description="Whether the run ends with a report, as `fullgrad report` makes it: on or off (the default).",
    )

    @model_validator(mode="before")
    @classmethod
    def _absent_is_empty(cls, value: Any) -> Any:
        """Reports a required section that is absent by the keys that it lacks."""
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
        """Every key with its value, as JSON can hold it."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """The settings that decide the content of the output.

        Two runs may share an output if they agree in these and in the model's content. A new key of `model`, `explain`
        or `output` is part of them unless it is excluded here. A key that the method does not use is not part of them,
        so an output from before the key existed can be continued.
        """
        unused = set() if METHODS[self.explain.method].noise else {"samples", "noise_level", "seed"}
        value = self.model_dump(
            mode="json",
            include={"input": {"fields"}, "model": True, "explain": True, "output": True},
            exclude={
                "model": {"path", "weights", "class_names", "trust", "custom_objects"},
                "explain": {"batch_size", "jit"} | unused,
                "output": {"path", "clusters"},
            },
        )
        if self.model.preprocess.exif == DEFAULT_IDENTITY["model.preprocess.exif"]:
            del value["model"]["preprocess"]["exif"]
        return value


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration file.

    Args:
      path: the YAML file.
      overrides: texts `KEY=VALUE`, such as `explain.batch_size=64`; `parse_override` says how they are read. Later ones
        win. Sections that the file lacks are made.

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
    empty = {key for key, field in schema_keys().items() if takes_empty_text(field)}
    settings = [parse_override(text, mappings, empty) for text in overrides]
    for setting in settings:
        apply_override(setting, value)
    return _validated(value, Source(name, lines, settings))


def schema_keys() -> dict[str, FieldInfo]:
    """Every key and section by its dotted name, in the order of the file."""
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
