"""The reference of the configuration is made from the schema."""

import pathlib
import re

import pytest
import yaml

from pipeline.config import Config, describe_keys, load_config, schema_keys
from pipeline.config.reference import configuration_page, full_file
from tests.pipeline.config.keys import MINIMAL, at, leaves

ROOT = pathlib.Path(__file__).parents[3]
LOCAL = ROOT / "configs" / "local.yaml"


def test_every_key_is_described_with_its_default():
    described = describe_keys()
    for key in leaves():
        field = schema_keys()[key]
        assert f"\n{key}  (" in described
        assert field.description
        assert field.description.endswith(".")
        assert "default" in field.description or "required" in field.description
    assert "input.shards  (required)" in described
    assert "output.grid  (default: 56)" in described
    assert "model.preprocess.scale.divide  (default: 1)" in described


@pytest.mark.parametrize("key", leaves())
def test_every_key_says_what_would_be_right(refusal, key):
    sentence = refusal(MINIMAL, f"{key}=[[x]]")
    assert f"`{key}` must be " in sentence


def test_the_full_file_names_every_key_and_shows_the_defaults():
    set_for_the_example = {"input.shards", "model.path", "output.path"}
    # Keys of a section that has a value there are comments.
    text = re.sub(r"^( +)# (divide|mean|std): ", r"\1\2: ", full_file(), flags=re.MULTILINE)
    shown = yaml.safe_load(text.replace("scale: auto", "scale:"))
    defaults = Config.from_dict(
        {
            "input": {"shards": "a"},
            "model": {"path": "m", "preprocess": {"scale": {}}},
            "output": {"path": "o"},
        },
    ).to_dict()
    for key in leaves():
        value = at(key, shown)
        if not any(f"{key}.".startswith(f"{example}.") for example in set_for_the_example):
            assert value == at(key, defaults), key


def test_the_full_file_is_a_configuration(written):
    config = load_config(written(full_file()))
    assert config.input.shards == ("data/*.tfrecord",)
    minimal = {"input": {"shards": "data/*.tfrecord"}, "model": {"path": "model.keras"}, "output": {"path": "out/run"}}
    assert config == Config.from_dict(minimal)


def test_the_page_is_made_from_the_schema():
    assert (ROOT / "docs" / "configuration.md").read_text() == configuration_page(), (
        "make it again: python -m pipeline.config > docs/configuration.md"
    )


def test_the_page_has_every_key_with_its_description():
    page = configuration_page()
    for key, field in schema_keys().items():
        words = re.sub(r"\\(.)", r"\1", page)
        assert f"`{key}`" in page
        assert field.description in words


def test_the_local_example_sets_what_it_needs():
    shown = yaml.safe_load(LOCAL.read_text())
    config = load_config(LOCAL)
    assert config.input.shards == ("data/cifar10_test.tfrecord-*",)
    assert config.model.path == "resnet20_cifar10.keras"
    assert config.model.preprocess.resize.shape == (32, 32)
    assert at("model.preprocess.scale", config.to_dict()) == {
        "divide": 255.0,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert config.output.path == "out/cifar10"
    assert config == Config.from_dict(shown)


def test_every_line_of_the_local_example_that_differs_from_the_default_says_so():
    marked = [line.split(":")[0].strip() for line in LOCAL.read_text().splitlines() if "# set for this example" in line]
    assert marked == ["shards", "path", "shape", "scale", "path"]
