"""Whatever a configuration holds, it is read or refused in one sentence."""

from __future__ import annotations

import os
import pathlib
import random
import threading

import pytest

from pipeline.config import Config, ConfigError, load_config, schema_keys
from tests.pipeline.config.keys import MINIMAL
from tests.pipeline.config.mutations import mutated, mutated_setting

# More cases: FULLGRAD_FUZZ_CASES=100000. Other cases: FULLGRAD_FUZZ_SEED=1.
CASES = int(os.environ.get("FULLGRAD_FUZZ_CASES", "2000"))
SEED = int(os.environ.get("FULLGRAD_FUZZ_SEED", "0"))
CONFIGS = pathlib.Path(__file__).parents[3] / "configs"
RIGHT = [MINIMAL, *(path.read_text() for path in sorted(CONFIGS.glob("*.yaml")))]


def outcome(path: pathlib.Path, settings: list[str]) -> Config | str:
    """The configuration, or the sentence that refuses it."""
    try:
        return load_config(path, settings)
    except ConfigError as refused:
        return str(refused)


@pytest.mark.slow
def test_every_mutated_configuration_is_read_or_refused_in_one_sentence(tmp_path: pathlib.Path) -> None:
    path, keys = tmp_path / "run.yaml", list(schema_keys())
    read = 0
    for case in range(CASES):
        chance = random.Random(f"{SEED} {case}")
        settings = [mutated_setting(keys, chance) for _ in range(chance.choice((0, 0, 0, 1, 2)))]
        path.write_bytes(mutated(chance.choice(RIGHT), chance) if len(settings) < 2 else MINIMAL.encode())
        try:
            found = outcome(path, settings)
        except Exception as error:
            given = f"{path.read_bytes()!r} {settings}"
            pytest.fail(f"case {case} of seed {SEED}: {type(error).__name__}: {error}\n{given}")
        if isinstance(found, Config):
            read += 1
            assert Config.from_dict(found.to_dict()) == found
        else:
            sentence = found.replace(str(path), "run.yaml")
            assert sentence.isprintable(), f"case {case} of seed {SEED}: {sentence!r}"
            assert len(sentence) < 1_000, f"case {case} of seed {SEED}: {sentence!r}"
    assert CASES * 0.01 < read < CASES * 0.6, "both outcomes are tried"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("!!int x", "the tag !!int does not fit its value; write the value without it"),
        ("!!int ''", "the tag !!int does not fit its value"),
        ("!!float x", "the tag !!float does not fit its value"),
        ("!!bool maybe", "the tag !!bool does not fit its value"),
        ("!!binary aGVsbG8=", "the tag !!binary is not taken here; write the value without it"),
        ("!!timestamp 2001-99-99", "the tag !!timestamp is not taken here"),
        ("!!python/name:os.system", "the tag !!python/name:os.system is not taken here"),
        ("!!set {a}", "the tag !!set is not taken here"),
        ("!!map [1]", "the tag !!map is not taken here"),
        ("!own 1", "the tag !own is not taken here"),
        ("[" * 60 + "]" * 60, "values are nested more than 50 deep, which no key takes"),
        ("[" * 100_000, "values are nested more than 50 deep, which no key takes"),
        ("{a: " * 5_000, "values are nested more than 50 deep, which no key takes"),
        ("9" * 5_000, "from 1 up, not"),
        ("!!int " + "9" * 5_000, "the tag !!int does not fit its value"),
        ("4294967296", "from 1 up, not 4294967296; at most 2,147,483,647 is taken"),
        ("{? [a] : b}", "a key must be text on one line, not a list or a mapping"),
        ("{.nan: 1, .nan: 2}", "the key `explain.batch_size..nan` stands twice"),
        ("{<<: &a {x: *a}}", "this value contains itself"),
    ],
)
def test_a_value_that_yaml_reads_in_its_own_way_is_refused(refusal, value, expected):
    assert expected in refusal(MINIMAL + f"explain:\n  batch_size: {value}\n")


@pytest.mark.parametrize("merged", [False, True])
def test_aliases_that_multiply_are_refused_before_they_do(refusal, merged):
    line = "a{0}: &a{0} {{<<: [{1}]}}\n" if merged else "a{0}: &a{0} [{1}]\n"
    bomb = "a0: &a0 {x: 1}\n" + "".join(line.format(i, ", ".join([f"*a{i - 1}"] * 10)) for i in range(1, 12))
    assert "more than 100,000 values, those that aliases repeat counted each time" in refusal(bomb + MINIMAL)


def test_a_few_aliases_are_welcome(written):
    found = load_config(
        written(
            "input: {shards: a}\nmodel: {path: m}\noutput: {path: o, map_size: &s [7, 9]}\n"
            "errors: &e {max_fraction: !!float 1}\nrunner: {options: {x: !!str 5, y: &o [1], z: *o}}\n"
        ),
        ["runner.options.y=[2]"],
    )
    assert found.output.map_size == (7, 9)
    assert found.errors.max_fraction == 1.0
    assert found.runner.options == {"x": "5", "y": [2], "z": [1]}


def test_thousands_of_wrong_keys_are_counted_and_not_all_told(refusal):
    many = "".join(f"key{i}: 1\n" for i in range(20_000))
    assert "more problems)" in refusal(MINIMAL + many)
    assert "`input.shards` must be a path" in refusal(f"input: {{shards: [{'1, ' * 20_000}]}}\nmodel: {{path: m}}\n")


def test_a_file_that_is_far_too_large_is_refused(refusal):
    assert "has more than 1,048,576 bytes, which is too large" in refusal(MINIMAL + "# x\n" * 300_000)


def test_a_byte_order_mark_before_the_text_is_no_part_of_it(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load_config(path).input.shards == ("a.tfrecord",)
    path.write_bytes(MINIMAL.encode("utf-16"))
    with pytest.raises(ConfigError, match=r"run\.yaml is not text in UTF-8"):
        load_config(path)


def test_a_pipe_is_read_and_one_without_a_writer_is_refused(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=(MINIMAL,))
    writer.start()
    assert load_config(path).input.shards == ("a.tfrecord",)
    writer.join()
    with pytest.raises(ConfigError, match="cannot be read: nothing came through this pipe for 4 seconds"):
        load_config(path)


def test_characters_that_a_terminal_obeys_are_shown_as_escapes(refusal):
    assert r"unknown key `\x1b[31mred`" in refusal(MINIMAL + '"\\e[31mred": 1\n')
    assert "unknown key `a b`" in refusal(MINIMAL + '"a\\nb": 1\n')
