"""Fixtures: a configuration file that is written, and the sentence that refuses it."""

import pytest

from pipeline.config import ConfigError, load_config
from tests.pipeline.config.keys import MINIMAL


@pytest.fixture
def written(tmp_path):
    """Writes a configuration file and gives its path."""

    def write(text=MINIMAL):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def refusal(written):
    """The sentence with which a file, or overrides of a valid one, is refused."""

    def refuse(text=MINIMAL, *overrides):
        with pytest.raises(ConfigError) as refused:
            load_config(written(text), overrides)
        sentence = str(refused.value)
        assert "\n" not in sentence
        for jargon in ("pydantic", "http", "validat", "Input should", "literal", "Field", "Traceback"):
            assert jargon not in sentence
        return sentence

    return refuse
