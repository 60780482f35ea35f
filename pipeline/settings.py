"""Translates the configuration into what workers are told. Each setting is handed down once, from here."""

from __future__ import annotations

from pipeline.config import Config
from transforms.explain import ExplainSettings
from transforms.images import Affine, Resize
from transforms.models import ModelSpec, fingerprint_of, read_class_names
from transforms.output import Output
from transforms.sources import Fields


def model_spec(config: Config) -> ModelSpec:
    """The model that is explained, and how its input is made.

    Raises:
      ValueError: a file cannot be used; one sentence that names the key.
    """
    model, resize = config.model, config.model.preprocess.resize
    custom_objects = model.custom_objects or ()
    return ModelSpec(
        fingerprint=fingerprint_of(model.path, model.application, model.weights, custom_objects),
        path=model.path,
        application=model.application,
        weights=model.weights,
        output=model.output,
        trust=model.trust,
        resize=Resize(resize.shape, resize.how, resize.short_side, resize.filter),
        scale=_scale(config),
        class_names=None if model.class_names is None else read_class_names(model.class_names),
        exif=model.preprocess.exif,
        custom_objects=custom_objects,
    )


def _scale(config: Config) -> str | Affine:
    scale = config.model.preprocess.scale
    return scale if isinstance(scale, str) else Affine(scale.divide, scale.mean, scale.std)


def field_names(config: Config) -> Fields:
    """The names of the fields that hold an image, its id and its label, and the largest record."""
    fields = config.input.fields
    return Fields(fields.image, fields.id, fields.label, config.input.record_mib << 20)


def worker_settings(
    config: Config, *, run: str, spec: ModelSpec, output: Output, unit_images: int | None
) -> ExplainSettings:
    """Everything that a worker is told.

    Args:
      config: what to run.
      run: the run's id.
      spec: from `model_spec`.
      output: the folder that is written.
      unit_images: images of the largest unit; None where no unit was counted.
    """
    explain = config.explain
    return ExplainSettings(
        run=run,
        output=output,
        model=spec,
        fields=field_names(config),
        targets=explain.targets,
        method=explain.method,
        maps=explain.maps,
        biases=explain.biases,
        contrast=explain.contrast,
        channels=explain.channels,
        samples=explain.samples,
        noise_level=explain.noise_level,
        seed=explain.seed,
        map_size=config.output.map_size,
        map_dtype=config.output.map_dtype,
        grid=config.output.grid,
        images=config.output.images,
        decoding_bytes=config.input.decoding_mib << 20,
        clusters=config.output.clusters == "on",
        unit_images=unit_images,
        batch_size=None if explain.batch_size == "auto" else explain.batch_size,
        jit={"auto": None, "on": True, "off": False}[explain.jit],
    )
