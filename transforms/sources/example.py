"""The message `tf.train.Example`, without TensorFlow, whose import takes seconds."""

from __future__ import annotations

import functools
from typing import Any

# The lists by the field of `Feature` that holds them: the field's number, its type and the type of its values, as in
# TensorFlow's example.proto and feature.proto.
_LISTS = {"bytes_list": (1, "BytesList", 12), "float_list": (2, "FloatList", 2), "int64_list": (3, "Int64List", 3)}
_MESSAGE, _STRING, _REPEATED, _OPTIONAL = 11, 9, 3, 1  # numbers of descriptor.proto


@functools.cache
def example_class() -> Any:
    """The class of the messages. It reads and writes the same bytes as TensorFlow's."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

    # A package and a pool of its own, as TensorFlow may register the message as well.
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="fullgrad", syntax="proto3")

    def message(name: str) -> Any:
        return file.message_type.add(name=name)

    def field(of: Any, name: str, number: int, kind: int, label: int = _OPTIONAL, message: str | None = None) -> Any:
        type_name = None if message is None else f".fullgrad.{message}"
        return of.field.add(name=name, number=number, type=kind, label=label, type_name=type_name)

    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    for name, (number, of, kind) in _LISTS.items():
        field(message(of), "value", 1, kind, _REPEATED)
        field(feature, name, number, _MESSAGE, message=of).oneof_index = 0
    features = message("Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    field(entry, "key", 1, _STRING)
    field(entry, "value", 2, _MESSAGE, message="Feature")
    field(features, "feature", 1, _MESSAGE, _REPEATED, message="Features.FeatureEntry")
    field(message("Example"), "features", 1, _MESSAGE, message="Features")

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("fullgrad.Example"))
