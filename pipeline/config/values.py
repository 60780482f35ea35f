"""The types of the configuration's values: what a key accepts, and what it becomes.

`Values` says what a user may write if the type alone does not.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator

from pipeline.config.problems import Values, refusal, show
from transforms.targets import Targets


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _squared(value: object) -> object:
    return [value, value] if isinstance(value, int) else value


def _switched(value: object) -> object:
    """YAML 1.1 reads the bare words `on` and `off` as true and false."""
    return ("on" if value else "off") if isinstance(value, bool) else value


def _spelled(*names: str) -> BeforeValidator:
    """Accepts the names in upper and lower case and turns them into their usual spelling."""
    spellings = {name.lower(): name for name in names}
    return BeforeValidator(lambda value: spellings.get(value.lower(), value) if isinstance(value, str) else value)


def _option_names(options: dict[str, Any]) -> dict[str, Any]:
    """Checks the names and leaves out null values, so that `--set runner.options.x=null` undoes a file's x."""
    for name in options:
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            right = name.lstrip("-").replace("-", "_")
            raise refusal(
                f"`runner.options` has the name {show(name)}, but Beam's options are named here without leading "
                f"dashes and with underscores{f', as {right}' if right.isidentifier() else ''}",
                f"runner.options.{name}",
            )
        if name == "runner":
            key = "runner.options.runner"
            raise refusal(f"`{key}` is not taken, as `runner.name` names the runner", key)
    return {name: value for name, value in options.items() if value is not None}


Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]  # no path or name has the character 0
Whole = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Index = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
Seed = Annotated[int, Field(strict=True, ge=0)]
Side = Annotated[int, Field(strict=True, ge=1, le=1 << 14)]  # pixels; an image of more does not fit a model's memory
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
# The name in an import statement, not the path of a file.
ModuleName = Annotated[str, Field(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*$")]
Modules = Annotated[
    Annotated[tuple[ModuleName, ...], BeforeValidator(_listed)] | None,
    Values("null, the name of a module such as mypackage.layers, or a list of them"),
]
WholeOrAuto = Annotated[Literal["auto"] | Whole, Values("auto or a whole number from 1 up", ("auto",))]
WholeOrNull = Annotated[Whole | None, Values("null or a whole number from 1 up")]
Size = Annotated[
    Annotated[tuple[Side, Side], BeforeValidator(_squared)] | None,
    Values("null, [HEIGHT, WIDTH] or one whole number for both"),
]
ImageSide = Annotated[
    Annotated[int, Field(strict=True, ge=8, le=1 << 14)] | None, Values("a whole number from 8 up, or null")
]
OnOff = Annotated[Literal["auto", "on", "off"], BeforeValidator(_switched)]
OnOrOff = Annotated[Literal["on", "off"], BeforeValidator(_switched)]
TargetsSetting = Annotated[
    Targets,
    PlainValidator(Targets.parse),
    PlainSerializer(Targets.to_setting),
    Values(
        "predicted, label, top-K such as top-3, or a list of different class indices such as [207, 281]",
        ("predicted", "label"),
    ),
]
Runners = Literal["direct", "FlinkRunner", "SparkRunner", "DataflowRunner", "PrismRunner"]
RunnerName = Annotated[Runners, _spelled(*get_args(Runners))]
# The form that Dataflow takes: kind, count, and options with or without a value.
_ACCELERATOR = r"type:[a-z][a-z0-9-]*;count:[1-9][0-9]*(;[a-z][a-z0-9_-]*(:[^;:\s]+)?)*"
AcceleratorOrNull = Annotated[
    Annotated[str, Field(pattern=f"^{_ACCELERATOR}$")] | None,
    Values("null or a hint such as type:nvidia-tesla-t4;count:1;install-nvidia-driver"),
]
RunnerOptions = Annotated[
    dict[str, Scalar | list[Scalar] | None],
    AfterValidator(_option_names),
    Values(
        "a mapping from the names of Beam's options to their values",
        items="text, a number, true, false or a list of these",
    ),
]
