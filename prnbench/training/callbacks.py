"""Lightning callbacks: throughput, sample pictures, and a checkpoint when the machine is taken away."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging
from numpy.typing import NDArray
from torch import Tensor

from prnbench.data.transforms import MAP_RANGE, FaceBatch, moved_to_crop, network_target
from prnbench.files import replacing
from prnbench.overlay import PREDICTION_RGB, TRUTH_RGB, contact_sheet, draw_landmarks, draw_mesh

Image = NDArray[np.uint8]
EVERY = 50
"""Steps between two throughput records."""
TILE = 256
WORST_ERROR_PX = 16.0
"""Error (in pixels of the 256-pixel crop) that is painted in the brightest colour."""


class Throughput(lightning.Callback):
    """Log faces per second over all devices, the share of time spent waiting for data, and GPU memory."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._faces, self._working, self._since = 0, 0.0, time.perf_counter()

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Start the clock."""
        self._restart()

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        """Start again: time between epochs does not count."""
        self._restart()

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        """Start again: validation does not count."""
        self._restart()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: FaceBatch, index: int) -> None:
        """Note when the step began."""
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: FaceBatch, index: int) -> None:
        """Log every ``EVERY`` steps."""
        now = time.perf_counter()
        self._faces += len(batch.index_B) * trainer.world_size
        self._working += now - self._began
        if (index + 1) % EVERY:
            return
        elapsed = now - self._since
        module.log("train/faces_per_s", self._faces / elapsed, prog_bar=True)
        module.log("train/waiting_share", 1 - self._working / elapsed)
        if module.device.type == "cuda":
            module.log("train/gpu_memory_gib", torch.cuda.max_memory_allocated(module.device) / 2**30)
        self._restart()


class WarmAverage(WeightAveraging):
    """Exponential moving average of the weights that forgets its beginning: decay min(``decay``, (1 + n) / (10 + n)).

    Validation, checkpoints and the exported weights are of the average (batch norm's statistics included).
    """

    def __init__(self, decay: float = 0.999):
        super().__init__(use_buffers=True, avg_fn=partial(_averaged, decay))


def _averaged(decay: float, average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    share = 1 - min(decay, (1 + float(count)) / (10 + float(count)))
    return average + (current - average) * share


class SaveLast(lightning.Callback):
    """Keep ``last.ckpt`` young: every ten minutes, at the end of an epoch, and when SIGTERM takes the machine away.

    Lightning leaves its loop by itself after the step in which SIGTERM came.
    """

    def __init__(self, path: Path, every_s: float = 600.0):
        self.path, self.every_s = path, every_s

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Start the clock."""
        self._saved = time.monotonic()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: FaceBatch, index: int) -> None:
        """Save if it is time; the first process decides for all."""
        if trainer.world_size == 1 or index % 20 == 0:
            self._save_after(trainer, 0 if trainer.received_sigterm else self.every_s)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Save after the last epoch, and after epochs that are not very short."""
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        self._save_after(trainer, 0 if last else self.every_s / 10)

    def _save_after(self, trainer: Any, seconds: float) -> None:
        if trainer.strategy.broadcast(time.monotonic() - self._saved >= seconds):
            trainer.save_checkpoint(self.path)
            self._saved = time.monotonic()


class SamplePictures(lightning.Callback):
    """After each validation a picture of the first faces: crop with landmarks, predicted mesh, error on the chart."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        """Write ``pictures/epoch-003.png`` and hand it to the loggers that take files."""
        examples = module.examples
        if trainer.sanity_checking or not trainer.is_global_zero or examples is None:
            return
        sheet = sample_sheet(examples[0], examples[1], module.objective, trainer.datamodule.face_model)
        path = self.folder / f"epoch-{trainer.current_epoch:03d}.png"
        ok, encoded = cv2.imencode(".png", sheet[..., ::-1])
        if ok:
            with replacing(path) as temporary:
                temporary.write_bytes(encoded.tobytes())
        for logger in trainer.loggers:
            if hasattr(logger, "log_files"):
                logger.log_files([path], "pictures")


def sample_sheet(batch: FaceBatch, raw_B3RR: Tensor, objective: Any, face_model: Any) -> Image:
    """Rows: crops with true (green) and predicted (orange) landmarks, predicted meshes, errors on the chart.

    Models whose objective has no ``position_map`` get the first row only.
    """
    enlarged = (TILE - 1) / (batch.image_BRR3.shape[1] - 1)
    images = [cv2.resize(image, (TILE, TILE)) for image in batch.image_BRR3.numpy()]
    crops = batch.crop_B23 * enlarged
    truth = moved_to_crop(batch.landmarks_B683, crops).numpy()
    predicted = moved_to_crop(objective.landmarks(raw_B3RR, batch), crops).numpy()
    tiles = [
        draw_landmarks(draw_landmarks(image, green, TRUTH_RGB), orange, PREDICTION_RGB)
        for image, green, orange in zip(images, truth, predicted, strict=True)
    ]
    if hasattr(objective, "position_map"):
        maps = moved_to_crop(objective.position_map(raw_B3RR, batch), crops).numpy()
        tiles += _meshes(images, maps, face_model) + _errors(batch, raw_B3RR)
    return contact_sheet(tiles, len(images))


def _meshes(images: list[Image], maps: NDArray[np.float32], face_model: Any) -> list[Image]:
    from prnbench.uv import chart_of, weight_mask

    chart = chart_of(face_model)
    raster, surface = chart.raster(maps.shape[1]), chart.triangles[: chart.surface_count]
    learnt = raster.vertices(weight_mask(face_model, chart, maps.shape[1])[..., None])[:, 0] > 0
    triangles = surface[learnt[surface].all(axis=1)]
    vertices = [np.nan_to_num(raster.vertices(position_map)) for position_map in maps]
    return [draw_mesh(image, xyz, triangles) for image, xyz in zip(images, vertices, strict=True)]


def _errors(batch: FaceBatch, raw_B3RR: Tensor) -> list[Image]:
    target = network_target(batch.position_map_BMM3, batch.crop_B23, raw_B3RR.shape[-1])
    error_px = (raw_B3RR - target).norm(dim=1).numpy() * (MAP_RANGE * (TILE - 1))
    return [cv2.resize(_painted(error), (TILE, TILE)) for error in error_px]


def _painted(error_px: NDArray[np.float32]) -> Image:
    """Error map as colours, dark (0) to bright (``WORST_ERROR_PX`` and more)."""
    scaled = np.clip(error_px / WORST_ERROR_PX * 255, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS)[..., ::-1])
