"""Weights files: safetensors with the model's name and history in the metadata; nothing is ever unpickled."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prnbench.errors import WeightsError
from prnbench.files import replacing, sha256_of

SCHEMA = "1"


@dataclass(frozen=True, slots=True)
class Weights:
    """Named tensors with what is known of them.

    Attributes
    ----------
    tensors
        State-dict names and values.
    metadata
        ``model``, ``trained_on``, ``face_model`` (fingerprint of the face model whose chart the maps follow),
        ``resolution`` (side of the crops), ``licence`` and anything else worth keeping, as strings.
    digest
        sha256 of the file, "" before it is written.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    digest: str = ""


def shipped_weights(model: str) -> Path | None:
    """Path of the weights that travel with prnbench, or None if there are none for this model."""
    path = Path(__file__).parent / "weights" / f"{model}.safetensors"
    return path if path.is_file() else None


def trained_resolution(weights: Weights | None, usual: int) -> int:
    """Side of the crops (px) that the weights were trained on last; ``usual`` where they do not say it."""
    text = weights.metadata.get("resolution", "") if weights else ""
    return int(text) if text.isdecimal() else usual


def save_weights(path: Path, weights: Weights, dtype: torch.dtype = torch.float16) -> None:
    """Write a safetensors file atomically; floating tensors are stored as ``dtype``.

    Raises
    ------
    WeightsError
        A value does not fit the type (float16 ends at 65504).
    """
    from safetensors.torch import save

    stored = {}
    for name, tensor in weights.tensors.items():
        stored[name] = (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()
        if not torch.isfinite(stored[name]).all():
            remedy = "store it as float32" if torch.isfinite(tensor).all() else "train again from an older checkpoint"
            raise WeightsError(f"tensor {name!r} is not finite as {dtype}", file=path, remedy=remedy)
    with replacing(path) as temporary:
        temporary.write_bytes(save(stored, {"schema": SCHEMA, **weights.metadata}))


def read_weights(path: Path) -> Weights:
    """Read a safetensors file, or a checkpoint of ``prnbench train`` (averaged weights if it has them)."""
    if not path.is_file():
        raise WeightsError("no such weights file", file=path, remedy="check the path given as --weights")
    return _read_checkpoint(path) if path.suffix == ".ckpt" else _read_safetensors(path)


def _read_safetensors(path: Path) -> Weights:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dict
    except (SafetensorError, OSError) as error:
        remedy = "give a .safetensors file, or import other weights with `prnbench import-weights`"
        raise WeightsError(f"not a readable safetensors file ({error})", file=path, remedy=remedy) from None
    if metadata.get("schema", SCHEMA) != SCHEMA:
        raise WeightsError(f"weights schema {metadata['schema']} is newer", file=path, remedy="update prnbench")
    return Weights(tensors, metadata, sha256_of(path))


def _read_checkpoint(path: Path) -> Weights:
    from pickle import UnpicklingError

    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
        state, about = raw["state_dict"], raw["prnbench"]
    except (UnpicklingError, RuntimeError, KeyError, EOFError) as error:
        remedy = "give a checkpoint written by `prnbench train`"
        cause = f"not a readable checkpoint of prnbench ({type(error).__name__})"
        raise WeightsError(cause, file=path, remedy=remedy) from None
    tensors = {name.removeprefix("network."): t for name, t in state.items() if name.startswith("network.")}
    metadata = {name: str(value) for name, value in about.items()}
    metadata["trained_on"] += f", {raw.get('global_step', 0)} steps"
    return Weights(tensors, metadata, sha256_of(path))


def read_torch(path: Path) -> dict[str, Any]:
    """Content of a plain PyTorch file (``.pth``), tensors only: nothing is unpickled.

    Raises
    ------
    WeightsError
        Not such a file, or one that holds other objects than tensors.
    """
    from pickle import UnpicklingError

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, OSError, EOFError) as error:
        cause = f"not a readable PyTorch file of tensors ({type(error).__name__})"
        raise WeightsError(cause, file=path, remedy="give the file as its authors published it") from None
    if not isinstance(content, dict):
        raise WeightsError("no named tensors", file=path, remedy="give a file with a state_dict")
    return content


def model_name(path: Path) -> str:
    """Name of the model that a weights file belongs to."""
    name = read_weights(path).metadata.get("model")
    if not name:
        remedy = "give the model by name and the file as --weights"
        raise WeightsError("the file does not say which model it belongs to", file=path, remedy=remedy)
    return name


def assign_weights(network: nn.Module, weights: Weights, path: Path) -> None:
    """Copy weights into a network; names and shapes must be exactly the network's.

    Raises
    ------
    WeightsError
        Names the first missing, unknown or wrongly shaped tensors.
    """
    own = {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    given = {n: t for n, t in weights.tensors.items() if not n.endswith("num_batches_tracked")}
    problems = [f"missing {name}" for name in own if name not in given]
    problems += [f"unknown {name}" for name in given if name not in own]
    problems += [
        f"{name} is {tuple(given[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        remedy = "give weights of this model and width"
        raise WeightsError(f"the weights do not fit: {'; '.join(problems[:3])}{more}", file=path, remedy=remedy)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(given[name])
