"""Decodes images to pixels of the model's size."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Literal, TypeAlias, TypeVar, get_args

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from transforms.images.budget import SMALL, room_for
from transforms.images.headers import check_notes, decoding_bytes, webp_size
from transforms.images.limits import UndecodableImage, check_size
from transforms.images.resize import Resize, resized

T = TypeVar("T")
# Pixels as simplejpeg gives them, or Pillow's image.
Decoded: TypeAlias = np.ndarray | Image.Image

# Pillow reads more formats. But some, such as TGA, have no signature and turn any bytes into an image, and EPS starts
# another program.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

# The brands at the start of HEIF files with HEVC inside, as phones write them.
_HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

# The pixels that are scaled to 8 bits at once.
_STRIP_PIXELS = 1 << 20

# A plain JPEG of so many pixels does not wait for room.
_SMALL_JPEG_PIXELS = SMALL // decoding_bytes("JPEG", 1, 1)

# What is done with an orientation in an image's EXIF or XMP.
Exif: TypeAlias = Literal["ignore", "apply"]
EXIF: tuple[Exif, ...] = get_args(Exif)


def decode_image(encoded: bytes, resize: Resize, channels: int, exif: Exif = "ignore") -> np.ndarray:
    """Decodes one image, in colour or grey, and resizes it.

    An animation gives its first frame. Alpha is dropped and not composited over a colour, as in `tf.image` and Keras'
    `load_img`. 16-bit grey keeps its high byte, as Pillow and `tf.image` do with 16-bit colour. Floating-point grey is
    0 to 1. Colour becomes grey by ITU-R 601 luma.

    Args:
      encoded: the file's bytes, in one of `FORMATS`.
      resize: how the image is resized. It must have a shape; see `Resize.for_input`.
      channels: 3 for RGB, 1 for grey.
      exif: what is done with an orientation in the image's EXIF or XMP. `ignore` keeps the pixels as they are stored,
        as `tf.io.decode_image`, Keras' `load_img` and torchvision's loaders do. `apply` turns the image upright. Pillow
        always turns TIFF files by their EXIF, so both settings give the same for them.

    Returns:
      uint8 [height, width, channels], read-only.

    Raises:
      UndecodableImage: the bytes are not an image, or are cut off or damaged. Or the image is larger than Pillow's
        `Image.MAX_IMAGE_PIXELS`, before or after resizing.
      ValueError: `resize` has no shape, `channels` is neither 1 nor 3, or `exif` is neither of `EXIF`.
    """
    mode = _mode(channels)
    if exif not in EXIF:
        raise ValueError(f"exif is {exif!r}; it must be {' or '.join(EXIF)}")
    upright = exif == "apply"
    pixels = None if upright and _may_have_orientation(encoded) else _small_jpeg(encoded, channels)
    if pixels is not None and pixels.shape == (*(resize.shape or ()), channels) and resize.how == "stretch":
        pixels.flags.writeable = False
        return pixels
    if pixels is not None:
        return _resized_pixels(_in_mode(_pillow_image(pixels), mode), resize)
    return _decode(encoded, channels, upright, functools.partial(_decoded_and_resized, mode=mode, resize=resize))


def open_image(encoded: bytes, channels: int = 3, exif: Exif = "ignore") -> Image.Image:
    """Decodes one image as `decode_image` does, and keeps its size.

    Returns:
      a Pillow image in RGB, or grey if `channels` is 1.

    Raises:
      UndecodableImage, ValueError: as `decode_image`.
    """
    return _decode(encoded, channels, exif == "apply", functools.partial(_as_image, mode=_mode(channels)))


def resize_image(pixels: np.ndarray, resize: Resize, channels: int) -> np.ndarray:
    """Resizes an image that is already decoded, as `decode_image` does.

    Args:
      pixels: uint8 [h, w, 3], [h, w, 4] with alpha, or grey as [h, w, 1] or [h, w].
      resize, channels: as in `decode_image`.

    Returns:
      uint8 [height, width, channels], read-only.

    Raises:
      UndecodableImage: the array is not such an image.
      ValueError: as `decode_image`.
    """
    if pixels.dtype != np.uint8 or pixels.shape[2:] not in ((), (1,), (3,), (4,)) or pixels.ndim < 2 or not pixels.size:
        raise UndecodableImage(
            f"the image is an array of {pixels.dtype} {list(pixels.shape)}, but decoded pixels are expected, uint8 "
            "[height, width, 3 or 1]"
        )
    return _resized_pixels(_in_mode(_pillow_image(pixels), _mode(channels)), resize)


def _may_have_orientation(encoded: bytes) -> bool:
    """Whether the image may have an orientation in EXIF or XMP. A wrong yes only costs time."""
    return b"Exif\0\0" in encoded or b"Orientation" in encoded


def _decode(encoded: bytes, channels: int, upright: bool, finish: Callable[[Decoded], T]) -> T:
    """What `finish` makes of the pixels of a plain JPEG as they are stored, or of Pillow's image of any other file.

    The image keeps its room among the decoders of a process until `finish` returns. simplejpeg decodes plain JPEGs.
    Both use libjpeg-turbo and give the same pixels, bit for bit. Pillow also parses the file in Python and holds
    Python's lock meanwhile. Without that, decoding takes a fifth of the time for 32×32 pixels, and two thirds for
    ImageNet's photographs.

    Args:
      encoded, channels: as in `decode_image`.
      upright: whether the image is turned by its EXIF or XMP.
      finish: takes uint8 [h, w, 3], or [h, w, 1] if the image is grey and one channel is wanted; or an image in "RGB"
        or "L".

    Raises:
      UndecodableImage: the image is too large, or cannot be decoded.
    """
    header = None if upright and _may_have_orientation(encoded) else _plain_jpeg_header(encoded)
    if header is not None:
        height, width, colorspace = header
        check_size(width, height)
        wanted = "GRAY" if channels == 1 and colorspace == "Gray" else "RGB"
        need = decoding_bytes("JPEG", width, height)
        with room_for(need, width, height):
            if (pixels := _jpeg_pixels(encoded, wanted)) is not None:
                return finish(pixels)
    if not encoded:
        raise UndecodableImage("the image is empty: 0 bytes")
    check_notes(encoded)
    if (size := webp_size(encoded)) is not None:
        check_size(*size)
        with room_for(decoding_bytes("WEBP", *size), *size):
            return finish(_pillow_pixels(_opened(encoded), encoded, channels, upright))
    with _opened(encoded) as image:
        check_size(*image.size)
        need = decoding_bytes(image.format, *image.size)
        if need <= SMALL:
            return finish(_pillow_pixels(image, encoded, channels, upright))
        with room_for(need, *image.size):
            return finish(_pillow_pixels(image, encoded, channels, upright))


def _as_image(decoded: Decoded, mode: str) -> Image.Image:
    return decoded if isinstance(decoded, Image.Image) else _in_mode(_pillow_image(decoded), mode)


def _decoded_and_resized(decoded: Decoded, mode: str, resize: Resize) -> np.ndarray:
    if (
        isinstance(decoded, np.ndarray)
        and decoded.shape == (*(resize.shape or ()), len(mode))
        and resize.how == "stretch"
    ):
        decoded.flags.writeable = False
        return decoded
    return _resized_pixels(_as_image(decoded, mode), resize)


def _small_jpeg(encoded: bytes, channels: int) -> np.ndarray | None:
    """The pixels of a plain JPEG that needs no room among the decoders; None for any other image.

    This is the whole way of a small image: for one of 32×32 pixels, a context or a closure costs a twentieth.

    Returns:
      uint8 [h, w, 3], or [h, w, 1] if the image is grey and one channel is wanted.
    """
    if not encoded.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(encoded)
        if height * width > _SMALL_JPEG_PIXELS or colorspace not in ("YCbCr", "Gray"):
            return None
        check_size(width, height)
        pixels: np.ndarray = simplejpeg.decode_jpeg(
            encoded, "GRAY" if channels == 1 and colorspace == "Gray" else "RGB", strict=True
        )
    except UndecodableImage:
        raise
    except ValueError:  # damaged, or of a rare kind: Pillow tells which
        return None
    return pixels


def _jpeg_pixels(encoded: bytes, colorspace: str) -> np.ndarray | None:
    """The pixels of a plain JPEG; None if it is damaged or of a rare kind. Then Pillow tells which."""
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(encoded, colorspace, strict=True)
    except ValueError:
        return None
    return pixels


def _plain_jpeg_header(encoded: bytes) -> tuple[int, int, str] | None:
    """The height, width and colour space of a JPEG in grey or the usual colours; None for any other image."""
    if not encoded.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return None
    return (height, width, colorspace) if colorspace in ("YCbCr", "Gray") else None


def _mode(channels: int) -> str:
    """Pillow's mode for images of 1 or 3 channels."""
    if channels not in (1, 3):
        raise ValueError(f"images are decoded to 1 or 3 channels, not to {channels}")
    return "L" if channels == 1 else "RGB"


def _pillow_image(pixels: np.ndarray) -> Image.Image:
    """A Pillow image from pixels [h, w, c] or [h, w]."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _resized_pixels(image: Image.Image, resize: Resize) -> np.ndarray:
    """The resized image, uint8 [height, width, channels]."""
    if resize.shape is None:
        raise ValueError("resize has no shape; Resize.for_input gives it the model's")
    return np.asarray(resized(image, resize)).reshape(*resize.shape, len(image.getbands()))


def _opened(encoded: bytes) -> Image.Image:
    """Pillow's image, whose pixels are not decoded yet."""
    try:
        return Image.open(io.BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError as error:
        if encoded[4:8] == b"ftyp" and encoded[8:12] in _HEIF:
            raise UndecodableImage(
                f"the image is HEIC or HEIF ({encoded[8:12].decode()}), which cannot be decoded here; convert it to "
                "JPEG or PNG"
            ) from error
        raise UndecodableImage(
            f"the {len(encoded)} bytes that begin with {encoded[:12]!r} are no image that can be read as any of "
            f"{', '.join(FORMATS)}"
        ) from error
    except Exception as error:
        raise _undecodable(encoded, error) from error


def _pillow_pixels(image: Image.Image, encoded: bytes, channels: int, upright: bool) -> Image.Image:
    """An image that Pillow decodes, at its own size, in the mode "RGB" or "L", upright or as it is stored."""
    try:
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
        # Pillow warns if a palette's transparency is lost. Here it is dropped on purpose.
        image.info.pop("transparency", None)
        return (_to_eight_bits(image) if image.mode[0] in "IF" else image).convert(_mode(channels))
    except UndecodableImage:
        raise
    except Exception as error:
        raise _undecodable(encoded, error) from error


def _undecodable(encoded: bytes, error: Exception) -> UndecodableImage:
    """Each format's reader raises its own errors: OSError, SyntaxError, struct.error, EOFError, …."""
    reason = f"{type(error).__name__}: {error}".rstrip(".")
    return UndecodableImage(f"the image of {len(encoded)} bytes cannot be decoded: {reason}")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scales grey of 16 bits, 32 bits or floating point to 8 bits. Pillow's own conversion clips some of them at 255.

    Raises:
      UndecodableImage: values lie outside 0 to 65535, or outside 0 to 1 for floating point. White is then unknown.
    """
    white = 1 if image.mode == "F" else 65535
    width, height = image.size
    grey = Image.new("L", image.size)
    # In strips, because an array of all values would take several times the image's memory.
    rows = max(1, _STRIP_PIXELS // width)
    strips = [(top, min(top + rows, height)) for top in range(0, height, rows)]
    ranges = []
    for top, bottom in strips:
        values = np.asarray(image.crop((0, top, width, bottom)))
        ranges += [values.min(), values.max()]
        if values.min() >= 0 and values.max() <= white:
            scaled = np.rint(values * 255) if image.mode == "F" else values >> 8
            grey.paste(Image.fromarray(scaled.astype(np.uint8)), (0, top))
    least, most = np.min(ranges), np.max(ranges)
    if not (least >= 0 and most <= white):
        raise UndecodableImage(f"the grey values are {least} to {most}, not within 0 to {white}")
    return grey
