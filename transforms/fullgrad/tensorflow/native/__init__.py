"""Operations of our own for TensorFlow on CPUs, compiled by Numba: each reads its tensors once."""
