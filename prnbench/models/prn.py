"""PRN: a picture of a face in, its UV position map out (Feng et al., ECCV 2018), with the published network.

Shapes: B batch, R resolution of crop and map (256 in the paper; any multiple of 32 works).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- its usual name

from prnbench import geometry
from prnbench.data.transforms import warp
from prnbench.errors import UsageError, WeightsError
from prnbench.models import ModelCard, _weights
from prnbench.sample import Prediction

PAPER = (
    "Feng, Wu, Shao, Wang, Zhou: Joint 3D Face Reconstruction and Dense Alignment with Position Map "
    "Regression Network, ECCV 2018"
)
CROP_FACTOR = 1.6
"""Side of the crop / mean side of the face box, as in PRNet's inference."""
NETWORK_SEED = 0
PARAMETERS, MACS_256 = 13_365_508, 4_129_292_288
UNTRAINED = "no trained weights found: the network holds seeded initial values and its numbers mean nothing"


def map_scale(resolution: int) -> float:
    """Crop pixels per unit of network output: 256 * 1.1 at 256, the same length at every resolution."""
    return 1.1 * 256 * (resolution - 1) / 255


class SameConv2d(nn.Conv2d):
    """Convolution without bias under TensorFlow's SAME padding.

    Kernel 4 needs 3 pixels of padding at stride 1, (1, 2), and 2 at stride 2, (1, 1).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
        padding = 1 if (kernel_size, stride) == (4, 2) else 0
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) to (B, out, h / stride, w / stride)."""
        if self.kernel_size == (4, 4) and self.stride == (1, 1):
            x = F.pad(x, (1, 2, 1, 2))
        return super().forward(x)


class SameConvTranspose2d(nn.ConvTranspose2d):
    """4x4 transposed convolution without bias under TensorFlow's SAME padding.

    It runs unpadded and is cropped by 4 - stride, (4 - stride) // 2 of it first. At stride 1 that equals a
    convolution with the flipped kernel and padding (2, 1), which is how it is computed here.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(in_channels, out_channels, 4, stride, padding=stride - 1, bias=False)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, in, h, w) to (B, out, h * stride, w * stride)."""
        if self.stride == (2, 2):
            return super().forward(x, output_size)
        return F.conv2d(F.pad(x, (2, 1, 2, 1)), self.weight.flip(2, 3).transpose(0, 1))


class ConvNorm(nn.Module):
    """Convolution, batch norm (eps 1e-3) and, except before the sigmoid, ReLU."""

    def __init__(self, conv: SameConv2d | SameConvTranspose2d, *, relu: bool = True):
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels, eps=1e-3)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) to (B, out, h', w')."""
        x = self.norm(self.conv(x))
        return F.relu(x, inplace=True) if self.relu else x


class ResidualBlock(nn.Module):
    """Bottleneck 1x1, 4x4, 1x1 of half the width; batch norm and ReLU come after the sum."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        width = out_channels // 2
        self.reduce = ConvNorm(SameConv2d(in_channels, width, 1))
        self.spatial = ConvNorm(SameConv2d(width, width, 4, stride))
        self.expand = SameConv2d(width, out_channels, 1)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else SameConv2d(in_channels, out_channels, 1, stride)
        self.norm = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) to (B, out, h / stride, w / stride)."""
        bottleneck = self.expand(self.spatial(self.reduce(x)))
        return F.relu(self.norm(bottleneck + self.shortcut(x)), inplace=True)


class PRN(nn.Module):
    """The published network ``resfcn256``: 13,365,508 numbers in 245 tensors, 4.13 GMAC at 256x256.

    A 4x4 convolution to 16 channels, ten residual blocks to 8x8x512, seventeen 4x4 transposed convolutions,
    sigmoid. The last runs in float32 under autocast too: in bf16 its output would round by half a pixel.

    Parameters
    ----------
    seed
        Seeds the initial values (Glorot uniform, as in the original).
    """

    def __init__(self, seed: int = NETWORK_SEED):
        super().__init__()
        self.stem = ConvNorm(SameConv2d(3, 16, 4))
        widths = (16, 32, 64, 128, 256, 512)
        blocks: list[ResidualBlock] = []
        for narrow, wide in pairwise(widths):
            blocks += [ResidualBlock(narrow, wide, 2), ResidualBlock(wide, wide, 1)]
        self.encoder = nn.Sequential(*blocks)
        # (channels, stride 2 first?): 512 | 256 x3 | 128 x3 | 64 x3 | 32 x2 | 16 x2 | 3 x3
        layers = [
            (512, 1),
            (256, 2),
            (256, 1),
            (256, 1),
            (128, 2),
            (128, 1),
            (128, 1),
            (64, 2),
            (64, 1),
            (64, 1),
        ]
        layers += [(32, 2), (32, 1), (16, 2), (16, 1), (3, 1), (3, 1)]
        decoder, channels = [], 512
        for width, stride in layers:
            decoder.append(ConvNorm(SameConvTranspose2d(channels, width, stride)))
            channels = width
        self.decoder = nn.Sequential(*decoder)
        self.head = ConvNorm(SameConvTranspose2d(3, 3), relu=False)
        _initialise(self, seed)

    def forward(self, image_B3RR: Tensor) -> Tensor:
        """Images (B, 3, R, R) in 0..1 to position maps (B, 3, R, R) in 0..1, float32."""
        features = self.decoder(self.encoder(self.stem(image_B3RR)))
        with torch.autocast(features.device.type, enabled=False):
            return torch.sigmoid(self.head(features.float()))


def _initialise(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight, generator=generator)


class PrnPredictor:
    """PRN behind the Predictor methods: crop by PRNet's rule, predict, map back to original pixels.

    Parameters
    ----------
    run
        Images (B, 3, R, R) in 0..1 to maps (B, 3, R, R) in 0..1: the network or a faster form of it.
    card
        The model's card.
    raster
        Chart raster that reads landmarks and vertices from a map (``UvChart.raster(R)``), or a function that
        makes it when first needed.
    resolution
        R.
    device
        Where ``run`` wants its input.
    """

    def __init__(
        self,
        run: Callable[[Tensor], Tensor],
        card: ModelCard,
        raster: Callable[[], Any],
        resolution: int = 256,
        device: str = "cpu",
    ):
        self.run, self.card, self.resolution, self.device = run, card, resolution, device
        self._make_raster = raster

    @cached_property
    def raster(self) -> Any:
        """The chart at the map's resolution."""
        return self._make_raster()

    def preprocess(
        self, image_rgb: NDArray[np.uint8], box_px: ArrayLike
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Crop one face: (3, R, R) float32 in 0..1 and the (2, 3) crop that made it."""
        crop = geometry.prn_crop(box_px, factor=CROP_FACTOR, resolution=self.resolution)
        pixels = warp(image_rgb, crop, self.resolution)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / np.float32(255), crop

    def forward(self, batch: Tensor | None) -> Tensor:
        """Position maps (B, 3, R, R) in 0..1 of images (B, 3, R, R)."""
        if batch is None:
            raise UsageError("prn needs images", remedy="convert the data set from a folder with images")
        with torch.inference_mode():
            return self.run(batch.to(self.device))

    def postprocess(self, raw: Tensor, contexts: Sequence[NDArray[np.float64]]) -> list[Prediction]:
        """Position map, 68 landmarks and vertices in original pixels; z up to a shift, as in PRNet."""
        maps = raw.permute(0, 2, 3, 1).float().cpu().numpy()
        return [self._decode(network_map, crop) for network_map, crop in zip(maps, contexts, strict=True)]

    def _decode(self, network_map: NDArray[np.float32], crop: NDArray[np.float64]) -> Prediction:
        position_map = to_original(network_map, crop)
        return Prediction(
            landmarks_px=self.raster.sample(position_map, self.raster.chart.landmark_uv).astype(np.float32),
            vertices_px=self.raster.vertices(position_map).astype(np.float32),
            position_map_px=position_map,
            crop=crop,
        )


def to_original(network_map: NDArray[np.float32], crop: NDArray[np.float64]) -> NDArray[np.float32]:
    """Network output (R, R, 3) in 0..1 to original pixels by the inverse of a crop without rotation.

    z is divided by the crop's scale and keeps the unknown shift of the training target (min z over vertices).
    """
    scale = geometry.affine_scale(crop)
    step = np.float32(map_scale(network_map.shape[0]) / scale)
    shift = np.array([crop[0, 2], crop[1, 2], 0.0]) / scale
    return network_map * step - shift.astype(np.float32)


def build(
    weights: Path | None = None,
    device: str = "cpu",
    face_model: str | Path | None = None,
    resolution: int = 256,
) -> PrnPredictor:
    """Build PRN from a weights file, the shipped weights, or (untrained) seeded initial values.

    Parameters
    ----------
    weights
        ``.safetensors`` or ``.ckpt``; None takes what travels with prnbench.
    device
        ``cpu``, ``cuda``, ``cuda:1``.
    face_model
        The face model whose chart the weights were trained on; None is the built-in head.
    resolution
        Side of crop and map, a multiple of 32.

    Raises
    ------
    UsageError
        The resolution is no multiple of 32.
    WeightsError
        The weights do not fit the network, or belong to another face model's chart.
    """
    if resolution % 32 or resolution < 32:
        raise UsageError(f"resolution {resolution} is not a multiple of 32", remedy="take 128, 256 or 512")
    path = weights or _weights.shipped_weights("prn")
    network = PRN().eval()
    loaded = None if path is None else _weights.read_weights(path)
    if loaded is not None and path is not None:
        _weights.assign_weights(network, loaded, path)
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    expected = loaded.metadata.get("face_model", "") if loaded else ""
    return PrnPredictor(
        network, _card(loaded), lambda: _raster(face_model, resolution, expected, path), resolution, device
    )


def _raster(face_model: str | Path | None, resolution: int, fingerprint: str, weights: Path | None) -> Any:
    from prnbench.synthetic import load_face_model
    from prnbench.uv import chart_of

    model = load_face_model(face_model)
    if fingerprint and model.fingerprint != fingerprint:
        remedy = "give the face model they were trained with as --face-model"
        raise WeightsError(
            f"the weights belong to another face model than {model.name!r}", file=weights, remedy=remedy
        )
    return chart_of(model).raster(resolution)


def _card(weights: _weights.Weights | None) -> ModelCard:
    metadata = weights.metadata if weights else {}
    return ModelCard(
        name="prn",
        title="PRN",
        paper=PAPER,
        parameters=PARAMETERS,
        macs=MACS_256,
        trained=weights is not None,
        trained_on=metadata.get("trained_on"),
        weights_digest=weights.digest if weights else None,
        licence=metadata.get("licence", ""),
        offers=("landmarks", "position_map", "vertices"),
        runtime="eager float32",
        notes=("z is known up to a shift (the crop's minimum), as in the published method",)
        if weights
        else (UNTRAINED,),
    )
