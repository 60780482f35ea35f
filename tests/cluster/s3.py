"""A real S3 server on loopback, with functions to put objects into it and to list them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import boto3

from tests.cluster import artifacts
from tests.cluster.servers import S3_CREDENTIALS, Server, accepts, free_port

BUCKET = "fullgrad"


@dataclasses.dataclass(frozen=True, slots=True)
class Store:
    """A bucket on a server.

    Attributes:
      endpoint: the address of the server.
      server: starts the server.
      processes: the server's process, the last one of the list.
    """

    endpoint: str
    server: Callable[[], Server]
    processes: list[Server]

    def start(self) -> None:
        """Starts the server, again with what it had."""
        self.processes.append(self.server())
        host, port = self.endpoint.removeprefix("http://").split(":")
        self.processes[-1].wait_until(lambda: accepts(host, int(port)))

    def stop(self) -> None:
        """Kills the server, as if its machine were lost."""
        self.processes[-1].kill()

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
    server = functools.partial(Server, "the S3 server", command, folder / "s3.log", keys)
    store = Store(f"http://127.0.0.1:{port}", server, [])
    store.start()
    try:
        store.client.create_bucket(Bucket=BUCKET)
        yield store
    finally:
        store.processes[-1].stop()
