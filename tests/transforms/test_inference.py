"""The model handler and the transform for pipelines of one's own, in Beam's own runner on a small real model."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
import keras
import numpy as np
import pytest
from apache_beam.ml.inference.base import KeyedModelHandler, ModelMetadata, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image

from tests.pages import code_blocks
from tests.samples import CLASS_NAMES, SIDE, encoded_images, save_model
from tests.transforms.fullgrad.networks import randomize
from transforms import (
    Affine,
    CannotExplain,
    ExplainImages,
    FullGradModelHandler,
    ImageExplanation,
    ImageFailure,
    Resize,
)
from transforms.fullgrad import Explanation, explain, expose
from transforms.images import decode_image
from transforms.models import UnusableModel

SCALE = Affine(divide=255.0, mean=(0.5, 0.5, 0.5))
PNGS = {name: encoded for name, encoded, _ in encoded_images(21)}
NO_IMAGE = b"these bytes are no image"
THREADS = ("--direct_num_workers=4", "--direct_running_mode=multi_threading")
PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.keras")


@pytest.fixture(scope="module")
def handler(model: pathlib.Path) -> FullGradModelHandler:
    return FullGradModelHandler(model, scale=SCALE, batch_size=8)


@dataclasses.dataclass
class Ran:
    """What a pipeline gave, in no order, and what `RunInference` counted."""

    elements: list[Any]
    failures: list[Any]
    counts: dict[str, int]


def run(
    images: Sequence[Any], build: Callable[[beam.PCollection], Any], folder: pathlib.Path, options: Sequence[str] = ()
) -> Ran:
    """Runs images through a transform whose result is one output, or one and its failures."""

    def keep(collection: beam.PCollection, name: str) -> None:
        # Through a file, since with several processes elements are not in this one.
        _ = (
            collection
            | f"Pickle{name}" >> beam.Map(pickle.dumps)
            | f"Write{name}" >> beam.io.WriteToTFRecord(str(folder / name))
        )

    def kept(name: str) -> list[Any]:
        import tensorflow as tf

        files = sorted(str(path) for path in folder.glob(f"{name}-*"))
        return [pickle.loads(record.numpy()) for record in tf.data.TFRecordDataset(files)]

    pipeline = beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(list(options)))
    result = build(pipeline | beam.Create(images) | beam.Reshuffle())
    outputs = (result,) if isinstance(result, beam.PCollection) else tuple(result)
    for output, name in zip(outputs, ("elements", "failures"), strict=False):
        keep(output, name)
    finished = pipeline.run()
    finished.wait_until_finish()
    metrics = finished.metrics().query()
    counts = {each.key.metric.name: each.committed for each in metrics["counters"]}
    counts |= {each.key.metric.name: each.committed.count for each in metrics["distributions"]}
    return Ran(kept("elements"), kept("failures"), counts)


def expected(model: pathlib.Path, encoded: Sequence[bytes], targets: Any = None, **options: Any) -> Explanation:
    """What the method gives for the images, without any of the code under test."""
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(each))) for each in encoded])
    images = (pixels.astype(np.float32) / np.float32(255)) - np.float32(0.5)
    return explain(expose(keras.models.load_model(model)), images, targets, **options)


def assert_same(explanations: Sequence[ImageExplanation], wanted: Explanation) -> None:
    assert [each.target for each in explanations] == wanted.targets.tolist()
    largest = np.abs(wanted.maps).max()
    np.testing.assert_allclose([each.map for each in explanations], wanted.maps, rtol=0, atol=1e-6 * max(1, largest))
    for name in ("logits", "input_term", "bias_term", "unlocated_term"):
        values = [getattr(each, name) for each in explanations]
        np.testing.assert_allclose(values, getattr(wanted, name), rtol=0, atol=1e-6, err_msg=name)
    assert max(each.completeness_error for each in explanations) <= 1e-5 or np.isnan(wanted.completeness_error).all()


# ---- RunInference


@pytest.mark.quick_cases(every=4)
@pytest.mark.parametrize(
    "options",
    [{}, {"maps": "signed", "contrast": "runner_up"}, {"method": "grad_cam"}, {"map_size": [8, 5]}],
    ids=["as it comes", "signed", "grad_cam", "map_size"],
)
def test_each_image_gets_the_explanation_that_the_method_gives_it(
    model: pathlib.Path, tmp_path: pathlib.Path, options: dict[str, Any]
) -> None:
    handler = FullGradModelHandler(model, scale=SCALE, batch_size=8, **options)
    results = run(list(PNGS.values()), lambda images: images | RunInference(handler), tmp_path).elements
    assert sorted(result.example for result in results) == sorted(PNGS.values())
    assert {result.model_id for result in results} == {str(model)}
    if "map_size" in options:
        options = {"map_size": tuple(options["map_size"])}
    assert_same(
        [result.inference for result in results], expected(model, [result.example for result in results], **options)
    )


def test_decoded_images_are_explained_as_encoded_ones_are(
    model: pathlib.Path, handler: FullGradModelHandler, tmp_path: pathlib.Path
) -> None:
    arrays = [np.asarray(Image.open(io.BytesIO(each))) for each in PNGS.values()]
    results = run(arrays, lambda images: images | RunInference(handler), tmp_path).elements
    again = {array.tobytes(): encoded for array, encoded in zip(arrays, PNGS.values(), strict=True)}
    encoded = [again[result.example.tobytes()] for result in results]
    assert_same([result.inference for result in results], expected(model, encoded))


def test_images_of_any_size_are_resized_as_a_run_does_it(handler: FullGradModelHandler, tmp_path: pathlib.Path) -> None:
    sink = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    Image.fromarray(pixels).save(sink, "PNG")
    resized = decode_image(sink.getvalue(), Resize((SIDE, SIDE)), 3)
    results = run([sink.getvalue(), pixels, resized], lambda images: images | RunInference(handler), tmp_path).elements
    one, *others = (result.inference.map for result in results)
    for other in others:
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-6)


def test_keys_stay_with_their_images(
    model: pathlib.Path, handler: FullGradModelHandler, tmp_path: pathlib.Path
) -> None:
    ran = run(list(PNGS.items()), lambda images: images | RunInference(KeyedModelHandler(handler)), tmp_path)
    results = dict(ran.elements)
    assert {name: result.example for name, result in results.items()} == PNGS
    assert_same([results[name].inference for name in PNGS], expected(model, list(PNGS.values())))


def test_several_targets_give_a_tuple_in_their_order(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    handler = FullGradModelHandler(model, scale=SCALE, targets=[2, 0], class_names=CLASS_NAMES, batch_size=8)
    [result] = run([PNGS["image0003.png"]], lambda images: images | RunInference(handler), tmp_path).elements
    assert [each.target_name for each in result.inference] == ["blue", "red"]
    for each, target in zip(result.inference, (2, 0), strict=True):
        assert_same([each], expected(model, [result.example], target))
        assert each.logit == each.logits[target]
        assert each.predicted == each.logits.argmax()


def test_the_batch_size_need_not_be_given(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    handler = FullGradModelHandler(model, scale=SCALE)
    ran = run(list(PNGS.items()), lambda images: images | RunInference(KeyedModelHandler(handler)), tmp_path)
    results = dict(ran.elements)
    assert_same([results[name].inference for name in PNGS], expected(model, list(PNGS.values())))


@pytest.mark.quick_cases(every=2)
@pytest.mark.parametrize("options", [(), THREADS], ids=["one thread", "threads"])
def test_a_process_loads_the_model_once_for_all_its_bundles(
    handler: FullGradModelHandler, tmp_path: pathlib.Path, options: Sequence[str]
) -> None:
    images = [(i, image) for i, image in enumerate([*PNGS.values()] * 4)]
    ran = run(images, lambda images: images | RunInference(KeyedModelHandler(handler)), tmp_path, options)
    assert len(ran.elements) == ran.counts["num_inferences"] == len(images)
    assert ran.counts["inference_request_batch_size"] >= len(images) / 8
    assert ran.counts["load_model_latency_milli_secs"] == 1


@pytest.mark.slow
def test_several_processes_share_a_large_model(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    handler = KeyedModelHandler(FullGradModelHandler(model, scale=SCALE, batch_size=8, large_model=True))
    ran = run(list(PNGS.items()), lambda images: images | RunInference(handler), tmp_path, PROCESSES)
    results = dict(ran.elements)
    assert_same([results[name].inference for name in PNGS], expected(model, list(PNGS.values())))
    assert ran.counts["load_model_latency_milli_secs"] == 1


def test_copies_of_a_model_explain_the_same(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    handler = KeyedModelHandler(FullGradModelHandler(model, scale=SCALE, batch_size=8, model_copies=2))
    results = dict(run(list(PNGS.items()), lambda images: images | RunInference(handler), tmp_path, THREADS).elements)
    assert_same([results[name].inference for name in PNGS], expected(model, list(PNGS.values())))


def test_a_newer_model_is_taken_where_runinference_watches_for_one(
    model: pathlib.Path, handler: FullGradModelHandler, tmp_path: pathlib.Path
) -> None:
    newer = save_model(tmp_path / "newer.keras", seed=5)

    def with_newer(images: beam.PCollection) -> beam.PCollection:
        metadata = images.pipeline | "Newer" >> beam.Create([ModelMetadata(str(newer), "newer")])
        return images | RunInference(handler, model_metadata_pcoll=metadata)

    results = run(list(PNGS.values()), with_newer, tmp_path).elements
    assert {result.model_id for result in results} == {str(newer)}
    assert_same([result.inference for result in results], expected(newer, [result.example for result in results]))


@pytest.mark.slow
def test_an_application_is_explained_with_weights_of_one_s_own(tmp_path: pathlib.Path) -> None:
    weights = tmp_path / "mobilenet.weights.h5"
    network = randomize(keras.applications.MobileNet(weights=None, classes=3))
    network.save_weights(weights)
    handler = FullGradModelHandler(
        application="mobilenet", weights=str(weights), class_names=CLASS_NAMES, maps="signed", batch_size=1
    )
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    [result] = run([pixels], lambda images: images | RunInference(handler), tmp_path).elements
    images = keras.applications.mobilenet.preprocess_input(pixels[None].astype(np.float32))
    wanted = explain(expose(network), images, maps="signed")
    assert result.model_id == str(weights)
    assert result.inference.target_name == CLASS_NAMES[wanted.targets[0]]
    np.testing.assert_allclose(result.inference.map, wanted.maps[0], rtol=0, atol=1e-5 * np.abs(wanted.maps).max())


def test_a_handler_is_small_to_send(handler: FullGradModelHandler) -> None:
    data = pickle.dumps(handler)
    assert len(data) < 1024
    assert pickle.loads(data).batch_elements_kwargs() == {"min_batch_size": 8, "max_batch_size": 8}


# ---- what cannot be explained


def test_an_image_that_cannot_be_decoded_fails_its_batch(handler: FullGradModelHandler, tmp_path: pathlib.Path) -> None:
    images = [*list(PNGS.values())[:3], NO_IMAGE]
    with pytest.raises(CannotExplain, match=r"1 of 4 images in a batch cannot be explained.*are no image that can be"):
        run(images, lambda images: images | RunInference(handler), tmp_path)


def test_exception_handling_sets_the_batch_aside_and_explains_the_others(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    handler = KeyedModelHandler(FullGradModelHandler(model, scale=SCALE, batch_size=4))

    def handled(images: beam.PCollection) -> tuple[beam.PCollection, beam.PCollection]:
        results, other = images | RunInference(handler).with_exception_handling()
        return results, other.failed_inferences

    ran = run([*PNGS.items(), ("none", NO_IMAGE)], handled, tmp_path)
    [(batch, (kind, text, _))] = ran.failures
    assert kind.__name__ == "CannotExplain"
    assert "no image that can be read" in text
    names = [name for name, _ in batch]
    assert "none" in names
    assert len(names) <= 4
    assert sorted([*(name for name, _ in ran.elements), *names]) == sorted([*PNGS, "none"])


def test_returned_failures_cost_no_other_image(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    handler = KeyedModelHandler(FullGradModelHandler(model, scale=SCALE, batch_size=8, failures="return"))
    images = [*PNGS.items(), ("none", NO_IMAGE), ("empty", b""), ("floats", np.zeros((4, 4, 3), np.float32))]
    results = dict(run(images, lambda images: images | RunInference(handler), tmp_path).elements)
    assert_same([results[name].inference for name in PNGS], expected(model, list(PNGS.values())))
    for name, reason in (
        ("none", "no image that can be"),
        ("empty", "0 bytes"),
        ("floats", "array of float32 [4, 4, 3]"),
    ):
        failure = results[name].inference
        assert (failure.stage, failure.error) == ("decode", "UndecodableImage")
        assert reason in failure.message


# ---- ExplainImages


@pytest.mark.parametrize(
    "options",
    [(), THREADS, pytest.param(PROCESSES, marks=pytest.mark.slow)],
    ids=["one thread", "threads", "processes"],
)
def test_every_image_is_explained_or_among_the_failures_with_its_key(
    model: pathlib.Path, handler: FullGradModelHandler, tmp_path: pathlib.Path, options: Sequence[str]
) -> None:
    images = [*PNGS.items(), (7, NO_IMAGE), (None, b""), (("a", 1), "a name"), ("b", None)]
    ran = run(images, lambda images: images | ExplainImages(handler), tmp_path, options)
    explanations, failures = dict(ran.elements), dict(ran.failures)
    assert len(ran.elements) == len(PNGS)
    assert_same([explanations[name] for name in PNGS], expected(model, list(PNGS.values())))
    assert {key: (each.image, each.stage, each.error) for key, each in failures.items()} == {
        7: (NO_IMAGE, "decode", "UndecodableImage"),
        None: (b"", "decode", "UndecodableImage"),
        ("a", 1): ("a name", "decode", "UndecodableImage"),
        "b": (None, "decode", "UndecodableImage"),
    }
    assert "of type str" in failures["a", 1].message


def test_images_without_keys_give_explanations_without(handler: FullGradModelHandler, tmp_path: pathlib.Path) -> None:
    ran = run([*PNGS.values(), NO_IMAGE], lambda images: images | ExplainImages(handler), tmp_path)
    assert [type(each) for each in ran.elements] == [ImageExplanation] * len(PNGS)
    [failure] = ran.failures
    assert isinstance(failure, ImageFailure)
    assert failure.image == NO_IMAGE


def test_an_image_has_an_explanation_for_each_of_several_targets(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    handler = FullGradModelHandler(model, scale=SCALE, targets="top-3", batch_size=8)
    ran = run(list(PNGS.items()), lambda images: images | ExplainImages(handler), tmp_path)
    explanations = {name: [each for key, each in ran.elements if key == name] for name in PNGS}
    assert {len(each) for each in explanations.values()} == {3}
    for rank in range(3):
        assert_same([each[rank] for each in explanations.values()], expected(model, list(PNGS.values()), -1 - rank))


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_an_image_whose_map_is_not_finite_is_a_failure(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    handler = FullGradModelHandler(model, scale=Affine(divide=1e-38), batch_size=8)
    black = np.zeros((SIDE, SIDE, 3), np.uint8)
    ran = run([("black", black), *PNGS.items()], lambda images: images | ExplainImages(handler), tmp_path)
    assert [name for name, _ in ran.elements] == ["black"]
    failures = dict(ran.failures)
    assert failures.keys() == PNGS.keys()
    assert {(each.stage, each.error) for each in failures.values()} == {("explain", "NotFinite")}


def test_images_of_other_windows_do_not_mix(handler: FullGradModelHandler, tmp_path: pathlib.Path) -> None:
    def counted(images: beam.PCollection) -> beam.PCollection:
        explanations, _ = (
            images
            | beam.Map(lambda pair: beam.window.TimestampedValue(pair, int(pair[0][5:9])))
            | beam.WindowInto(beam.window.FixedWindows(10))
            | ExplainImages(handler)
        )
        return explanations | beam.combiners.Count.Globally().without_defaults()

    assert sorted(run(list(PNGS.items()), counted, tmp_path).elements) == [1, 10, 10]


# ---- what is refused where it is made


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "either path, a model file, or application, the name of a Keras application, must be given"),
        ({"path": "a.keras", "application": "Xception"}, "must be given"),
        ({"path": keras.Sequential()}, "path is of type Sequential; it must be that of a file the model is saved in"),
        ({"path": "a.keras", "weights": "imagenet"}, "weights is taken only with application"),
        ({"application": "Xceptoin"}, "did you mean 'xception'"),
        ({"application": "resnet"}, "is a family; choose one of ResNet101, ResNet152, ResNet50"),
        ({"path": "a.keras", "scale": "troch"}, "scale is 'troch', which is not known; did you mean 'torch'"),
        ({"path": "a.keras", "scale": {"divide": 255}}, "it must be a name such as 'tf', or an Affine"),
        ({"path": "a.keras", "resize": (224, 224)}, "it must be a Resize, such as Resize((224, 224))"),
        ({"path": "a.keras", "method": "lime"}, "method must be one of fullgrad, gradients"),
        ({"path": "a.keras", "method": "grad_cam", "maps": "signed"}, "is taken only by the methods fullgrad"),
        ({"path": "a.keras", "biases": "none"}, "biases must be one of all, explicit, not 'none'"),
        ({"path": "a.keras", "contrast": "all"}, "contrast must be one of none, runner_up, not 'all'"),
        ({"path": "a.keras", "targets": "best"}, "must be predicted, top-K such as top-3, or a list of class indices"),
        ({"path": "a.keras", "targets": "label"}, "targets is label, but images come here without labels"),
        ({"path": "a.keras", "map_size": 32}, "map_size is 32; it must be a height and a width in pixels"),
        ({"path": "a.keras", "batch_size": 0}, "batch_size is 0; it must be a whole number from 1 up"),
        ({"path": "a.keras", "failures": "skip"}, "failures is 'skip'; it must be raise or return"),
        ({"path": "a.keras", "class_names": "no such file"}, "no such file cannot be read as a text file"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_in_one_sentence(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as refused:
        FullGradModelHandler(**arguments)
    assert "\n" not in str(refused.value)


def test_arguments_for_the_model_are_refused_when_the_pipeline_is_made(handler: FullGradModelHandler) -> None:
    with pytest.raises(ValueError, match="inference_args has training, but FullGradModelHandler takes none"):
        _ = beam.Pipeline() | beam.Create([b""]) | RunInference(handler, inference_args={"training": True})


@pytest.mark.parametrize(
    ("path", "arguments", "sentence"),
    [
        ("nowhere.keras", {}, "nowhere.keras cannot be loaded as a Keras model"),
        ("nosuch://a/b.keras", {}, "model.path: nosuch://a/b.keras cannot be read"),
        (None, {"targets": [3]}, "explain.targets has class 3, but the model's classes are 0 to 2"),
        (None, {"class_names": ["one", "two"]}, "model.class_names has 2 names"),
        (None, {"resize": Resize((32, 32))}, "resize.shape is [32, 32]"),
    ],
)
def test_what_does_not_fit_the_model_is_said_when_it_is_loaded(
    model: pathlib.Path, path: str | None, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UnusableModel, match=re.escape(sentence)):
        FullGradModelHandler(path or model, **arguments).load_model()


# ---- the package


@pytest.mark.slow
def test_beam_is_imported_by_the_handler_and_not_by_the_method() -> None:
    code = """
import sys, transforms.fullgrad
print("apache_beam" in sys.modules)
from transforms import FullGradModelHandler
print("apache_beam" in sys.modules)
"""
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.split() == ["False", "True"]


def test_the_package_names_what_it_offers() -> None:
    import transforms

    assert set(transforms.__all__) <= set(dir(transforms))
    assert all(getattr(transforms, name).__name__ == name for name in transforms.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Handler'"):
        _ = transforms.Handler


def test_the_documented_pipelines_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, model: pathlib.Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet20_cifar10.keras").write_bytes(model.read_bytes())
    (tmp_path / "images").mkdir()
    for name, encoded in [*PNGS.items(), ("none.png", NO_IMAGE)]:
        (tmp_path / "images" / name).write_bytes(encoded)
    options = PipelineOptions(runner=f"{FnApiRunner.__module__}.FnApiRunner")
    with_inference, with_failures = code_blocks("docs/pipelines.md", "python")
    variables: dict[str, Any] = {"options": options}

    (tmp_path / "images" / "none.png").rename(tmp_path / "none.png")
    exec(with_inference, variables)
    header, *lines = "".join(path.read_text() for path in (tmp_path / "out").glob("explained*")).splitlines()
    assert header == "path,target,logit,map_sum"
    assert sorted(line.split(",")[0] for line in lines) == [f"images/{name}" for name in PNGS]

    (tmp_path / "none.png").rename(tmp_path / "images" / "none.png")
    exec(with_failures, variables)
    header, *lines = "".join(path.read_text() for path in (tmp_path / "out").glob("completeness*")).splitlines()
    assert header == "class,largest_error"
    assert all(float(line.split(",")[1]) <= 1e-4 for line in lines)
    failures = "".join(path.read_text() for path in (tmp_path / "out").glob("failures*"))
    assert failures.startswith("images/none.png: the 24 bytes that begin with")
