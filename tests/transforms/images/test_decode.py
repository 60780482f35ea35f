import io
import itertools
import os
import pathlib
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transforms.images import FILTERS, Resize, UndecodableImage, decode_image, resize_image

PROJECT = pathlib.Path(__file__).parents[3]
DATA = pathlib.Path(os.environ.get("FULLGRAD_TEST_DATA", PROJECT.parent / "shared" / "data"))


def random_pixels(height, width, channels=3, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format, **options)
    return buffer.getvalue()


def as_it_is(encoded, channels=3):
    """The image's pixels at its own size."""
    with Image.open(io.BytesIO(encoded)) as image:
        return decode_image(encoded, Resize((image.height, image.width)), channels)


class TestPixels:
    @pytest.mark.parametrize("how", ["stretch", "center_crop"])
    def test_an_image_of_the_right_size_keeps_its_pixels(self, how):
        pixels = random_pixels(40, 30)
        short_side = {"stretch": None, "center_crop": 30}[how]
        shape = {"stretch": (40, 30), "center_crop": (30, 30)}[how]
        decoded = decode_image(encode(pixels), Resize(shape, how, short_side), 3)
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, pixels[5:35] if how == "center_crop" else pixels)

    @pytest.mark.parametrize("format", ["PNG", "BMP", "PPM", "TIFF", "JPEG", "WEBP", "GIF", "JPEG2000", "AVIF"])
    def test_every_format_gives_the_pixels_that_pillow_gives(self, format):
        encoded = encode(random_pixels(16, 24), format)
        np.testing.assert_array_equal(as_it_is(encoded), np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")))

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}])
    @pytest.mark.parametrize("given", ["RGB", "L", "CMYK"])
    def test_every_kind_of_jpeg_gives_the_pixels_that_pillow_gives(self, given, options, channels):
        encoded = encode(Image.fromarray(random_pixels(17, 35)).convert(given), "JPEG", quality=80, **options)
        wanted = np.asarray(Image.open(io.BytesIO(encoded)).convert("L" if channels == 1 else "RGB"))
        decoded = as_it_is(encoded, channels)
        np.testing.assert_array_equal(decoded, wanted.reshape(decoded.shape))
        assert not decoded.flags.writeable
        resize = Resize((12, 12), "center_crop", 14)
        in_png = decode_image(encode(wanted), resize, channels)
        np.testing.assert_array_equal(decode_image(encoded, resize, channels), in_png)

    def test_alpha_is_dropped(self):
        pixels = random_pixels(8, 8, 4)
        np.testing.assert_array_equal(as_it_is(encode(pixels)), pixels[..., :3])
        grey = Image.fromarray(pixels[..., :2])
        assert grey.mode == "LA"
        np.testing.assert_array_equal(as_it_is(encode(grey), 1)[..., 0], pixels[..., 0])

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("given", [1, 3, 4])
    def test_a_decoded_image_becomes_what_it_would_encoded(self, given, channels):
        pixels = random_pixels(20, 30, given)
        resize = Resize((16, 16), "center_crop", 18)
        wanted = decode_image(encode(pixels), resize, channels)
        np.testing.assert_array_equal(resize_image(pixels, resize, channels), wanted)
        if given == 1:
            np.testing.assert_array_equal(resize_image(pixels[..., None], resize, channels), wanted)

    @pytest.mark.parametrize(
        ("pixels", "shown"),
        [
            (np.zeros((8, 8, 3), np.float32), r"array of float32 \[8, 8, 3\]"),
            (np.zeros((8, 8, 2), np.uint8), r"uint8 \[8, 8, 2\]"),
            (np.zeros((1, 8, 8, 3), np.uint8), r"uint8 \[1, 8, 8, 3\]"),
            (np.zeros(8, np.uint8), r"uint8 \[8\]"),
            (np.zeros((0, 8, 3), np.uint8), r"uint8 \[0, 8, 3\]"),
        ],
    )
    def test_an_array_that_is_no_image_is_refused_with_its_shape(self, pixels, shown):
        with pytest.raises(UndecodableImage, match=shown):
            resize_image(pixels, Resize((8, 8)), 3)

    def test_a_palette_becomes_its_colours_whether_or_not_one_is_transparent(self):
        image = Image.fromarray(random_pixels(8, 8)).quantize(16)
        colours = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(as_it_is(encode(image)), colours)
        np.testing.assert_array_equal(as_it_is(encode(image, transparency=3)), colours)
        np.testing.assert_array_equal(as_it_is(encode(image, transparency=bytes(range(16)))), colours)

    def test_cmyk_becomes_rgb(self):
        image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
        encoded = encode(image, "TIFF")
        np.testing.assert_array_equal(as_it_is(encoded), np.broadcast_to(np.uint8([0, 255, 255]), (8, 8, 3)))
        assert as_it_is(encoded, 1).shape == (8, 8, 1)

    def test_one_bit_is_black_and_white(self):
        bits = random_pixels(8, 8, 1) > 127
        np.testing.assert_array_equal(as_it_is(encode(bits), 1)[..., 0], bits * np.uint8(255))

    def test_grey_fills_three_channels_and_colour_becomes_luma(self):
        grey = random_pixels(8, 8, 1)
        np.testing.assert_array_equal(as_it_is(encode(grey), 3), np.repeat(grey[..., None], 3, axis=2))
        pixels = random_pixels(8, 8)
        np.testing.assert_array_equal(as_it_is(encode(pixels), 1)[..., 0], Image.fromarray(pixels).convert("L"))

    @pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
    def test_sixteen_bit_grey_is_scaled_rather_than_clipped(self, format):
        values = np.uint16([[0, 255, 256, 257, 32768, 65535]])
        decoded = as_it_is(encode(values, format), 1)
        np.testing.assert_array_equal(decoded[..., 0], [[0, 0, 1, 1, 128, 255]])

    def test_thirty_two_bit_grey_is_taken_for_sixteen_bits(self):
        decoded = as_it_is(encode(np.int32([[0, 256, 65535]]), "TIFF"), 1)
        np.testing.assert_array_equal(decoded[..., 0], [[0, 1, 255]])

    def test_floating_grey_reaches_from_zero_to_one(self):
        decoded = as_it_is(encode(np.float32([[0, 0.5, 1]]), "TIFF"), 1)
        np.testing.assert_array_equal(decoded[..., 0], [[0, 128, 255]])

    @pytest.mark.parametrize("values", [np.int32([[0, 70000]]), np.int32([[-1, 5]]), np.float32([[0, 255]])])
    def test_grey_without_a_known_white_is_refused(self, values):
        with pytest.raises(UndecodableImage, match="grey values"):
            as_it_is(encode(values, "TIFF"), 1)

    def test_not_a_number_is_refused(self):
        with pytest.raises(UndecodableImage, match="grey values"):
            as_it_is(encode(np.float32([[0, np.nan]]), "TIFF"), 1)

    def test_only_one_or_three_channels_are_decoded(self):
        with pytest.raises(ValueError, match="not to 4"):
            decode_image(encode(random_pixels(8, 8)), Resize((8, 8)), 4)

    def test_the_lossless_cifar_images_are_what_pillow_gives(self):
        shard = DATA / "cifar10" / "lossless.tfrecord-00000-of-00001"
        if not shard.exists():
            pytest.skip(f"{shard} is not here")
        images = list(itertools.islice(pngs(shard), 200))
        assert len(images) == 200
        for encoded in images:
            expected = np.asarray(Image.open(io.BytesIO(encoded)))
            np.testing.assert_array_equal(decode_image(encoded, Resize((32, 32)), 3), expected)


def pngs(shard):
    """The PNG inside every record of a TFRecord shard, found by its signature and its end."""
    with shard.open("rb") as file:
        while header := file.read(12):
            record = file.read(struct.unpack("<Q", header[:8])[0] + 4)
            yield record[record.index(b"\x89PNG") : record.index(b"IEND") + 8]


class TestResize:
    @pytest.mark.parametrize("filter", FILTERS)
    def test_stretch_is_pillows_resize_whatever_the_aspect_ratio(self, filter):
        pixels = random_pixels(40, 30)
        decoded = decode_image(encode(pixels), Resize((20, 25), filter=filter), 3)
        np.testing.assert_array_equal(decoded, Image.fromarray(pixels).resize((25, 20), FILTERS[filter]))

    @pytest.mark.parametrize(
        ("size", "resized_size", "box"),
        [
            ((500, 375), (341, 256), (58, 16, 282, 240)),  # 58.5 rounds to the even 58
            ((375, 500), (256, 341), (16, 58, 240, 282)),
            ((376, 263), (365, 256), (70, 16, 294, 240)),  # 365.99 rounds down, 70.5 to the even 70
            ((300, 500), (256, 426), (16, 101, 240, 325)),
            ((100, 100), (256, 256), (16, 16, 240, 240)),
        ],
    )
    def test_center_crop_rounds_as_torchvision(self, size, resized_size, box):
        image = Image.fromarray(random_pixels(size[1], size[0]))
        decoded = decode_image(encode(image), Resize((224, 224), "center_crop"), 3)
        np.testing.assert_array_equal(decoded, image.resize(resized_size, Image.Resampling.BILINEAR).crop(box))

    @given(
        size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
        shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
        larger=st.integers(0, 5),
        channels=st.sampled_from([1, 3]),
    )
    @settings(deadline=None)
    def test_the_shape_is_always_what_was_asked_for(self, size, shape, larger, channels):
        encoded = encode(Image.new("RGB", size))
        for resize in (Resize(shape), Resize(shape, "center_crop"), Resize(shape, "center_crop", max(shape) + larger)):
            assert decode_image(encoded, resize, channels).shape == (*shape, channels)

    def test_the_models_input_fills_in_only_a_shape_that_was_left_open(self):
        assert Resize(how="center_crop", short_side=256).for_input((224, 224)).shape == (224, 224)
        assert Resize((32, 32)).for_input((224, 224)).shape == (32, 32)
        with pytest.raises(ValueError, match="no shape"):
            decode_image(encode(random_pixels(8, 8)), Resize(), 3)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"how": "squeeze"}, "squeeze"),
            ({"filter": "linear"}, "linear"),
            ({"shape": (0, 3)}, "height and a width"),
            ({"shape": (8, 8), "short_side": 9}, "belongs to center_crop"),
            ({"shape": (8, 9), "how": "center_crop", "short_side": 8}, "less than"),
        ],
    )
    def test_what_cannot_be_done_is_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Resize(**arguments)

    def test_the_reference_images_are_crops_of_the_resized_jpegs(self):
        """Their crop is not torchvision's: it begins at (side − 228) // 2, up to a pixel before the middle."""
        reference = DATA.parent / "reference" / "squeezenet_imagenet.npz"
        if not reference.exists() or not (DATA / "imagenet").exists():
            pytest.skip(f"{reference} or {DATA / 'imagenet'} is not here")
        lines = (DATA / "imagenet" / "labels.csv").read_text().splitlines()[1:]
        names = {int(label): name for name, label in (line.split(",")[:2] for line in lines)}
        with np.load(reference) as arrays:
            images, labels = arrays["images"], arrays["labels"]
        for expected, label in zip(images, labels, strict=True):
            encoded = (DATA / "imagenet" / "images" / names[int(label)]).read_bytes()
            with Image.open(io.BytesIO(encoded)) as image:
                height, width = (round(256 * side / min(image.size)) for side in (image.height, image.width))
            decoded = decode_image(encoded, Resize((height, width)), 3)
            top, left = (height - 228) // 2, (width - 228) // 2
            np.testing.assert_array_equal(decoded[top : top + 227, left : left + 227], expected)


SAMPLES = [
    encode(random_pixels(24, 32), "JPEG"),
    encode(random_pixels(24, 32), "JPEG", progressive=True),
    encode(random_pixels(24, 32), "PNG"),
    encode(Image.fromarray(random_pixels(24, 32)).quantize(16), "PNG", transparency=3),
    encode(random_pixels(24, 32).astype(np.uint16)[..., 0] * 257, "PNG"),
    encode(random_pixels(24, 32), "WEBP"),
    encode(random_pixels(24, 32), "TIFF", compression="tiff_lzw"),
]


def with_bytes_replaced(encoded, replacements):
    mutated = bytearray(encoded)
    for place, value in replacements:
        mutated[int(place * len(mutated))] = value
    return bytes(mutated)


MUTATED = st.builds(
    lambda encoded, replacements, cut, inserted: (
        with_bytes_replaced(encoded, replacements)[: int(cut * len(encoded))] + inserted
    ),
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.sampled_from([1.0, 1.0, 0.9, 0.3]),
    st.binary(max_size=20),
)


class TestDamage:
    @given(encoded=st.one_of(MUTATED, st.binary(max_size=200)))
    @settings(deadline=None, max_examples=1000)
    @pytest.mark.filterwarnings("ignore")  # of Pillow, about what it finds in the metadata
    def test_any_bytes_are_an_image_or_undecodable(self, encoded):
        try:
            decoded = decode_image(encoded, Resize((8, 8), "center_crop"), 3)
        except UndecodableImage as error:
            undecodable = str(error)
        else:
            assert decoded.shape == (8, 8, 3)
            return
        assert "\n" not in undecodable
        assert " at 0x" not in undecodable  # an object's address, which would differ from run to run

    @pytest.mark.parametrize("encoded", SAMPLES)
    @pytest.mark.filterwarnings("ignore")
    def test_a_truncated_image_is_never_half_an_image(self, encoded):
        whole = as_it_is(encoded)
        undecodable = 0
        for length in range(len(encoded)):
            try:
                decoded = decode_image(encoded[:length], Resize((24, 32)), 3)
            except UndecodableImage:
                undecodable += 1
            else:
                np.testing.assert_array_equal(decoded, whole)
        assert undecodable > 0.9 * len(encoded)

    def test_no_bytes_are_no_image(self):
        with pytest.raises(UndecodableImage, match="0 bytes"):
            decode_image(b"", Resize((8, 8)), 3)

    def test_text_is_no_image_and_the_message_shows_how_it_begins(self):
        with pytest.raises(UndecodableImage, match="<html><body>"):
            decode_image(b"<html><body>404 not found</body></html>", Resize((8, 8)), 3)

    def test_bytes_without_a_signature_are_not_taken_for_an_image(self):
        assert Image.open(io.BytesIO(encode(random_pixels(8, 8), "TGA"))).size == (8, 8)
        with pytest.raises(UndecodableImage):
            decode_image(encode(random_pixels(8, 8), "TGA"), Resize((8, 8)), 3)

    def test_an_image_without_pixels_is_undecodable(self):
        with pytest.raises(UndecodableImage):
            decode_image(png_header(0, 8), Resize((8, 8)), 3)

    @pytest.mark.parametrize("width", [10_000, 1_000_000])
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_a_decompression_bomb_is_an_error_before_it_is_unpacked(self, width):
        with pytest.raises(UndecodableImage, match="pixels"):
            decode_image(png_header(width, 10_000), Resize((8, 8)), 3)

    @pytest.mark.parametrize("side", [10_000, 60_000])
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_nor_is_a_jpeg_that_says_it_is_as_large(self, side):
        encoded = encode(random_pixels(16, 24), "JPEG")
        frame = encoded.index(b"\xff\xc0") + 5  # behind the marker, the length and the precision: height and width
        bomb = encoded[:frame] + struct.pack(">HH", side, side) + encoded[frame + 4 :]
        with pytest.raises(UndecodableImage, match=f"{side}×{side} pixels is over the limit"):
            decode_image(bomb, Resize((8, 8)), 3)

    def test_a_strip_that_resizing_would_blow_up_is_an_error(self):
        with pytest.raises(UndecodableImage, match="256×25600000"):
            decode_image(encode(Image.new("L", (1, 100_000))), Resize((224, 224), "center_crop"), 3)


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(chunk) - 4) + chunk + checksum + struct.pack(">I", 8) + b"IDAT"
