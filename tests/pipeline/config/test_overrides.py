"""`--set KEY=VALUE`: the value is what stands behind the equals sign, whatever YAML would make of it in a file."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from pipeline.config import ConfigError, load_config

MINIMAL = "input: {shards: a.tfrecord}\nmodel: {path: m.keras}\noutput: {path: out}\n"


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("output.path=runs/exp #2", "output.path", "runs/exp #2"),
        ("output.path=#1", "output.path", "#1"),
        ("output.path=  runs/a  ", "output.path", "runs/a"),
        ("output.path=a=b # c", "output.path", "a=b # c"),
        ("output.path=runs/exp: 2", "output.path", "runs/exp: 2"),
        ("model.class_names=a: b", "model.class_names", "a: b"),
        ("model.class_names=- names", "model.class_names", "- names"),
        ("model.class_names=&names", "model.class_names", "&names"),
        ("model.class_names=!names", "model.class_names", "!names"),
        ("model.class_names=| names", "model.class_names", "| names"),
        ("model.class_names=@names%", "model.class_names", "@names%"),
        ("model.class_names=*names", "model.class_names", "*names"),
        ("model.class_names='5'", "model.class_names", "5"),
        ('model.class_names="a # b"', "model.class_names", "a # b"),
        ("model.class_names='it''s # 1'", "model.class_names", "it's # 1"),
        ("input.shards=[a, b # c]", "input.shards", ["a", "b # c"]),
        ("input.shards=[a#b, 'c # d',\n e # f]", "input.shards", ["a#b", "c # d", "e # f"]),
        ("input.shards=- a # 1\n- b", "input.shards", ["a # 1", "b"]),
        ("runner.options={a: b # c}", "runner.options", {"a": "b # c"}),
        ("runner.options=a: b # c", "runner.options", {"a": "b # c"}),
        ("explain.batch_size= 12 ", "explain.batch_size", 12),
    ],
)
def test_what_stands_behind_the_equals_sign_is_the_value(
    path: pathlib.Path, override: str, key: str, value: Any
) -> None:
    found: Any = load_config(path, [override]).to_dict()
    for name in key.split("."):
        found = found[name]
    assert found == value


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("explain.targets=[1] # one", "text follows what the first [ begins, so the whole value must be put in quotes"),
        ("output.path='a' # b", "text follows what the first ' begins, so the whole value must be put in quotes"),
        ("explain.batch_size=12 # x", 'from 1 up, not "12 # x"'),
        ("explain.maps=signed # x", 'must be reference, channelwise or signed, not "signed # x"'),
        ("runner.options=x # y", 'a mapping from the names of Beam\'s options to their values, not "x # y"'),
        ("input.shards=[!x a # b]", "the value of `input.shards` cannot be read"),
    ],
)
def test_a_value_with_a_comment_is_refused_with_the_whole_of_it(
    path: pathlib.Path, override: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(path, [override])
    assert expected in str(refused.value)
    assert f"--set {override}" in str(refused.value)
