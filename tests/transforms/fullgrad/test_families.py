"""The law on every family of keras.applications."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.transforms.fullgrad.networks import FAMILIES, family
from transforms.fullgrad import expose, full_gradients


@pytest.mark.parametrize("name", FAMILIES)
def test_the_decomposition_is_complete(name: str) -> None:
    keras.utils.clear_session()
    model, images = family(name, FAMILIES[name])
    explanation = full_gradients(expose(model), images, maps="signed", jit=False)
    assert explanation.completeness_error.max() <= 1e-5

    terms = np.abs(explanation.layer_terms)
    whole = terms.sum(axis=1) + np.abs(explanation.input_term)
    assert (np.abs(explanation.input_term) / whole).max() > 1e-3, "the signal reaches the input"
    assert np.mean(terms.max(axis=0) > 0) > 0.9, "there are terms to lose"

    f = explanation.logits[np.arange(len(images)), explanation.targets]
    np.testing.assert_allclose(explanation.maps.sum(axis=(1, 2)) + explanation.unlocated_term, f, rtol=1e-4, atol=1e-4)
