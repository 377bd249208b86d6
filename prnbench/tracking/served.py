"""The model as MLflow serves it: pictures with one face each in, 68 landmarks out.

MLflow copies and runs this file (models from code), so nothing is pickled; the weights lie beside it as safetensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from prnbench.models import load_model
from prnbench.predict import predict_picture


class ServedModel(PythonModel):  # type: ignore[misc]
    """A model of prnbench behind MLflow's ``predict``."""

    def load_context(self, context: Any) -> None:
        """Load the model that the configuration names, with the weights among the artifacts if there are any."""
        self.predictor = load_model(context.model_config["model"], weights=context.artifacts.get("weights"))

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow would act on hints
        """Landmarks of each picture.

        Parameters
        ----------
        model_input
            (N, H, W, 3) uint8 RGB, one face in each.
        params
            ``boxes_px``: 4 N numbers, left, top, right, bottom of each face; without them the face is sought from the
            middle of the picture. ``position_maps``: whether to give these too.

        Returns
        -------
        dict
            ``landmarks_px (N, 68, 3)``, ``boxes_px (N, 4)`` and, if asked for, ``position_maps_px (N, R, R, 3)``:
            float32 in pixels of the picture, y down; NaN where the prediction failed.
        """
        options = params or {}
        images = np.asarray(model_input, np.uint8)
        boxes = np.asarray(options.get("boxes_px", []), np.float64).reshape(-1, 4)
        given = boxes if len(boxes) else [None] * len(images)
        found = [predict_picture(self.predictor, image, box) for image, box in zip(images, given, strict=True)]
        result = {
            "landmarks_px": _stacked([prediction.landmarks_px for prediction, _, _ in found], (68, 3)),
            "boxes_px": np.array([box for _, box, _ in found], np.float32).reshape(-1, 4),
        }
        if options.get("position_maps"):
            maps = [prediction.position_map_px for prediction, _, _ in found]
            result["position_maps_px"] = _stacked(maps, next((m.shape for m in maps if m is not None), (0, 0, 3)))
        return result


def _stacked(arrays: list[Any], shape: tuple[int, ...]) -> Any:
    missing = np.full(shape, np.nan, np.float32)
    return np.stack([missing if array is None else np.asarray(array, np.float32) for array in arrays])


set_model(ServedModel())
