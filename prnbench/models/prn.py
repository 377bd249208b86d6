"""PRN: a picture of a face in, its UV position map out (Feng et al., ECCV 2018), with the published network.

Shapes: B batch, R resolution of crop and map (256 in the paper; any multiple of 32 works).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- its usual name

from prnbench import geometry
from prnbench.data.transforms import (
    MAP_RANGE,
    FaceBatch,
    moved_to_original,
    network_target,
    sample_map,
)
from prnbench.errors import UsageError, WeightsError
from prnbench.models import ModelCard, _weights
from prnbench.models._network import UNTRAINED, face_input
from prnbench.models._runtime import Runtime, make_runtime
from prnbench.morphable import MorphableModel
from prnbench.sample import Prediction
from prnbench.uv import UvChart, chart_of

PAPER = (
    "Feng, Wu, Shao, Wang, Zhou: Joint 3D Face Reconstruction and Dense Alignment with Position Map "
    "Regression Network, ECCV 2018"
)
CROP_FACTOR = 1.6
"""Side of the crop / mean side of the face box, as in PRNet's inference."""
NETWORK_SEED, WIDTH = 0, 16
POWERS = {"l2": 2, "l1": 1}
NEEDS, RESOLUTION, STEP = ("position_map_px",), 256, 32
PARAMETERS, MACS_256 = 13_365_508, 4_129_292_288
"""Of the published network."""


def map_scale(resolution: int) -> float:
    """Crop pixels per unit of network output: 256 * 1.1 at 256, the same length at every resolution."""
    return MAP_RANGE * (resolution - 1)


class SameConv2d(nn.Conv2d):
    """Convolution without bias under TensorFlow's SAME padding.

    Kernel 4 needs 3 pixels of padding at stride 1, (1, 2), and 2 at stride 2, (1, 1). In training a strided 1x1
    convolution takes every other pixel first: the same numbers, and oneDNN's own float32 gradient of it writes
    beyond its buffer for channels-last memory with fewer than 16 channels (seen in torch 2.13).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
        padding = 1 if (kernel_size, stride) == (4, 2) else 0
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) to (B, out, h / stride, w / stride)."""
        if self.kernel_size == (4, 4) and self.stride == (1, 1):
            x = F.pad(x, (1, 2, 1, 2))
        if self.kernel_size == (1, 1) and self.stride == (2, 2) and self.training:
            return F.conv2d(x[:, :, ::2, ::2], self.weight)
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
    width
        Channels of the first layer; 16 is the published network, fewer make a narrower one of the same shape.
    """

    def __init__(self, seed: int = NETWORK_SEED, width: int = WIDTH):
        super().__init__()
        self.stem = ConvNorm(SameConv2d(3, width, 4))
        widths = [width * 2**level for level in range(6)]
        blocks: list[ResidualBlock] = []
        for narrow, wide in pairwise(widths):
            blocks += [ResidualBlock(narrow, wide, 2), ResidualBlock(wide, wide, 1)]
        self.encoder = nn.Sequential(*blocks)
        # 512 | 256 x3 | 128 x3 | 64 x3 | 32 x2 | 16 x2 | 3 x3, stride 2 at the first of each size
        layers = [(widths[5], 1)]
        for wide, count in zip(widths[4::-1], (3, 3, 3, 2, 2), strict=True):
            layers += [(wide, 2)] + [(wide, 1)] * (count - 1)
        decoder, channels = [], widths[5]
        for wide, stride in [*layers, (3, 1), (3, 1)]:
            decoder.append(ConvNorm(SameConvTranspose2d(channels, wide, stride)))
            channels = wide
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


class PrnObjective:
    """What PRN learns: the position map of the crop, texels weighted 16:4:3:0 (PRNet eq. 3).

    Parameters
    ----------
    face_model
        Gives the weight mask and the landmarks' places on the chart.
    loss
        ``l2``: the paper's squared error. ``l1``: absolute error, less ruled by the worst faces.
    neck
        Weight of the texels that the paper leaves out (neck, and on whole-head charts the scalp).
    consistency
        Weight of the multi-view term: two views of one face, each mapped back to the original pixels, are asked to
        agree. Needs ``views = 2`` in the data module.
    """

    def __init__(
        self,
        face_model: MorphableModel,
        loss: Literal["l2", "l1"] = "l2",
        neck: float = 0.0,
        consistency: float = 0.0,
    ):
        self.face_model, self.power, self.neck, self.consistency = face_model, POWERS[loss], neck, consistency
        self.landmark_uv = torch.from_numpy(chart_of(face_model).landmark_uv)
        self._masks: dict[tuple[int, torch.device], Tensor] = {}

    def loss(self, raw_B3RR: Tensor, batch: FaceBatch) -> dict[str, Tensor]:
        """Loss terms; ``loss`` is their sum. Errors are in network units, averaged with the texel weights."""
        target = network_target(batch.position_map_BMM3, batch.crop_B23, raw_B3RR.shape[-1])
        error = self._weighted((raw_B3RR - target).abs() ** self.power)
        if not self.consistency:
            return {"loss": error}
        views = self._view_error(raw_B3RR, batch)
        return {"loss": error + self.consistency * views, "map": error, "views": views}

    def landmarks(self, raw_B3RR: Tensor, batch: FaceBatch) -> Tensor:
        """Predicted landmarks (B, 68, 3) in original pixels."""
        points = sample_map(raw_B3RR, self.landmark_uv) * map_scale(raw_B3RR.shape[-1])
        return moved_to_original(points, batch.crop_B23)

    def position_map(self, raw_B3RR: Tensor, batch: FaceBatch) -> Tensor:
        """Predicted position maps (B, R, R, 3) in original pixels."""
        crop_px = raw_B3RR.permute(0, 2, 3, 1) * map_scale(raw_B3RR.shape[-1])
        return moved_to_original(crop_px, batch.crop_B23)

    def _view_error(self, raw_B3RR: Tensor, batch: FaceBatch) -> Tensor:
        maps = self.position_map(raw_B3RR, batch)
        maps = torch.where(batch.flipped_B[:, None, None, None], maps.flip(2), maps)
        maps = maps - maps.mean(dim=(1, 2), keepdim=True) * maps.new_tensor([0, 0, 1])
        scale = torch.linalg.det(batch.crop_B23[:, :, :2]).abs().sqrt()
        first, second = maps[::2], maps[1::2]
        apart = (first - second) * (scale[::2, None, None, None] / map_scale(raw_B3RR.shape[-1]))
        return self._weighted((apart.abs() ** self.power).permute(0, 3, 1, 2))

    def _weighted(self, error_B3RR: Tensor) -> Tensor:
        weight = self._mask(error_B3RR.shape[-1], error_B3RR.device)
        return (error_B3RR.sum(dim=1) * weight).sum(dim=(1, 2)).mean() / weight.sum()

    def _mask(self, resolution: int, device: torch.device) -> Tensor:
        key = resolution, device
        if key not in self._masks:
            from prnbench.uv import weight_mask

            mask = weight_mask(self.face_model, chart_of(self.face_model), resolution)
            self._masks[key] = torch.from_numpy(np.maximum(mask, np.float32(self.neck))).to(device)
        return self._masks[key]


def network(seed: int = NETWORK_SEED, width: int = WIDTH) -> PRN:
    """The network to train; see :class:`PRN`."""
    return PRN(seed, width)


def objective(face_model: MorphableModel, **options: Any) -> PrnObjective:
    """What training asks of the network; see :class:`PrnObjective` for the options."""
    return PrnObjective(face_model, **options)


def crop(box_px: ArrayLike, resolution: int = 256) -> NDArray[np.float64]:
    """PRNet's crop of a face box; see :func:`prnbench.geometry.prn_crop`."""
    return geometry.prn_crop(box_px, factor=CROP_FACTOR, resolution=resolution)


class PrnPredictor:
    """PRN behind the Predictor methods: crop by PRNet's rule, predict, map back to original pixels.

    Parameters
    ----------
    run
        Images (B, 3, R, R) in 0..1 to maps (B, 3, R, R) in 0..1: the network or a faster form of it.
    card
        The model's card.
    chart
        Makes the chart (``UvChart``) that reads landmarks and vertices from a map, when first needed.
    resolution
        R.
    device
        Where ``run`` computes: timing waits for it.
    """

    def __init__(
        self,
        run: Callable[[Tensor], Tensor],
        card: ModelCard,
        chart: Callable[[], UvChart],
        resolution: int = 256,
        device: str = "cpu",
    ):
        self.run, self.card, self.resolution, self.device = run, card, resolution, device
        self._make_chart = chart

    @cached_property
    def chart(self) -> UvChart:
        """The chart of the face model that the weights were trained on."""
        return self._make_chart()

    def preprocess(
        self, image_rgb: NDArray[np.uint8], box_px: ArrayLike
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Crop one face: (3, R, R) float32 in 0..1 and the (2, 3) crop that made it."""
        return face_input(image_rgb, box_px, crop, self.resolution)

    def forward(self, batch: Tensor | None) -> Tensor:
        """Position maps (B, 3, R, R) in 0..1 of images (B, 3, R, R)."""
        if batch is None:
            raise UsageError("prn needs images", remedy="convert the data set from a folder with images")
        with torch.inference_mode():
            return self.run(batch)

    def postprocess(self, raw: Tensor, contexts: Sequence[NDArray[np.float64]]) -> list[Prediction]:
        """Position map, 68 landmarks, vertices in original pixels, and head pose; z up to a shift, as in PRNet."""
        maps = raw.permute(0, 2, 3, 1).float().cpu().numpy()
        return [self._decode(network_map, crop) for network_map, crop in zip(maps, contexts, strict=True)]

    def _decode(self, network_map: NDArray[np.float32], crop: NDArray[np.float64]) -> Prediction:
        position_map = to_original(network_map, crop)
        chart, raster = self.chart, self.chart.raster(self.resolution)
        landmarks = raster.sample(position_map, chart.landmark_uv)
        return Prediction(
            landmarks_px=landmarks,
            vertices_px=raster.vertices(position_map),
            position_map_px=position_map,
            pose_deg=geometry.head_pose_deg(landmarks, chart.mean[chart.landmarks]),
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
    resolution: int | None = None,
    runtime: str | None = None,
    precision: str = "float32",
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
        Side of crop and map, a multiple of 32; None is what the weights were trained at, else 256.
    runtime, precision
        See :func:`prnbench.models._runtime.make_runtime`.

    Raises
    ------
    UsageError
        The resolution is no multiple of 32, or there is no such runtime or precision.
    WeightsError
        The weights do not fit the network, or belong to another face model's chart.
    """
    return of_width(
        WIDTH,
        ModelCard("prn", "PRN", PAPER),
        weights,
        device=device,
        face_model=face_model,
        resolution=resolution,
        runtime=runtime,
        precision=precision,
    )


def of_width(
    width: int,
    card: ModelCard,
    weights: Path | None,
    *,
    device: str,
    face_model: str | Path | None,
    resolution: int | None,
    runtime: str | None,
    precision: str,
    usual: int = RESOLUTION,
) -> PrnPredictor:
    """A network of PRN's shape behind the Predictor methods, named and introduced by ``card``; see :func:`build`."""
    path = weights or _weights.shipped_weights(card.name)
    loaded = None if path is None else _weights.read_weights(path)
    resolution = resolution or _weights.trained_resolution(loaded, usual)
    if resolution % STEP or resolution < STEP:
        raise UsageError(f"resolution {resolution} is not a multiple of {STEP}", remedy="take 128, 256 or 512")
    net = PRN(width=width).eval() if loaded is None or path is None else network_of(loaded, path)
    chosen = ready(net, resolution, runtime, precision, device)
    described = _described(card, net, loaded, chosen.name, resolution)
    return PrnPredictor(chosen.run, described, lambda: chart_for(face_model, loaded, path), resolution, device)


def ready(
    net: PRN, resolution: int, runtime: str | None = None, precision: str = "float32", device: str = "cpu"
) -> Runtime:
    """Make the network ready to run; see :func:`prnbench.models._runtime.make_runtime`."""
    made = partial(folded, net.to(device))
    return make_runtime(net, made, resolution, runtime=runtime, precision=precision, device=device)


def folded(net: PRN) -> nn.Module:
    """The same network with batch norm folded in: what runs and is exported."""
    from prnbench.models._prn_fast import FoldedPRN

    return FoldedPRN(net)


def chart_for(face_model: str | Path | None, weights: _weights.Weights | None, path: Path | None) -> UvChart:
    """The chart that the weights were trained on: the given face model's, else the built-in head's.

    Raises
    ------
    WeightsError
        They belong to neither.
    """
    from prnbench.facemodel import load_face_model

    metadata = weights.metadata if weights else {}
    fingerprint, name = metadata.get("face_model", ""), metadata.get("face_model_name", "another face model")
    for candidate in dict.fromkeys((face_model, None)):
        model = load_face_model(candidate)
        known = bool(fingerprint) or weights is None
        if model.fingerprint == fingerprint or weights is None or (not known and candidate is not None):
            return chart_of(model)
    remedy = "give the face model they were trained with as --face-model"
    raise WeightsError(f"the weights follow the chart of {name}", file=path, remedy=remedy)


def network_of(weights: _weights.Weights, path: Path) -> PRN:
    """The network that holds these weights, in evaluation mode; they say themselves how wide it is."""
    stem = weights.tensors.get("stem.conv.weight")
    net = PRN(width=WIDTH if stem is None else stem.shape[0]).eval()
    _weights.assign_weights(net, weights, path)
    return net


def _described(card: ModelCard, net: PRN, weights: _weights.Weights | None, runtime: str, resolution: int) -> ModelCard:
    metadata = weights.metadata if weights else {}
    notes = ["z is known up to a shift (the crop's minimum), as in the published method" if weights else UNTRAINED]
    if resolution != RESOLUTION:
        notes.append(f"crops and maps of {resolution} pixels; the published network takes {RESOLUTION}")
    return replace(
        card,
        parameters=sum(t.numel() for name, t in net.state_dict().items() if not name.endswith("num_batches_tracked")),
        macs=macs(net, resolution),
        trained=weights is not None,
        trained_on=metadata.get("trained_on"),
        weights_digest=weights.digest if weights else None,
        licence=metadata.get("licence", ""),
        offers=("landmarks", "position_map", "vertices", "pose"),
        runtime=runtime,
        notes=(*notes, *card.notes),
    )


def macs(net: PRN, resolution: int = 256) -> int:
    """Multiply-accumulates for one face, counted by PyTorch on a small image: they grow with its area."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, 32, 32, device=net.stem.conv.weight.device))
    return int(counter.get_total_flops()) // 2 * (resolution // 32) ** 2
