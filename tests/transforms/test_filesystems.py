"""Beam's file systems: what is refused, and their options; tests/cluster/test_object_store.py uses a real S3 server."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator

import pytest
from apache_beam.io.aws.clients.s3 import boto3_client
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, S3Options

from transforms.filesystems import UnusableFileSystem, check_file_system, use_options
from transforms.output import Output


@pytest.fixture(autouse=True)
def _options_as_before() -> Iterator[None]:
    before = FileSystems._pipeline_options
    yield
    FileSystems.set_options(before)


@pytest.mark.parametrize(
    ("module", "path", "extra"),
    [
        ("boto3", "s3://bucket/x", "fullgrad-beam[aws]"),
        ("google.cloud.storage", "gs://bucket/x", "fullgrad-beam[gcp]"),
        ("azure", "azfs://account/x", "apache-beam[azure]"),
    ],
)
def test_where_a_package_is_missing_the_extra_that_has_it_is_named(
    module: str, path: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]  # as Python has it of an absent one
    with pytest.raises(UnusableFileSystem) as error:
        check_file_system("output.path", path)
    assert str(error.value).startswith(f"output.path: {path} is on ")
    assert f"`pip install '{extra}'`" in str(error.value)


def test_a_scheme_that_beam_does_not_know_is_refused_with_those_it_knows() -> None:
    with pytest.raises(UnusableFileSystem, match=r"^input\.shards: http://x/y is on http://, .* s3://"):
        check_file_system("input.shards", "http://x/y")
    check_file_system("input.shards", "some/folder/*.tfrecord")


def test_an_output_takes_its_options_to_where_nobody_has_set_any() -> None:
    """As in a worker that a pool starts, which is told of its work and not of the job's options."""
    FileSystems.set_options(None)
    sent = pickle.dumps(Output("out", "print", "run", ("--s3_endpoint_url=http://localhost:1",)))
    FileSystems.set_options(None)
    assert pickle.loads(sent) == Output("out", "print", "run", ("--s3_endpoint_url=http://localhost:1",))
    assert FileSystems._pipeline_options.view_as(S3Options).s3_endpoint_url == "http://localhost:1"
    # And leaves alone what somebody has set.
    use_options(["--s3_endpoint_url=http://localhost:2"])
    pickle.loads(sent)
    assert FileSystems._pipeline_options.view_as(S3Options).s3_endpoint_url == "http://localhost:2"


def test_files_on_s3_share_a_connection_and_nothing_else() -> None:
    use_options([])

    def client(*flags: str) -> boto3_client.Client:
        return boto3_client.Client(PipelineOptions(["--s3_region_name=us-east-1", *flags]))

    one, two, other = client(), client(), client("--s3_endpoint_url=http://localhost:1")
    assert one is not two
    assert one.client is two.client
    assert one.client is not other.client
    one._download_pos = 5
    assert two._download_pos == 0
