"""Benchmarks: each prints a table, and compares within one run."""

import transforms  # noqa: F401  chooses oneDNN, before anything imports TensorFlow
