import pathlib
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest

from transforms.images import MODES, application_family, preprocessing

PROJECT = pathlib.Path(__file__).parents[3]
FAMILIES = sorted(
    name
    for name, member in vars(keras.applications).items()
    if hasattr(member, "preprocess_input") and name != "imagenet_utils"
)
APPLICATIONS = sorted(name for name in vars(keras.applications) if name[0].isupper())


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 16, 12, 3), np.uint8)


def assert_same_bits(actual, expected):
    assert actual.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(actual.view(np.uint32), np.ascontiguousarray(expected).view(np.uint32))


class TestKeras:
    def test_there_are_families_to_test(self):
        assert {"resnet", "resnet50", "xception", "convnext", "mobilenet_v3"} < set(FAMILIES)
        assert {"ResNet50", "Xception", "ConvNeXtTiny"} < set(APPLICATIONS)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_family_gives_the_bits_of_its_own_preprocess_input(self, family, pixels):
        expected = getattr(keras.applications, family).preprocess_input(pixels.astype(np.float32))
        assert_same_bits(preprocessing(family)(pixels), expected)

    @pytest.mark.parametrize("application", APPLICATIONS)
    def test_an_application_is_preprocessed_as_its_family(self, application, pixels):
        family = application_family(application)
        # Every family module exports what preprocesses for the applications that it defines, and no others.
        assert getattr(keras.applications, application).__module__ == f"keras.src.applications.{family}"
        expected = getattr(keras.applications, family).preprocess_input(pixels.astype(np.float32))
        for name in (application, application.lower(), application.upper(), family):
            assert_same_bits(preprocessing(name)(pixels), expected)

    @pytest.mark.parametrize("mode", MODES)
    def test_a_mode_gives_the_bits_of_imagenet_utils(self, mode, pixels):
        expected = keras.applications.imagenet_utils.preprocess_input(pixels.astype(np.float32), mode=mode)
        assert_same_bits(preprocessing(mode)(pixels), expected)

    @pytest.mark.parametrize("scale", [*MODES, "resnet", "convnext"])
    def test_the_global_data_format_makes_no_difference(self, scale, pixels, monkeypatch):
        expected = preprocessing(scale)(pixels)
        monkeypatch.setattr(keras.backend, "image_data_format", lambda: "channels_first")
        keras.config.set_image_data_format("channels_first")
        try:
            assert_same_bits(preprocessing(scale)(pixels), expected)
        finally:
            keras.config.set_image_data_format("channels_last")

    @pytest.mark.parametrize("channels", [1, 2])
    @pytest.mark.parametrize("scale", ["torch", "caffe", "resnet"])
    def test_colour_preprocessing_refuses_grey_images(self, scale, channels):
        with pytest.raises(ValueError, match=f"{scale} is for images of 3 channels, but these have {channels}"):
            preprocessing(scale)(np.zeros((2, 4, 4, channels), np.uint8))

    def test_tf_scales_grey_images_too(self):
        grey = np.uint8([0, 255]).reshape(1, 1, 2, 1)
        assert_same_bits(preprocessing("tf")(grey), np.float32([-1, 1]).reshape(1, 1, 2, 1))


class TestAffine:
    MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

    def test_all_steps_are_the_plain_float32_expression(self, pixels):
        x, mean, std = pixels.astype(np.float32), np.float32(self.MEAN), np.float32(self.STD)
        scale = preprocessing({"divide": 255, "mean": self.MEAN, "std": self.STD})
        assert_same_bits(scale(pixels), (x / np.float32(255) - mean) / std)

    def test_each_step_can_be_left_out(self, pixels):
        x, mean, std = pixels.astype(np.float32), np.float32(self.MEAN), np.float32(self.STD)
        assert_same_bits(preprocessing({"divide": 255})(pixels), x / np.float32(255))
        assert_same_bits(preprocessing({"mean": self.MEAN})(pixels), x - mean)
        assert_same_bits(preprocessing({"std": self.STD, "mean": None})(pixels), x / std)
        assert_same_bits(preprocessing({})(pixels), x)

    def test_none_is_float32_as_it_is(self, pixels):
        assert_same_bits(preprocessing("none")(pixels), pixels.astype(np.float32))

    def test_grey_images_take_one_mean(self):
        grey = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
        expected = (grey.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.3)
        assert_same_bits(preprocessing({"divide": 255, "mean": [0.5], "std": [0.3]})(grey), expected)

    @pytest.mark.parametrize(("key", "values", "channels"), [("mean", [1, 2, 3], 1), ("std", [1], 3)])
    def test_as_many_values_as_channels_or_it_is_refused(self, key, values, channels):
        with pytest.raises(ValueError, match=rf"scale.{key} is for images of {len(values)} channels, .* {channels}$"):
            preprocessing({key: values})(np.zeros((1, 4, 4, channels), np.uint8))

    @pytest.mark.parametrize("scale", [{"divide": 0}, {"std": [1, 0, 1]}, {"mean": [float("nan")] * 3}])
    def test_what_would_make_pixels_infinite_or_undefined_is_refused(self, scale):
        with pytest.raises(ValueError, match=f"scale.{next(iter(scale))}"):
            preprocessing(scale)

    def test_an_unknown_key_is_refused_with_the_nearest(self):
        with pytest.raises(ValueError, match=r"'means'.*did you mean 'mean'"):
            preprocessing({"means": [1, 2, 3]})


class TestAnyScale:
    @pytest.mark.parametrize("scale", ["none", "caffe", "resnet50", "convnext", {"divide": 255}])
    def test_the_pixels_are_left_as_they_are(self, scale, pixels):
        for batch in (pixels, pixels.astype(np.float32)):
            before = batch.copy()
            scaled = preprocessing(scale)(batch)
            np.testing.assert_array_equal(batch, before)
            assert not np.shares_memory(scaled, batch)
            assert scaled.flags.c_contiguous

    @pytest.mark.parametrize("scale", ["none", "caffe", "Xception", {"mean": [1, 2, 3]}])
    def test_it_survives_pickling(self, scale, pixels):
        scaled = preprocessing(scale)
        again = pickle.loads(pickle.dumps(scaled))
        assert again == scaled
        assert hash(again) == hash(scaled)
        assert_same_bits(again(pixels), scaled(pixels))

    @pytest.mark.parametrize(
        ("name", "nearest"), [("resnet51", "resnet50"), ("torhc", "torch"), ("Xeption", "xception"), ("non", "none")]
    )
    def test_an_unknown_name_is_refused_with_the_nearest(self, name, nearest):
        with pytest.raises(ValueError, match=f"'{name}', which is not known; did you mean '{nearest}'"):
            preprocessing(name)

    def test_a_name_like_no_other_is_refused_with_all_that_there_are(self):
        with pytest.raises(ValueError, match="not one of none, tf, torch, caffe, convnext"):
            preprocessing("zzzzzz")

    def test_an_unknown_application_is_refused_with_the_nearest(self):
        with pytest.raises(ValueError, match=r"application is 'ResNet51', .* 'resnet50'"):
            application_family("ResNet51")

    def test_keras_is_imported_only_where_it_is_needed(self):
        code = (
            "import sys, numpy as np; from transforms.images import preprocessing; "
            "preprocessing({'divide': 255})(np.zeros((1, 2, 2, 3), np.uint8)); preprocessing('torch'); "
            "sys.exit('keras' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0
