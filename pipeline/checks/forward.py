"""The model's forward pass for a check: batches of one size, so that a result depends on no other image's company."""

from __future__ import annotations

import numpy as np

from transforms.explainer import activation_bytes
from transforms.fullgrad.tensorflow import autodiff
from transforms.memory import accelerator_memory, sensible_batch
from transforms.models import LoadedModel

# The memory that a batch's size is computed for on CPUs. The memory at hand differs from process to process, and so
# would the last digits of the results.
_CPU_MEMORY = 1 << 32


class Forward:
    """From decoded images to logits. Several threads may call it at once."""

    def __init__(self, model: LoadedModel):
        accelerator = autodiff.has_accelerator()
        self._model = model
        self.batch_size = sensible_batch(
            activation_bytes(model),
            accelerator_memory() if accelerator else _CPU_MEMORY,
            accelerator=accelerator,
        )
        exposed = model.exposed.folded
        self._logits = autodiff.compiled(lambda images: exposed.run(images, autodiff.untapped)[0], jit=False)

    @property
    def at_once(self) -> int:
        """How many calls run side by side."""
        return self._model.batches_at_once

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """The logits float32 [N, K] of images uint8 [N, H, W, C]; the probabilities if the model has no logits."""
        return np.concatenate(
            [self._batch(pixels[i : i + self.batch_size]) for i in range(0, len(pixels), self.batch_size)]
        )

    def _batch(self, pixels: np.ndarray) -> np.ndarray:
        images = self._model.preprocess(pixels)
        padded = np.concatenate([images, np.repeat(images[:1], self.batch_size - len(images), axis=0)])
        with self._model.compute:
            logits: np.ndarray = np.asarray(self._logits(padded))
        return logits[: len(pixels)]
