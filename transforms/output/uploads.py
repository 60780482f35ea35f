"""Finds uploads to S3 that were begun and not ended, which nobody sees and everybody pays for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystems import FileSystems

from transforms.filesystems import s3_client


@dataclasses.dataclass(frozen=True, slots=True)
class Upload:
    """The parts of a file that a server keeps until the upload ends; Beam writes every file on s3:// in parts.

    Attributes:
      file: what the file would be, with the time at which the upload began.
      bucket, key, number: what the server knows it by.
    """

    file: FileMetadata
    bucket: str
    key: str
    number: str

    def abort(self) -> None:
        """Deletes the parts. The upload may have ended meanwhile."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            s3_client().abort_multipart_upload(Bucket=self.bucket, Key=self.key, UploadId=self.number)
        except (BotoCoreError, ClientError):  # the next run tries again
            return


def unfinished_uploads(folder: str) -> Iterator[Upload]:
    """The uploads of files in a folder that have not ended. There are none on other file systems than s3://, and none
    is found if the server does not tell them."""
    if FileSystems.get_scheme(folder) != "s3":
        return
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = folder.partition("://")[2].partition("/")
    pages = s3_client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    try:
        for page in pages:
            for each in page.get("Uploads", []):
                key, began = each["Key"], each["Initiated"].timestamp()
                yield Upload(FileMetadata(f"s3://{bucket}/{key}", 0, began), bucket, key, each["UploadId"])
    except (BotoCoreError, ClientError):
        return
