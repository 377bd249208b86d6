"""Export of trained weights: safetensors (float16 or float32), and ONNX checked against onnxruntime."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from prnbench.errors import MissingExtraError, UsageError, WeightsError
from prnbench.models import _network, _runtime, _weights, trainable

TOLERANCE = 1e-5
"""Largest difference between PyTorch and onnxruntime that an export may show, in network units (PRN: 0.003 px).

For outputs beyond 1 it is a share of the largest.
"""


def export(checkpoint: Path, out: Path, *, float16: bool = False, resolution: int | None = None) -> Path:
    """Write a checkpoint as ``.safetensors`` or ``.onnx``, whichever ``out`` ends with.

    Raises
    ------
    UsageError
        Another suffix.
    WeightsError
        The weights do not fit, or the ONNX file says something else than the network.
    """
    if out.suffix == ".safetensors":
        return export_weights(checkpoint, out, float16=float16)
    if out.suffix == ".onnx":
        return export_onnx(checkpoint, out, resolution=resolution)
    raise UsageError(
        f"cannot export to {out.suffix or 'a file without suffix'}", remedy="name a .safetensors or .onnx file"
    )


def export_weights(checkpoint: Path, out: Path, *, float16: bool = True) -> Path:
    """Write a checkpoint's (or safetensors file's) weights as one safetensors file with its history.

    Parameters
    ----------
    checkpoint
        ``.ckpt`` of ``prnbench train`` or ``.safetensors``; averaged weights are taken where there are any.
    out
        The file to write.
    float16
        Half precision (27 MB for PRN), else float32.
    """
    weights = _weights.read_weights(checkpoint)
    if not weights.metadata.get("model"):
        raise WeightsError("the file does not say which model it belongs to", file=checkpoint, remedy="train it again")
    _weights.save_weights(out, weights, torch.float16 if float16 else torch.float32)
    return out


def export_onnx(checkpoint: Path, out: Path, *, resolution: int | None = None) -> Path:
    """Write a network as ONNX (free batch size) and compare it with the network in onnxruntime.

    Input ``image`` (B, 3, R, R) float32 RGB in 0..1, R the model's own unless given. PRN is written with batch norm
    folded in, output ``map`` (B, 3, R, R) in 0..1; other networks' outputs are called as their fields are, or
    ``output``. The file's metadata are those of the weights.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingExtraError(f"{package} is not installed", remedy="install it: pip install 'prnbench[onnx]'")
    weights = _weights.read_weights(checkpoint)
    if not weights.metadata.get("model"):
        raise WeightsError("the file does not say which model it belongs to", file=checkpoint, remedy="train it again")
    file: Any = trainable(weights.metadata["model"])
    own = getattr(file, "network_of", None)
    network = own(weights, checkpoint) if own else _network.network_of(file.network, weights, checkpoint)
    resolution = resolution or _weights.trained_resolution(weights, file.RESOLUTION)
    metadata = weights.metadata | {"weights_digest": weights.digest}
    written = file.folded(network) if hasattr(file, "folded") else network
    try:
        _runtime.export_onnx(written, resolution, out, metadata, "map" if hasattr(file, "folded") else "output")
    except torch.onnx.OnnxExporterError as error:
        cause = f"this network cannot be written as ONNX ({type(error).__name__})"
        raise WeightsError(
            cause, file=checkpoint, remedy="a cascade draws between its stages: export one stage"
        ) from None
    difference = _difference(network, out, resolution)
    if not difference <= TOLERANCE:
        out.unlink()
        cause = f"onnxruntime differs from PyTorch by {difference:.2g}, more than {TOLERANCE:g}"
        raise WeightsError(cause, file=out, remedy="report this with the versions of torch and onnxruntime")
    return out


def _difference(network: torch.nn.Module, path: Path, resolution: int) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = _runtime.check_image(resolution).repeat(2, 1, 1, 1)
    with torch.inference_mode():
        expected = network(images)
    fields = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    found = session.run(None, {"image": images.numpy()})
    pairs = [(a, b) for a, b in zip(found, fields, strict=True) if b.numel()]  # some leave an output empty
    return max(float((torch.from_numpy(a) - b).abs().max() / max(1.0, float(b.abs().max()))) for a, b in pairs)
