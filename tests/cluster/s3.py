"""A real S3 server on loopback, with functions to put objects into it and to list them."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import boto3

from tests.cluster import artifacts
from tests.cluster.servers import S3_CREDENTIALS, Server, accepts, free_port, running

BUCKET = "fullgrad"


@dataclasses.dataclass(frozen=True, slots=True)
class Store:
    """A bucket on a server.

    Attributes:
      endpoint: the address of the server.
    """

    endpoint: str

    @property
    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=S3_CREDENTIALS["AWS_DEFAULT_REGION"],
            aws_access_key_id=S3_CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=S3_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )

    def put(self, file: pathlib.Path, key: str) -> str:
        """Uploads a file. Returns its URL."""
        self.client.upload_file(str(file), BUCKET, key)
        return self.url(key)

    def url(self, key: str) -> str:
        return f"s3://{BUCKET}/{key}"

    def keys(self, prefix: str) -> list[str]:
        """The names of all objects that begin with `prefix`."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [each["Key"] for page in pages for each in page.get("Contents", [])]


@contextlib.contextmanager
def s3(folder: pathlib.Path) -> Iterator[Store]:
    """Serves an empty bucket while the block lasts."""
    port = free_port("127.0.0.1")
    # By default the server keeps notes in extended attributes, which not every file system has.
    data, notes = folder / "data", folder / "notes"
    data.mkdir()
    notes.mkdir()
    keep = ["posix", "--sidecar", str(notes), str(data)]
    command = [str(artifacts.s3_server()), "--port", f"127.0.0.1:{port}", "--quiet", *keep]
    keys = {
        "ROOT_ACCESS_KEY": S3_CREDENTIALS["AWS_ACCESS_KEY_ID"],
        "ROOT_SECRET_KEY": S3_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    }
    with running(Server("the S3 server", command, folder / "s3.log", keys)) as server:
        server.wait_until(lambda: accepts("127.0.0.1", port))
        store = Store(f"http://127.0.0.1:{port}")
        store.client.create_bucket(Bucket=BUCKET)
        yield store
