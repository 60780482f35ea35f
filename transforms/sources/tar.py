"""Reads tar files forwards, member by member. What a header claims never decides how much memory is taken."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from transforms.sources.files import GZIP_DAMAGE, gunzip, is_gzip, read_up_to, skip

# The errors of a tar file that cannot be read further.
TAR_DAMAGE = (tarfile.TarError, *GZIP_DAMAGE)

_PIECE = 1 << 16

# The most bytes of a long name or of a member's further attributes. Linux' names have at most 4 KiB; attributes may
# hold access rights and more.
_LONGEST_HEADER = 1 << 20

# The most headers of one member: two long names and two blocks of attributes, and as many again.
_MOST_HEADERS = 8

# The most attributes that hold for all members that follow.
_MOST_GLOBALS = 1_000

# The most bytes that a member may claim, before it is compared with what is there. tarfile adds sizes to places, and no
# file system has places beyond 2^63.
_LARGEST_MEMBER = 1 << 60

_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class _Member(tarfile.TarInfo):
    """A member whose damaged header is an error. tarfile takes one after the first member as the archive's end.

    tarfile also believes what a header claims: it allocates names of any length, goes back for negative sizes, and
    calls itself for each header that belongs to the next.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        depth = getattr(archive, "depth", 0)
        if depth >= _MOST_HEADERS:
            raise tarfile.ReadError(f"more than {_MOST_HEADERS} headers follow each other at byte {archive.offset}")
        archive.depth = depth + 1  # type: ignore[attr-defined]
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise _damaged(archive, error) from error
        except tarfile.TarError:
            raise
        # What tarfile does not expect in the text and numbers of a header.
        except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
            raise _damaged(archive, error) from error
        finally:
            archive.depth = depth  # type: ignore[attr-defined]

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        _check_member(self)
        if self.type in _HEADERS and self.size > _LONGEST_HEADER:
            raise tarfile.ReadError(
                f"the header at byte {self.offset} has {self.size:,} bytes, more than the {_LONGEST_HEADER:,} that are "
                "read"
            )
        return super()._proc_member(archive)  # type: ignore[misc]

    def _proc_sparse(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        raise tarfile.ReadError(f"the member at byte {self.offset} is a sparse file, which is not read here")

    def _proc_gnusparse_00(self, member: tarfile.TarInfo, *_: object) -> None:
        self._proc_sparse(None)  # type: ignore[arg-type]

    _proc_gnusparse_01 = _proc_gnusparse_10 = _proc_gnusparse_00


def members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yields members in the archive's order, reading only forwards.

    Raises:
      tarfile.TarError, or one of GZIP_DAMAGE: the archive cannot be read further, or data follows its end.
    """
    head = file.read(1)
    file.seek(0)
    if not head:
        return
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as archive:
        while (member := archive.next()) is not None:
            _check_member(member)  # once more, as attributes may have changed it
            yield member
            # The archive keeps every member for look-ups by name, which are not needed here.
            archive.members.clear()  # type: ignore[attr-defined]
            if len(archive.pax_headers) > _MOST_GLOBALS:
                raise tarfile.ReadError(f"there are more than {_MOST_GLOBALS:,} attributes for all members")
        end = archive.offset
        while rest := file.read(_PIECE):
            # After zeroed blocks, or with a second archive appended, the rest would be lost silently.
            if rest.count(0) != len(rest):
                raise tarfile.ReadError(f"data follows the end-of-archive mark at byte {end}")


def decompressed(file: BinaryIO) -> BinaryIO:
    """The stream of a tar file that may be compressed with gzip."""
    head = file.read(3)
    file.seek(0)
    return gunzip(file) if is_gzip(head) else file


def read_member(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    """The bytes of a member.

    Raises:
      tarfile.ReadError: the member is truncated.
    """
    file.seek(member.offset_data)
    data = read_up_to(file, member.size)
    if len(data) < member.size:
        raise _truncated(member)
    return data


def check_complete(file: BinaryIO, member: tarfile.TarInfo) -> None:
    """Checks that a member is complete, without reading it.

    Raises:
      tarfile.ReadError: the member is truncated.
    """
    file.seek(member.offset_data)
    if not skip(file, member.size):
        raise _truncated(member)


def _check_member(member: tarfile.TarInfo) -> None:
    if not 0 <= member.size <= _LARGEST_MEMBER:
        raise tarfile.ReadError(f"the member at byte {member.offset} claims a size of {member.size:,} bytes")


def _damaged(archive: tarfile.TarFile, error: Exception) -> tarfile.ReadError:
    return tarfile.ReadError(f"the header at byte {archive.offset} is damaged ({error})")


def _truncated(member: tarfile.TarInfo) -> tarfile.ReadError:
    return tarfile.ReadError(f"the file ends within member {member.name!r}, which begins at byte {member.offset}")
