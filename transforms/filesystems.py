"""Beam's file systems: told their options before the first look, and what is to be installed for each."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

# Options of Beam's file systems that give access to a store; they are nobody else's business.
SECRETS = ("s3_secret_access_key", "s3_session_token", "azure_connection_string")

# What a scheme needs, and how it is installed.
_NEEDED = {
    "gs": ("google.cloud.storage", "fullgrad-beam[gcp]"),
    "s3": ("boto3", "fullgrad-beam[aws]"),
    "azfs": ("azure.storage.blob", "apache-beam[azure]"),
    "hdfs": ("hdfs", "hdfs"),
}


class MissingFileSystem(ValueError):
    """A path is on a file system that is not installed here; one sentence that says what is to be installed."""


def use_options(flags: Sequence[str]) -> None:
    """Tells Beam's file systems their options, such as `--s3_endpoint_url=…`; others are taken and not looked at."""
    FileSystems.set_options(PipelineOptions(list(flags)))


def use_options_if_none_are_set(flags: Sequence[str] = ()) -> None:
    """Like `use_options`, where nobody has told them any. Without options at all, s3:// cannot be used."""
    if FileSystems._pipeline_options is None:
        use_options(flags)


def check_file_system(what: str, path: str) -> None:
    """Refuses a path on a file system that Beam does not know, or whose client is not installed.

    Args:
      what: the key or argument that names the path.
      path: a path, pattern or URL.

    Raises:
      MissingFileSystem: it cannot be used here.
    """
    scheme = FileSystems.get_scheme(path)
    if scheme is None:
        return
    if scheme in _NEEDED:
        module, package = _NEEDED[scheme]
        if not _is_installed(module):
            raise MissingFileSystem(
                f"{what}: {path} is on {scheme}://, for which a package is missing here; install it with "
                f"`pip install '{package}'`"
            )
    try:
        FileSystems.get_filesystem(path)
    except ValueError as error:
        raise MissingFileSystem(
            f"{what}: {path} is on {scheme}://, which is no file system that Beam knows; it must be a local path or "
            f"one of {', '.join(f'{known}://' for known in _NEEDED)}"
        ) from error


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package around it
        return False
