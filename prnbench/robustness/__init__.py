"""Robustness: corruptions of faces, a model's errors under them, and what the errors say together.

The suite of corruptions is data (``datasets/protocols/robustness.toml``); :mod:`corruptions` applies it, :mod:`measure`
runs a model over it, :mod:`table` stores one row a face and condition, :mod:`curves` derives everything else.
"""
