"""The smallest configuration, and the keys of the schema."""

from pipeline.config import schema_keys

MINIMAL = "input: {shards: a.tfrecord}\nmodel: {path: m.keras}\noutput: {path: out}\n"


def at(key, value):
    for name in key.split("."):
        value = value[name]
    return value


def leaves():
    """The keys that take a value, those of the mapping under `scale` among them."""
    sections = {key.rpartition(".")[0] for key in schema_keys()}
    return [key for key in schema_keys() if key not in sections or key == "model.preprocess.scale"]
