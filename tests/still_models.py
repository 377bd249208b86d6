"""Predictors for tests of the evaluation: they look at the picture, cost nothing, and can be slow on purpose."""

import os
import time

import cv2
import numpy as np
import torch

from prnbench.errors import SampleError
from prnbench.models import ModelCard
from prnbench.sample import Prediction


class Looker:
    """Landmarks on a grid over the box, moved by the mean brightness of the crop; a black crop fails."""

    card = ModelCard("looker", "Looker", "none")

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def preprocess(self, image_rgb, box_px):
        left, top, right, bottom = np.asarray(box_px, np.float64)
        if right <= left:
            raise SampleError("empty box")
        centre, side = ((left + right) / 2, (top + bottom) / 2), max(right - left, bottom - top)
        crop = cv2.getRectSubPix(image_rgb, (int(side), int(side)), centre)
        small = cv2.resize(crop, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        return small.transpose(2, 0, 1), np.array([left, top, right, bottom])

    def forward(self, batch):
        time.sleep(self.seconds)
        return batch.mean(dim=(1, 2, 3))

    def postprocess(self, raw, contexts):
        said = []
        for value, (left, top, right, bottom) in zip(raw.tolist(), contexts, strict=True):
            u = np.arange(68) / 67
            points = np.stack([left + u * (right - left), top + (u * 7 % 1) * (bottom - top), 90 * u], axis=1)
            points[:, :2] += 20 * value
            said.append(
                Prediction(landmarks_px=points.astype(np.float32)) if value > 0.01 else Prediction(failed="dark")
            )
        return said


def build(weights=None):
    """A quick one."""
    return Looker()


def slow(weights=None):
    """One that takes as long for a batch as PRNBENCH_TEST_SECONDS says."""
    torch.manual_seed(0)
    return Looker(float(os.environ.get("PRNBENCH_TEST_SECONDS", "0")))
