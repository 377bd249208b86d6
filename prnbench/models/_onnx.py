"""A network in an ONNX file behind the Predictor methods: the crop of a face in, its UV position map out.

The contract; ``prnbench export --out x.onnx`` of PRN writes such files, others' networks are read the same way::

    input     (N, 3, R, R) or (N, R, R, 3) float32: RGB in 0..1, cropped by PRNet's rule (side 1.6 x the mean side of
              the face box); R fixed, N free or 1
    output    in the same layout: the position map, row = v, column = u. Times 281.6 (R - 1) / 255 it is x, y and z in
              crop pixels (281.6 = 1.1 x 256 at R = 256, as in PRNet), y down, z up to a shift
    metadata  all optional: model, trained_on, licence, face_model (fingerprint of the face model whose chart the map
              follows), face_model_name. Without face_model the user names it with --face-model
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prnbench.errors import MissingExtraError, UsageError, WeightsError
from prnbench.files import sha256_of
from prnbench.models import ModelCard, _weights
from prnbench.models.prn import PrnPredictor, chart_for

Float32 = NDArray[np.float32]


def build(weights: Path, device: str = "cpu", face_model: str | Path | None = None) -> PrnPredictor:
    """Build a Predictor around an ONNX file.

    Parameters
    ----------
    weights
        The file; its shapes and metadata are described in the module's text.
    device
        ``cpu``, or ``cuda`` with an onnxruntime that has CUDA.
    face_model
        The face model whose chart the maps follow, where the file does not say that it is the built-in head.

    Raises
    ------
    WeightsError
        Not an ONNX file, or its input or output has another shape.
    MissingExtraError
        onnxruntime is not installed.
    """
    session = _session(weights, device)
    resolution, channels_last = _layout(session, weights)
    meta = session.get_modelmeta().custom_metadata_map
    known = _weights.Weights({}, dict(meta), sha256_of(weights))
    card = ModelCard(
        name=weights.stem,
        title=f"{weights.stem} (ONNX)",
        paper=meta.get("paper", f"a network of the model {meta['model']}" if "model" in meta else "not stated"),
        parameters=_parameters(weights),
        trained_on=meta.get("trained_on"),
        weights_digest=known.digest,
        licence=meta.get("licence", ""),
        offers=("landmarks", "position_map", "vertices", "pose"),
        runtime=f"onnxruntime {device}",
        notes=("an ONNX file; z is known up to a shift; multiply-accumulates are not counted",),
    )
    chart = partial(chart_for, face_model, known, weights)
    return PrnPredictor(_run(session, channels_last), card, chart, resolution)


def _session(path: Path, device: str) -> Any:
    if find_spec("onnxruntime") is None:
        raise MissingExtraError("onnxruntime is not installed", remedy="install it: pip install 'prnbench[onnx]'")
    import onnxruntime

    if not path.is_file():
        raise WeightsError("no such ONNX file", file=path, remedy="check the path")
    provider = "CUDAExecutionProvider" if device.startswith("cuda") else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise UsageError(f"this onnxruntime has no {provider}", remedy="install onnxruntime-gpu, or take --device cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    choice = (provider, {"device_id": int(device.partition(":")[2] or 0)}) if device.startswith("cuda") else provider
    try:
        return onnxruntime.InferenceSession(path, options, providers=[choice])
    except Exception as error:  # onnxruntime raises kinds of its own for damaged files
        cause = f"not a readable ONNX file ({str(error).splitlines()[0][:120]})"
        raise WeightsError(cause, file=path, remedy="export it again") from None


def _layout(session: Any, path: Path) -> tuple[int, bool]:
    """Side of the crop, and whether channels come last."""
    shapes = [[tuple(value.shape) for value in values] for values in (session.get_inputs(), session.get_outputs())]
    if len(shapes[0]) == len(shapes[1]) == 1:
        image, found = shapes[0][0], shapes[1][0]
        if len(image) == 4 and image[1:] == found[1:] and 3 in (image[1], image[3]):
            channels_last = image[1] != 3
            sides = image[1:3] if channels_last else image[2:]
            if sides[0] == sides[1] and isinstance(sides[0], int):
                return sides[0], channels_last
    told = " and ".join(" + ".join(str(shape) for shape in part) for part in shapes)
    remedy = "give a network from (N, 3, R, R) or (N, R, R, 3) to a position map of the same shape"
    raise WeightsError(f"its input and output are {told}", file=path, remedy=remedy)


def _run(session: Any, channels_last: bool) -> Callable[[Tensor], Tensor]:
    (image,) = session.get_inputs()
    one_by_one = image.shape[0] == 1

    def run(image_B3RR: Tensor) -> Tensor:
        values: Float32 = image_B3RR.cpu().numpy()
        if channels_last:
            values = np.ascontiguousarray(values.transpose(0, 2, 3, 1))
        parts = [values[i : i + 1] for i in range(len(values))] if one_by_one else [values]
        maps = torch.from_numpy(np.concatenate([session.run(None, {image.name: part})[0] for part in parts]))
        return maps.permute(0, 3, 1, 2) if channels_last else maps

    return run


def _parameters(path: Path) -> int:
    """Numbers in the file's constants; 0 where the onnx package is not installed to count them."""
    if find_spec("onnx") is None:
        return 0
    import onnx

    constants = onnx.load(path, load_external_data=False).graph.initializer
    return int(sum(np.prod(constant.dims, dtype=np.int64) for constant in constants if len(constant.dims)))
