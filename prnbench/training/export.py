"""Export of trained weights: safetensors (float16 or float32) and ONNX, checked against onnxruntime."""

from __future__ import annotations

from pathlib import Path

import torch

from prnbench.errors import WeightsError
from prnbench.models import _weights


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
        raise WeightsError("the file does not say which model it belongs to", file=checkpoint)
    _weights.save_weights(out, weights, torch.float16 if float16 else torch.float32)
    return out
