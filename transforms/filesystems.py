"""Sets the options of Beam's file systems, and checks that a path's file system can be used."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from typing import Any

from apache_beam.io.aws.clients.s3 import boto3_client
from apache_beam.io.aws.clients.s3.messages import S3ClientError
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, S3Options

# Options of Beam's file systems that contain secrets. Their values are never shown.
SECRETS = ("s3_secret_access_key", "s3_session_token", "azure_connection_string")

# The module that each scheme needs, and the package that provides it.
_NEEDED = {
    "gs": ("google.cloud.storage", "fullgrad-beam[gcp]"),
    "s3": ("boto3", "fullgrad-beam[aws]"),
    "azfs": ("azure.storage.blob", "apache-beam[azure]"),
    "hdfs": ("hdfs", "hdfs"),
}

# The errors of Beam's file systems for files that cannot be read or written. Beam's own errors are OSErrors.
STORE_ERRORS: tuple[type[Exception], ...] = (OSError, S3ClientError)
try:
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
except ImportError:  # without the extra gcp
    pass
else:
    STORE_ERRORS = (*STORE_ERRORS, GoogleAPIError, GoogleAuthError)

# ValueError is raised for a malformed path.
READ_ERRORS: tuple[type[Exception], ...] = (*STORE_ERRORS, ValueError)

# Botocore waits 0 to 1 s before the second attempt, up to twice as long before each further one, and never over 20 s.
_PATIENT = {"mode": "standard", "total_max_attempts": 10}

_BeamClient = boto3_client.Client
_connections: dict[tuple[bool, tuple[tuple[str, Any], ...]], Any] = {}
_connecting = threading.Lock()


class UnusableFileSystem(ValueError):
    """A path is on a file system that cannot be used here. One sentence says what would be right."""


def use_options(flags: Sequence[str]) -> None:
    """Sets the options of Beam's file systems, such as `--s3_endpoint_url=…`. Other options are ignored."""
    FileSystems.set_options(PipelineOptions(list(flags)))
    _share_connections()


def use_options_if_none_are_set(flags: Sequence[str] = ()) -> None:
    """Like `use_options`, unless options are already set. Without any options s3:// cannot be used."""
    if FileSystems._pipeline_options is None:
        use_options(flags)
    _share_connections()


def check_file_system(what: str, path: str) -> None:
    """Refuses a path on a file system that Beam does not know, or whose client is not installed.

    Args:
      what: the key or argument that contains the path.
      path: a path, pattern or URL.

    Raises:
      UnusableFileSystem: the file system cannot be used here.
    """
    scheme = FileSystems.get_scheme(path)
    if scheme is None:
        return
    if scheme in _NEEDED:
        module, package = _NEEDED[scheme]
        if not _is_installed(module):
            raise UnusableFileSystem(
                f"{what}: {path} is on {scheme}://, for which a package is missing here; install it with "
                f"`pip install '{package}'`"
            )
    try:
        FileSystems.get_filesystem(path)
    except ValueError as error:
        raise UnusableFileSystem(
            f"{what}: {path} is on {scheme}://, which is not a file system that Beam knows; it must be a local path or "
            f"one of {', '.join(f'{known}://' for known in _NEEDED)}"
        ) from error
    if scheme == "s3":
        _check_bucket(what, path)


def _share_connections() -> None:
    """Lets all files on s3:// use one connection.

    Beam makes a client of boto3's anew for every operation, which takes 0.1 to 0.3 s of a processor: more than most
    images take. What of a client is of one file alone stays so.
    """
    if boto3_client.boto3 is None or boto3_client.Client is not _BeamClient:
        return

    class Client(_BeamClient):  # type: ignore[misc, valid-type]
        def __init__(self, options: PipelineOptions):
            self.client = s3_client(options)
            self._download_request = self._download_stream = None
            self._download_pos = 0

    boto3_client.Client = Client


def s3_client(options: PipelineOptions | None = None, *, patient: bool = True) -> Any:
    """A client of boto3's that several threads may use.

    Args:
      options: Beam's, with those of S3; None for the options that are set.
      patient: whether it waits about a minute for a server that does not answer, and not some seconds as boto3 does.
        AWS_MAX_ATTEMPTS and AWS_RETRY_MODE, or the user's AWS configuration, decide if they are set.
    """
    s3 = (FileSystems._pipeline_options if options is None else options).view_as(S3Options)
    settings = (
        ("region_name", s3.s3_region_name),
        ("api_version", s3.s3_api_version),
        ("use_ssl", not s3.s3_disable_ssl),
        ("verify", s3.s3_verify),
        ("endpoint_url", s3.s3_endpoint_url),
        ("aws_access_key_id", s3.s3_access_key_id),
        ("aws_secret_access_key", s3.s3_secret_access_key),
        ("aws_session_token", s3.s3_session_token),
    )
    with _connecting:
        if (patient, settings) not in _connections:
            import botocore.config
            import botocore.session

            core = botocore.session.get_session()
            chosen = core.get_config_variable("max_attempts") or core.get_config_variable("retry_mode")
            config = botocore.config.Config(
                max_pool_connections=64, retries=_PATIENT if patient and not chosen else None
            )
            session = boto3_client.boto3.session.Session(botocore_session=core)
            _connections[patient, settings] = session.client("s3", config=config, **dict(settings))
        return _connections[patient, settings]


def _check_bucket(what: str, path: str) -> None:
    """Checks with one request that a bucket of S3 can be reached. Beam itself would retry for ten minutes.

    A bucket that cannot be listed is accepted, because a model in it may still be readable.
    """
    import botocore.exceptions

    bucket, _, _ = path.partition("://")[2].partition("/")
    said = ""
    try:
        s3_client(patient=False).list_objects_v2(Bucket=bucket, MaxKeys=1)
    except botocore.exceptions.NoCredentialsError:
        said = "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    except botocore.exceptions.ClientError as error:
        code, message = (error.response.get("Error", {}).get(each, "") for each in ("Code", "Message"))
        if code not in ("AccessDenied", "AllAccessDisabled"):
            said = f"S3 answers {code}: {message.rstrip('.')}"
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        said = str(error).rstrip(".")
    if said:
        raise UnusableFileSystem(
            f"{what}: {path} cannot be reached, as {said} (for a service other than Amazon's, set the option "
            "s3_endpoint_url)"
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False
