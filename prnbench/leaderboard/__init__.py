"""Leaderboards: entries with the per-face tables they are computed from, published rows apart, deterministic pages."""

from prnbench.leaderboard.boards import render, show, stale
from prnbench.leaderboard.entries import add
from prnbench.leaderboard.verify import verify

__all__ = ["add", "render", "show", "stale", "verify"]
