"""The old path of `transforms.models`; it works for one version and warns."""

from transforms.moved import moved

__getattr__ = moved(__name__, "transforms.models")
