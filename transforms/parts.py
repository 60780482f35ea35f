"""The old path of `transforms.output`; it works for one version and warns."""

from transforms.moved import moved

__getattr__ = moved(__name__, "transforms.output")
