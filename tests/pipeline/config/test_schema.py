"""The configuration: what is accepted, and what decides the content of an output."""

import json
import pathlib
import pickle
import subprocess
import sys
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config import Config, load_config
from tests.pipeline.config.keys import MINIMAL, at
from transforms.methods import METHODS
from transforms.targets import Targets

ROOT = pathlib.Path(__file__).parents[3]
LOCAL = ROOT / "configs" / "local.yaml"


# What is accepted.


def test_the_required_keys_suffice_and_the_rest_has_its_defaults(written):
    assert load_config(written()).to_dict() == {
        "input": {
            "shards": ["a.tfrecord"],
            "format": "auto",
            "fields": {"image": None, "id": None, "label": None},
            "limit": None,
            "images_per_unit": "auto",
            "record_mib": 256,
            "decoding_mib": 1024,
            "changed": "refuse",
        },
        "model": {
            "path": "m.keras",
            "application": None,
            "weights": None,
            "output": None,
            "class_names": None,
            "preprocess": {
                "resize": {"shape": None, "how": "stretch", "short_side": None, "filter": "bilinear"},
                "scale": "auto",
                "exif": "ignore",
            },
            "trust": False,
            "custom_objects": None,
        },
        "explain": {
            "method": "fullgrad",
            "maps": "reference",
            "biases": "all",
            "targets": "predicted",
            "contrast": "none",
            "channels": "auto",
            "samples": 25,
            "noise_level": 0.15,
            "seed": 0,
            "batch_size": "auto",
            "jit": "auto",
        },
        "output": {"path": "out", "map_size": None, "map_dtype": "float16", "grid": 56, "images": 96, "clusters": "on"},
        "errors": {"max_fraction": 0.01},
        "runner": {"name": "direct", "options": {}, "accelerator": None},
        "report": "off",
    }


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("explain.batch_size=64", "explain.batch_size", 64),
        ("explain.targets=[1,2]", "explain.targets", [1, 2]),
        ("explain.targets=top-3", "explain.targets", "top-3"),
        ("explain.jit=on", "explain.jit", "on"),
        ("report=on", "report", "on"),
        ("report=true", "report", "on"),
        ("explain.jit=off", "explain.jit", "off"),
        ("explain.jit=auto", "explain.jit", "auto"),
        ("explain.contrast=none", "explain.contrast", "none"),
        ("explain.method=grad_cam", "explain.method", "grad_cam"),
        ("explain={method: smoothgrad, samples: 50}", "explain.samples", 50),
        ("explain={method: smooth_fullgrad, noise_level: 1}", "explain.noise_level", 1.0),
        ("explain={method: smooth_fullgrad, maps: signed, seed: 7}", "explain.seed", 7),
        ("explain={method: input_x_gradient, maps: signed}", "explain.maps", "signed"),
        ("input.fields.label=class", "input.fields.label", "class"),
        ('input.fields.label=""', "input.fields.label", ""),
        ("input.fields.label=", "input.fields.label", ""),
        ("input.fields.label=null", "input.fields.label", None),
        ("input.fields.id=", "input.fields.id", None),
        ("input.shards=[a, b]", "input.shards", ["a", "b"]),
        ("input.shards=*.tar", "input.shards", ["*.tar"]),
        ("input.shards=gs://bucket/a=1/*.tfrecord", "input.shards", ["gs://bucket/a=1/*.tfrecord"]),
        ("input.shards=2024-01-01", "input.shards", ["2024-01-01"]),
        ("input.shards=007", "input.shards", ["007"]),
        ("model.output=1", "model.output", 1),
        ("model.output=logits", "model.output", "logits"),
        ("model.trust=true", "model.trust", True),
        ("model.preprocess.scale.divide=255", "model.preprocess.scale.divide", 255.0),
        ("model.preprocess.scale=ResNet50", "model.preprocess.scale", "ResNet50"),
        ("model.preprocess.exif=apply", "model.preprocess.exif", "apply"),
        ("model.preprocess.resize.shape=[224, 160]", "model.preprocess.resize.shape", [224, 160]),
        ("output.map_size=7", "output.map_size", [7, 7]),
        ("output.map_size=[7, 9]", "output.map_size", [7, 9]),
        ("output.map_dtype=none", "output.map_dtype", "none"),
        ("output.images=null", "output.images", None),
        ("output.images=8", "output.images", 8),
        ("errors.max_fraction=1e-3", "errors.max_fraction", 0.001),
        ("errors.max_fraction=0", "errors.max_fraction", 0.0),
        ("errors={max_fraction: 1}", "errors.max_fraction", 1.0),
        ("runner.name=flinkrunner", "runner.name", "FlinkRunner"),
        ("runner.name=DIRECT", "runner.name", "direct"),
        ("runner.options.direct_num_workers=2", "runner.options", {"direct_num_workers": 2}),
        ("runner.options.experiments=[a, b]", "runner.options", {"experiments": ["a", "b"]}),
        ("runner.options.streaming=false", "runner.options", {"streaming": False}),
    ],
)
def test_an_override_sets_its_key(written, override, key, value):
    found = at(key, load_config(written(), [override]).to_dict())
    assert found == value
    assert type(found) is type(value)


def test_of_two_overrides_the_later_wins(written):
    assert load_config(written(), ["output.grid=8", "output.grid=9"]).output.grid == 9


def test_an_option_of_the_file_is_undone_by_null(written):
    path = written(MINIMAL + "runner: {options: {a: 1, b: 2}}\n")
    assert load_config(path, ["runner.options.a=null"]).runner.options == {"b": 2}


def test_a_section_without_content_has_its_defaults(written):
    assert load_config(written(MINIMAL + "errors:\nexplain:\n")) == load_config(written())


def test_an_application_has_the_imagenet_weights_unless_told_otherwise(written):
    by_application = ["model.path=null", "model.application=Xception"]
    assert load_config(written(), by_application).model.weights == "imagenet"
    assert load_config(written(), [*by_application, "model.weights=w.h5"]).model.weights == "w.h5"


def test_a_configuration_cannot_be_changed(written):
    config = load_config(written())
    with pytest.raises(ValidationError):
        config.output.grid = 8


def test_a_configuration_travels_to_workers(written):
    config = load_config(LOCAL)
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    ("setting", "targets", "per_image"),
    [
        ("predicted", Targets("predicted"), 1),
        ("label", Targets("label"), 1),
        ("top-1", Targets("top", ranks=1), 1),
        ("top-12", Targets("top", ranks=12), 12),
        ([207, 0], Targets("list", classes=(207, 0)), 2),
    ],
)
def test_targets_are_parsed_and_know_how_many_they_are(setting, targets, per_image):
    assert Targets.parse(setting) == targets
    assert targets.to_setting() == setting
    assert targets.per_image == per_image


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
whole = st.integers(1, 10_000)
size = st.none() | whole | st.tuples(whole, whole).map(list)
numbers = st.floats(-1e6, 1e6)
positive = st.floats(1e-6, 1e6)
scalars = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
nothing_or_names = st.none() | names


def some(**keys):
    """A section with any of the keys."""
    return st.fixed_dictionaries({}, optional=keys)


scales = st.integers(1, 4).flatmap(
    lambda channels: some(
        divide=positive | whole,
        mean=st.none() | st.lists(numbers, min_size=channels, max_size=channels),
        std=st.none() | st.lists(positive, min_size=channels, max_size=channels),
    )
)
resizes = some(
    shape=size, how=st.just("stretch"), filter=st.sampled_from(["bilinear", "bicubic", "nearest", "lanczos", "box"])
) | st.fixed_dictionaries({"how": st.just("center_crop")}, optional={"short_side": st.none() | whole})
model_options = {
    "output": nothing_or_names | st.integers(0, 9),
    "class_names": nothing_or_names,
    "preprocess": some(resize=resizes, scale=scales | names | st.sampled_from(["auto", "none", "tf"])),
    "trust": st.booleans(),
}
configs = st.fixed_dictionaries(
    {
        "input": st.fixed_dictionaries(
            {"shards": names | st.lists(names, min_size=1, max_size=3)},
            optional={
                "format": st.sampled_from(["auto", "tfrecord", "webdataset", "parquet", "folder"]),
                "fields": some(image=nothing_or_names, id=nothing_or_names, label=nothing_or_names),
                "limit": st.none() | whole,
                "images_per_unit": st.just("auto") | whole,
                "record_mib": whole,
                "decoding_mib": whole,
                "changed": st.sampled_from(["refuse", "recompute", "adopt"]),
            },
        ),
        "model": st.fixed_dictionaries({"path": names}, optional=model_options)
        | st.fixed_dictionaries({"application": names}, optional={"weights": nothing_or_names, **model_options}),
        "output": st.fixed_dictionaries(
            {"path": names},
            optional={
                "map_size": size,
                "map_dtype": st.sampled_from(["float16", "float32", "uint8", "none"]),
                "grid": st.integers(4, 512),
                "images": st.none() | st.integers(8, 4096),
                "clusters": st.sampled_from(["on", "off"]),
            },
        ),
    },
    optional={
        "explain": st.fixed_dictionaries(
            {"method": st.sampled_from(["smoothgrad", "smooth_fullgrad"])},
            optional={"samples": whole, "noise_level": positive, "seed": st.integers(0, 2**64)},
        )
        | some(
            method=st.just("fullgrad"),
            maps=st.sampled_from(["reference", "channelwise", "signed"]),
            biases=st.sampled_from(["all", "explicit"]),
            targets=st.sampled_from(["predicted", "label"])
            | st.integers(1, 1000).map("top-{}".format)
            | st.lists(st.integers(0, 999), min_size=1, max_size=5, unique=True),
            contrast=st.sampled_from(["none", "runner_up"]),
            channels=st.sampled_from(["auto", "none", "block5/out"]),
            batch_size=st.just("auto") | whole,
            jit=st.sampled_from(["auto", "on", "off", True, False]),
        ),
        "errors": some(max_fraction=st.floats(0, 1)),
        "runner": some(
            name=st.sampled_from(["direct", "FlinkRunner", "dataflowrunner", "PRISMRUNNER"]),
            options=st.dictionaries(
                st.from_regex(r"[a-z]\w{0,8}", fullmatch=True).filter(lambda name: name != "runner"),
                scalars | st.lists(scalars, max_size=3) | st.none(),
                max_size=3,
            ),
        ),
    },
)


@settings(deadline=None)
@given(configs)
def test_a_configuration_survives_plain_values_and_json(value):
    config = Config.from_dict(value)
    assert Config.from_dict(config.to_dict()) == config
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))).to_dict() == config.to_dict()


# What decides the content of the output.


@pytest.mark.parametrize(
    "override",
    [
        "explain.batch_size=8",
        "explain.jit=off",
        "runner.name=FlinkRunner",
        "runner.options.x=1",
        "runner={name: DataflowRunner, accelerator: type:nvidia-l4;count:1}",
        "errors.max_fraction=1",
        "input.shards=b.tfrecord",
        "input.format=parquet",
        "input.limit=5",
        "input.images_per_unit=5",
        "output.path=elsewhere",
        "output.clusters=off",
        "model.path=other.keras",  # its content does, which the launcher adds
        "model.class_names=names.txt",
        "model.trust=true",
    ],
)
def test_what_does_not_change_the_content_is_not_part_of_the_identity(written, override):
    assert load_config(written(), [override]).identity() == load_config(written()).identity()


@pytest.mark.parametrize(
    "override",
    [
        "model.output=1",
        "model.preprocess.resize.filter=box",
        "model.preprocess.scale.divide=255",
        "model.preprocess.exif=apply",
        "explain.maps=signed",
        "explain.biases=explicit",
        "explain.targets=top-2",
        "explain.contrast=runner_up",
        "explain.method=grad_cam",
        "output.map_size=7",
        "output.map_dtype=uint8",
        "output.grid=14",
        "input.fields.image=png",
    ],
)
def test_what_changes_the_content_is_part_of_the_identity(written, override):
    changed = load_config(written(), [override]).identity()
    assert changed != load_config(written()).identity()
    assert json.loads(json.dumps(changed)) == changed


@pytest.mark.parametrize("override", ["explain.samples=3", "explain.noise_level=0.1", "explain.seed=1"])
def test_the_noise_is_part_of_the_identity_of_methods_that_draw_it_alone(written, override):
    smooth = load_config(written(), ["explain.method=smoothgrad"]).identity()
    assert load_config(written(), ["explain.method=smoothgrad", override]).identity() != smooth
    assert override.split("=")[0].split(".")[1] not in load_config(written()).identity()["explain"]


def test_every_method_can_be_chosen(written):
    assert get_args(Config.model_fields["explain"].annotation.model_fields["method"].annotation) == tuple(METHODS)
    for method in METHODS:
        assert load_config(written(), [f"explain.method={method}"]).explain.method == method


def test_the_configuration_loads_without_any_framework():
    program = (
        "import sys; import pipeline.config; "
        "print([name for name in ('tensorflow', 'keras', 'apache_beam', 'pyarrow') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
