"""Tests."""

import transforms  # noqa: F401  chooses oneDNN, before anything imports TensorFlow
