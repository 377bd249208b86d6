"""Synthetic faces: the built-in head, scenes around it, and writers in the real data sets' layouts."""

from __future__ import annotations
