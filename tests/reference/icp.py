"""Textbook ICP, as public code writes it: move the prediction, build the k-d tree anew, and again. Slow and plain."""

import numpy as np
from scipy.spatial import cKDTree


def textbook_icp(predicted, truth, *, scale=False, tolerance=1e-6, most=2000):
    """Point-to-point ICP; returns the moved prediction and the number of iterations."""
    moved = np.array(predicted, np.float64)
    for count in range(1, most + 1):
        index = cKDTree(moved).query(truth)[1]
        before = moved
        moved = moved @ procrustes(moved[index], truth, scale).T
        moved += truth.mean(axis=0) - moved[index].mean(axis=0)
        if np.abs(moved - before).max() < tolerance:
            return moved, count
    return moved, most


def procrustes(source, target, scale):
    """s R of the least-squares similarity (Horn 1987 by singular values), without reflection."""
    p, q = source - source.mean(axis=0), target - target.mean(axis=0)
    u, _, vt = np.linalg.svd(p.T @ q)
    turn = np.diag([1.0, 1.0, np.linalg.det(u @ vt)])
    rotation = (u @ turn @ vt).T
    size = np.sum((p @ rotation.T) * q) / np.sum(p * p) if scale else 1.0
    return size * rotation
