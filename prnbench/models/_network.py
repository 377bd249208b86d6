"""What models with a network share: the input of one face, a Predictor around a network, and its card."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from prnbench.data.transforms import warp
from prnbench.errors import SampleError, UsageError, WeightsError
from prnbench.models import ModelCard, _weights
from prnbench.morphable import MorphableModel
from prnbench.sample import Prediction

if TYPE_CHECKING:
    from prnbench.models import CropRule
    from prnbench.uv import UvChart

Decode = Callable[[Any, NDArray[np.float64]], Prediction]
UNTRAINED = "no trained weights found: the network holds seeded initial values and its numbers mean nothing"


def face_input(
    image_rgb: NDArray[np.uint8], box_px: ArrayLike, crop: CropRule, resolution: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Input (3, R, R) float32 in 0..1 of one face, and the (2, 3) crop that made it.

    Raises
    ------
    SampleError
        The box is empty or not finite.
    """
    box = np.asarray(box_px, np.float64)
    if not (np.isfinite(box).all() and box[2] > box[0] and box[3] > box[1]):
        raise SampleError("the face box is empty", remedy="give left, top, right, bottom in pixels")
    affine = crop(box, resolution)
    pixels = warp(image_rgb, affine, resolution)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / np.float32(255), affine


class NetworkPredictor:
    """A network behind the Predictor methods: crop by the model's rule, run, decode face by face.

    Parameters
    ----------
    network
        From images (B, 3, R, R) in 0..1 to a tensor or a NamedTuple of tensors, faces first.
    card
        The model's card.
    crop, resolution
        The model's crop rule and R.
    decode
        From one face's outputs (tensors as NumPy arrays) and its crop to a Prediction in original pixels.
    face_model
        The face model that the vertices of a prediction follow, or None.
    device
        Where the network runs.
    """

    def __init__(
        self,
        network: nn.Module,
        card: ModelCard,
        crop: CropRule,
        resolution: int,
        decode: Decode,
        face_model: MorphableModel | None = None,
        device: str = "cpu",
    ):
        self.network = network.eval().to(device)
        self.card, self.resolution, self.device = card, resolution, device
        self._crop, self._decode, self._face_model = crop, decode, face_model

    @cached_property
    def chart(self) -> UvChart | None:
        """Chart of the face model that the vertices follow."""
        from prnbench.uv import chart_of

        return None if self._face_model is None else chart_of(self._face_model)

    def preprocess(
        self, image_rgb: NDArray[np.uint8], box_px: ArrayLike
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Crop one face: (3, R, R) float32 in 0..1 and the (2, 3) crop that made it."""
        return face_input(image_rgb, box_px, self._crop, self.resolution)

    def forward(self, batch: Tensor | None) -> Any:
        """Run the network on (B, 3, R, R)."""
        if batch is None:
            raise UsageError(f"{self.card.name} needs images", remedy="convert the data set from a folder with images")
        with torch.inference_mode():
            return self.network(batch.to(self.device))

    def postprocess(self, raw: Any, contexts: Sequence[NDArray[np.float64]]) -> list[Prediction]:
        """Decode each face."""
        if isinstance(raw, Tensor):
            return [self._decode(values, crop) for values, crop in zip(_array(raw), contexts, strict=True)]
        faces = zip(*map(_array, raw), strict=True)
        return [self._decode(type(raw)(*values), crop) for values, crop in zip(faces, contexts, strict=True)]


def _array(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array


def load_network(
    name: str, make: Callable[..., nn.Module], weights: Path | None
) -> tuple[nn.Module, _weights.Weights | None]:
    """The network of ``make(**options)`` with the weights given or shipped, in evaluation mode; untrained without any.

    The weights say themselves which options their network was made with.
    """
    path = weights or _weights.shipped_weights(name)
    if path is None:
        return make().eval(), None
    loaded = _weights.read_weights(path)
    if loaded.metadata.get("model", name) != name:
        raise WeightsError(f"weights of {loaded.metadata['model']}", file=path, remedy=f"give weights of {name}")
    return network_of(make, loaded, path), loaded


def network_of(make: Callable[..., nn.Module], weights: _weights.Weights, path: Path) -> nn.Module:
    """The network that holds these weights, made with the options that they name, in evaluation mode."""
    network = make(**json.loads(weights.metadata.get("network", "{}"))).eval()
    _weights.assign_weights(network, weights, path)
    return network


def check_face_model(model: MorphableModel, weights: _weights.Weights | None) -> None:
    """Refuse weights whose outputs follow another face model.

    Raises
    ------
    WeightsError
        They do.
    """
    trained_with = weights.metadata.get("face_model") if weights else None
    if weights and trained_with and trained_with != model.fingerprint:
        name = weights.metadata.get("face_model_name", "another face model")
        remedy = "give the face model they were trained with as --face-model"
        raise WeightsError(f"the weights follow {name}, not {model.name}", remedy=remedy)


def network_card(
    network: nn.Module, resolution: int, weights: _weights.Weights | None, *, notes: tuple[str, ...], **fields: Any
) -> ModelCard:
    """A ModelCard with what the network and the weights say of themselves; an untrained one says so first."""
    metadata = weights.metadata if weights else {}
    notes = (*_as_trained(metadata, resolution), *notes) if weights else (UNTRAINED, *notes)
    return ModelCard(
        parameters=parameters(network),
        macs=macs(network, resolution),
        trained=weights is not None,
        trained_on=metadata.get("trained_on"),
        weights_digest=weights.digest if weights else None,
        licence=metadata.get("licence", ""),
        runtime="eager float32",
        notes=notes,
        **fields,
    )


def _as_trained(metadata: dict[str, str], resolution: int) -> tuple[str, ...]:
    """Where the weights say it: which network they are of, since it may be smaller than the published one."""
    options = json.loads(metadata.get("network", "{}"))
    named = ", ".join(f"{name} {value}" for name, value in options.items())
    return (f"this network: {named}; crops of {resolution} pixels",) if named else ()


def parameters(network: nn.Module) -> int:
    """Numbers in the weights; batch norm's statistics count, its counters do not."""
    state = network.state_dict()
    return sum(tensor.numel() for name, tensor in state.items() if not name.endswith("num_batches_tracked"))


def macs(network: nn.Module, resolution: int) -> int:
    """Multiply-accumulates of convolutions and matrix products for one face, counted by PyTorch without computing."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        deepcopy(network).to("meta").eval()(torch.zeros(1, 3, resolution, resolution, device="meta"))
    return int(counter.get_total_flops()) // 2
