"""The configuration: what a run is told, in one YAML file. It is checked before anything else is loaded.

Relative paths in it start from the folder in which the command is started, not from the file's folder.
"""

from pipeline.config.model import Model, Preprocess, Resize, Scale
from pipeline.config.problems import ConfigError
from pipeline.config.reference import describe_keys
from pipeline.config.schema import Config, Explain, Input, Output, Runner, load_config, schema_keys

__all__ = [
    "Config",
    "ConfigError",
    "Explain",
    "Input",
    "Model",
    "Output",
    "Preprocess",
    "Resize",
    "Runner",
    "Scale",
    "describe_keys",
    "load_config",
    "schema_keys",
]
