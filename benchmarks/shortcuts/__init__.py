"""Planted shortcuts: how well statistics of maps find what a classifier rests on, where the truth is known."""
