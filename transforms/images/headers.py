"""Reads the sizes in the headers of encoded images, before a decoder takes the memory that they claim."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from transforms.images.limits import UndecodableImage

# The most bytes of notes in a JPEG file: EXIF, XMP, colour profiles, previews. Pillow copies all EXIF once for each of
# its segments of 64 KiB.
_MOST_NOTES = 16 << 20

# The bytes that decoding takes for each pixel, in the decoder, as Pillow's image and as its copy in the wanted mode.
# They were measured with images of 4 million pixels in all modes, and are rounded up; a test measures them again.
_BYTES_PER_PIXEL = {"TIFF": 12, "MPO": 10, "AVIF": 16, "WEBP": 18, "JPEG2000": 28}
_OTHERS = 10


def decoding_bytes(format: str | None, width: int, height: int) -> int:
    """The most bytes of memory that decoding an image takes. `format` is Pillow's name of it."""
    return width * height * _BYTES_PER_PIXEL.get(format or "", _OTHERS)


def webp_size(encoded: bytes) -> tuple[int, int] | None:
    """The (width, height) of a WebP file; None for other files. Pillow takes the memory as it opens one.

    See the container's specification, and RFC 6386 (9.1) for the lossy and RFC 9649 (3.4) for the lossless format.
    """
    if encoded[:4] != b"RIFF" or encoded[8:12] != b"WEBP" or len(encoded) < 30:
        return None
    kind = encoded[12:16]
    if kind == b"VP8X":
        return int.from_bytes(encoded[24:27], "little") + 1, int.from_bytes(encoded[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(encoded[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", encoded[26:30])
    return width & 0x3FFF, height & 0x3FFF


def check_notes(encoded: bytes) -> None:
    """Refuses a JPEG or TIFF file whose notes, such as EXIF, would take far more memory or time than its pixels.

    Raises:
      UndecodableImage: says how large they are.
    """
    if encoded.startswith(b"\xff\xd8"):
        size = 0
        exif = b""
        for kind, start, end in _jpeg_notes(encoded):
            size += end - start
            if size > _MOST_NOTES:
                raise UndecodableImage(
                    f"the image has more than {_MOST_NOTES:,} bytes of notes, such as EXIF, before its pixels"
                )
            if kind == 0xE1 and encoded[start : start + 6] == b"Exif\0\0":
                exif += encoded[start + 6 : end]
        _check_directory(exif)
    elif encoded[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        _check_directory(encoded)


def _jpeg_notes(encoded: bytes) -> Iterator[tuple[int, int, int]]:
    """The markers APP0 to APP15 and COM before the pixels, with the start and end of each one's bytes."""
    place = 2
    while place + 4 <= len(encoded) and encoded[place] == 0xFF:
        kind = encoded[place + 1]
        if kind == 0xDA:  # the pixels follow
            return
        if kind == 0xFF:  # filling
            place += 1
            continue
        if kind == 0x01 or 0xD0 <= kind <= 0xD8:  # markers without a length
            place += 2
            continue
        end = place + 2 + int.from_bytes(encoded[place + 2 : place + 4])
        if 0xE0 <= kind <= 0xEF or kind == 0xFE:
            yield kind, place + 4, min(end, len(encoded))
        place = end


# The bytes of a value of each type of TIFF 6.0 and BigTIFF.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def _check_directory(data: bytes) -> None:
    """Refuses a first directory of TIFF, or of EXIF, whose values claim more bytes than there are.

    Many values may claim the same bytes, and Pillow copies those of each.
    """
    if data[:2] not in (b"II", b"MM"):
        return
    order = "<" if data[:2] == b"II" else ">"
    try:
        big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
        place = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)[0]
        count = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, place)[0]
        entry = struct.Struct(f"{order}HH{'Q8x' if big else 'I4x'}")
        place += 8 if big else 2
        count = min(count, (len(data) - place) // entry.size)
        claimed = 0
        for _, kind, values in entry.iter_unpack(data[place : place + max(0, count) * entry.size]):
            size = values * _SIZES.get(kind, 0)
            claimed += size if size <= len(data) else 0  # Pillow leaves out what is not there
    except (struct.error, OverflowError):
        return
    if claimed > len(data) + _MOST_NOTES:
        raise UndecodableImage(f"the notes of the image claim {claimed:,} bytes, where it has {len(data):,} in all")
