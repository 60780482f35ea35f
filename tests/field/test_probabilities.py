"""Models whose outputs are probabilities that no final softmax or sigmoid makes.

The right value is what `model.predict` gives. Public reports of the kind: fra31/auto-attack #102 (an ensemble that
averages softmaxes has no logits), jacobgil/pytorch-grad-cam #38 (explaining an ensemble).
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from pipeline.cli import main
from pipeline.config import Config
from pipeline.run import launch, prepare
from tests import shards
from tests.samples import SIDE, configuration, encoded_images
from tests.transforms.fullgrad.networks import images, randomize
from transforms.fullgrad import expose, full_gradients
from transforms.output import Output, read_maps, read_table


def _model(head: Callable[[Any], Any]) -> keras.Model:
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(8, 3, activation="relu")(image)
    return randomize(keras.Model(image, head(x)))


def _pooled(x: Any) -> Any:
    return layers.GlobalAveragePooling2D()(x)


def _average(classes: int, activation: str) -> Callable[[Any], Any]:
    return lambda x: layers.Average()([layers.Dense(classes, activation)(_pooled(x)) for _ in range(3)])


class Renormalised(layers.Layer):
    def call(self, x: Any) -> Any:
        positive = ops.exp(ops.tanh(x))
        return positive / ops.sum(positive, axis=-1, keepdims=True)


PROBABILITIES: dict[str, Callable[[Any], Any]] = {
    "an average of softmaxes": _average(3, "softmax"),
    "a softmax before pooling": lambda x: _pooled(layers.Conv2D(3, 1, activation="softmax")(x)),
    "a mixture of experts": lambda x: ops.sum(
        ops.stack([layers.Dense(3, "softmax")(_pooled(x)) for _ in range(2)], axis=1)
        * ops.expand_dims(layers.Dense(2, "softmax")(_pooled(x)), -1),
        axis=1,
    ),
    "positive numbers over their sum": lambda x: Renormalised()(layers.Dense(3)(_pooled(x))),
    "a smoothed softmax": lambda x: 0.9 * layers.Dense(3, "softmax")(_pooled(x)) + 0.1 / 3,
    "an average of sigmoids, each class alone": _average(3, "sigmoid"),
    "an average of sigmoids, one class against the other": _average(1, "sigmoid"),
}

LOGITS: dict[str, Callable[[Any], Any]] = {
    "a dense head": lambda x: layers.Dense(3)(_pooled(x)),
    "a convolution before pooling": lambda x: _pooled(layers.Conv2D(3, 1)(x)),
    "an average of logits": lambda x: layers.Average()([layers.Dense(3)(_pooled(x)) for _ in range(3)]),
    "scaled logits": lambda x: 0.01 * layers.Dense(3)(_pooled(x)),
    "logarithms of probabilities": lambda x: ops.log_softmax(layers.Dense(3)(_pooled(x))),
    "logits that are never negative": lambda x: layers.ReLU()(layers.Dense(3)(_pooled(x))),
    "cosines": lambda x: layers.UnitNormalization()(layers.Dense(3)(_pooled(x))),
}


def _of_two_classes(own: np.ndarray) -> np.ndarray:
    return np.concatenate([1 - own, own], axis=1) if own.shape[1] == 1 else own


@pytest.mark.quick_cases(every=3)
@pytest.mark.parametrize("head", PROBABILITIES)
def test_probabilities_are_the_models_own(head: str) -> None:
    model = _model(PROBABILITIES[head])
    batch = images(model, 8)
    exposed = expose(model)
    explanation = full_gradients(exposed, batch, 0)
    own = _of_two_classes(model.predict(batch, verbose=0))
    assert exposed.ends_in == "probabilities"
    np.testing.assert_allclose(exposed.probabilities(explanation.logits), own, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(explanation.logits.argmax(axis=1), own.argmax(axis=1))
    assert explanation.completeness_error.max() <= exposed.tolerance
    # What is explained is the probability itself, or how far it lies above one half.
    f = own[:, 0] - (0.5 if model.output_shape[-1] == 1 else 0.0)
    np.testing.assert_allclose(explanation.explained, f, rtol=0, atol=1e-6)
    np.testing.assert_allclose(explanation.input_term + explanation.bias_term, f, rtol=0, atol=1e-5)


@pytest.mark.parametrize("head", LOGITS)
def test_logits_stay_logits(head: str) -> None:
    model = _model(LOGITS[head])
    batch = images(model, 8)
    exposed = expose(model)
    assert exposed.ends_in == "logits"
    np.testing.assert_allclose(full_gradients(exposed, batch).logits, model.predict(batch, verbose=0), atol=1e-5)


def _run(folder: pathlib.Path, model: keras.Model, **explain: Any) -> dict[str, Any]:
    model.save(folder / "model.keras")
    shards.write_tfrecord(folder / "a.tfrecord", encoded_images(12))
    value = configuration(folder, str(folder / "a.tfrecord"), explain=explain)
    launch(prepare(Config.from_dict(value)))
    return value


def test_a_run_has_the_models_probabilities_and_no_logits(tmp_path: pathlib.Path) -> None:
    model = _model(PROBABILITIES["an average of softmaxes"])
    value = _run(tmp_path, model, targets="top-2")
    rows = sorted(read_maps(value["output"]["path"]), key=lambda row: (row["index"], row["target"]))
    pixels = np.stack(
        [
            np.asarray(keras.utils.load_img(_saved(tmp_path, name, data)), np.float32) / 255 - 0.5
            for name, data, _ in encoded_images(12)
        ]
    )
    own = model.predict(pixels, verbose=0)
    for row in rows:
        assert row["probability"] == pytest.approx(own[row["index"], row["target"]], abs=1e-6)
        assert row["explained"] == row["probability"]
        assert row["logit"] is None
        assert row["contrast_class"] is None
        assert row["predicted"] == own[row["index"]].argmax()
    classes = {row["class"]: row for row in read_table(f"{value['output']['path']}/classes.parquet").to_pylist()}
    for index in {row["target"] for row in rows}:
        of_class = [row for row in rows if row["target"] == index]
        assert classes[index]["mean_probability"] == pytest.approx(np.mean([row["probability"] for row in of_class]))
        assert classes[index]["mean_logit"] is None
        best = max(of_class, key=lambda row: row["probability"])
        assert classes[index]["top_logit_ids"][0] == best["image_id"]
    inspected = Output(value["output"]["path"]).read_json("run.json")["model"]
    assert inspected["ends_in"] == "probabilities"
    assert inspected["explains"].startswith("the probability that the model ends in")


def _saved(folder: pathlib.Path, name: str, data: bytes) -> pathlib.Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_inspect_says_what_is_explained(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    for head, said in (
        (PROBABILITIES["an average of softmaxes"], "the probability that the model ends in"),
        (LOGITS["a dense head"], "the logit that the model ends in"),
        (lambda x: layers.Dense(3, "softmax")(_pooled(x)), "the logit before the final softmax"),
    ):
        _model(head).save(tmp_path / "model.keras")
        assert main(["inspect", str(tmp_path / "model.keras")]) == 0
        assert said in capsys.readouterr().out


@pytest.mark.quick_cases(every=2)
@pytest.mark.parametrize("targets", ["predicted", "top-3"])
def test_with_a_contrast_f_and_the_class_that_it_is_against_are_columns(tmp_path: pathlib.Path, targets: str) -> None:
    model = _model(lambda x: layers.Dense(3, "softmax")(_pooled(x)))
    value = _run(tmp_path, model, targets=targets, contrast="runner_up", maps="signed")
    rows = list(read_maps(value["output"]["path"]))
    terms = [row["input_term"] + row["bias_term"] for row in rows]
    np.testing.assert_allclose([row["explained"] for row in rows], terms, rtol=1e-4, atol=1e-4)
    maps = [row["map"].sum(dtype=np.float64) + row["unlocated_term"] for row in rows]
    np.testing.assert_allclose([row["explained"] for row in rows], maps, rtol=1e-4, atol=1e-4)
    by_image: dict[int, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_image.setdefault(row["index"], {})[row["target"]] = row
        assert row["contrast_class"] != row["target"]
    for of_image in by_image.values():
        if len(of_image) == 3:
            for target, row in of_image.items():
                other = max((each for each in of_image if each != target), key=lambda each: of_image[each]["logit"])
                assert row["contrast_class"] == other
                assert row["explained"] == pytest.approx(row["logit"] - of_image[other]["logit"], abs=1e-5)
