"""fan3d: 3D-FAN, 68 heat maps from four stacked hourglasses, and a network that reads the landmarks' depth off them.

Bulat, Tzimiropoulos: How far are we from solving the 2D & 3D Face Alignment problem? (ICCV 2017), whose block is that
of Binarized Convolutional Landmark Localizers (ICCV 2017). Tensor names are those of face-alignment's public weights.

Shapes: B batch, S stacks, R side of the crop, M = R / 4 side of the heat maps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- its usual name

from prnbench.data.transforms import FaceBatch, moved_to_crop, moved_to_original
from prnbench.errors import WeightsError
from prnbench.files import digest_of, sha256_of
from prnbench.geometry import invert_affine, transform_points
from prnbench.models import _weights
from prnbench.models._network import NetworkPredictor, load_network, network_card
from prnbench.morphable import MorphableModel
from prnbench.sample import Prediction

PAPER = (
    "Bulat, Tzimiropoulos: How far are we from solving the 2D & 3D Face Alignment problem? (and a dataset of 230,000 "
    "3D facial landmarks), ICCV 2017 (FAN, and the depth network of its 3D-FAN)"
)
NEEDS, RESOLUTION, STEP = ("landmarks_px",), 256, 64
REFERENCE_SCALE, SIDE_OF_SCALE, UPWARDS = 195.0, 200.0, 0.12
"""The crop's scale is (width + height) / 195, its side 200 scales, its centre 0.12 heights above that of the box."""
FEATURES, STACKS, DEPTH_BLOCKS = 256, 4, (3, 8, 36, 3)
TARGET_SIGMA, DRAWN_SIGMA = 1.0, 2.0
"""Standard deviation of a learnt heat map, and of those drawn for the depth network, each in its own pixels."""


class Landmarks3D(NamedTuple):
    """What the network says.

    Attributes
    ----------
    heat_maps
        (B, S, 68, M, M), the last stack's being the result.
    depth_px
        (B, 68) pixels of the crop, towards the camera.
    """

    heat_maps: Any
    depth_px: Any


def crop(box_px: ArrayLike, resolution: int = RESOLUTION) -> NDArray[np.float64]:
    """FAN's crop by centre and scale, its middle at the middle of the crop."""
    left, top, right, bottom = np.asarray(box_px, np.float64)
    side = SIDE_OF_SCALE * max(right - left + bottom - top, 1e-6) / REFERENCE_SCALE
    centre = np.array([(left + right) / 2, (top + bottom) / 2 - UPWARDS * (bottom - top)])
    k = resolution / side
    return np.concatenate([k * np.eye(2), ((resolution - 1) / 2 - k * centre)[:, None]], axis=1)


# -- the network


class MultiScaleBlock(nn.Module):
    """Hierarchical, parallel and multi-scale block: three 3x3 convolutions in a row, their outputs side by side."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        half, quarter = out_channels // 2, out_channels // 4
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, half, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, quarter, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(quarter)
        self.conv3 = nn.Conv2d(quarter, quarter, 3, padding=1, bias=False)
        self.downsample: nn.Sequential | None = None
        if in_channels != out_channels:
            widen = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.downsample = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(), widen)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) to (B, out, h, w)."""
        first = self.conv1(F.relu(self.bn1(x)))
        second = self.conv2(F.relu(self.bn2(first)))
        third = self.conv3(F.relu(self.bn3(second)))
        same = x if self.downsample is None else self.downsample(x)
        return torch.cat([first, second, third], dim=1) + same


class Hourglass(nn.Module):
    """Four halvings and doublings with a branch kept at each size."""

    LEVELS = 4

    def __init__(self, features: int):
        super().__init__()
        for level in range(self.LEVELS, 0, -1):
            for name in ("b1", "b2", "b3", *(("b2_plus",) if level == 1 else ())):
                self.add_module(f"{name}_{level}", MultiScaleBlock(features, features))

    def forward(self, x: Tensor, level: int = LEVELS) -> Tensor:
        """(B, C, h, w) to the same."""
        kept = self.get_submodule(f"b1_{level}")(x)
        low = self.get_submodule(f"b2_{level}")(F.avg_pool2d(x, 2))
        low = self.forward(low, level - 1) if level > 1 else self.get_submodule("b2_plus_1")(low)
        raised = F.interpolate(self.get_submodule(f"b3_{level}")(low), scale_factor=2.0, mode="nearest")
        both: Tensor = kept + raised
        return both


class FAN(nn.Module):
    """Stacked hourglasses, each giving 68 heat maps and handing its features on to the next."""

    def __init__(self, stacks: int, features: int):
        super().__init__()
        self.stacks, narrow = stacks, features // 4
        self.conv1 = nn.Conv2d(3, narrow, 7, 2, 3)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.conv2 = MultiScaleBlock(narrow, features // 2)
        self.conv3 = MultiScaleBlock(features // 2, features // 2)
        self.conv4 = MultiScaleBlock(features // 2, features)
        for i in range(stacks):
            self.add_module(f"m{i}", Hourglass(features))
            self.add_module(f"top_m_{i}", MultiScaleBlock(features, features))
            self.add_module(f"conv_last{i}", nn.Conv2d(features, features, 1))
            self.add_module(f"bn_end{i}", nn.BatchNorm2d(features))
            self.add_module(f"l{i}", nn.Conv2d(features, 68, 1))
            if i < stacks - 1:
                self.add_module(f"bl{i}", nn.Conv2d(features, features, 1))
                self.add_module(f"al{i}", nn.Conv2d(68, features, 1))

    def forward(self, image_B3RR: Tensor) -> Tensor:
        """Images (B, 3, R, R) in 0..1 to heat maps (B, S, 68, M, M)."""
        x = F.avg_pool2d(self.conv2(F.relu(self.bn1(self.conv1(image_B3RR)))), 2)
        x, found = self.conv4(self.conv3(x)), []
        for i in range(self.stacks):
            part = self.get_submodule
            features = part(f"top_m_{i}")(part(f"m{i}")(x))
            features = F.relu(part(f"bn_end{i}")(part(f"conv_last{i}")(features)))
            found.append(part(f"l{i}")(features))
            if i < self.stacks - 1:
                x = x + part(f"bl{i}")(features) + part(f"al{i}")(found[-1])
        return torch.stack(found, dim=1)


class Bottleneck(nn.Module):
    """ResNet's bottleneck, four times as wide at its end."""

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != 4 * width:
            other = nn.Conv2d(in_channels, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(other, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) to (B, 4 width, h / stride, w / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class DepthNetwork(nn.Module):
    """ResNet (152 layers in the paper) from a crop with 68 drawn heat maps to the depth of each landmark."""

    POOL = 7

    def __init__(self, blocks: tuple[int, ...], width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3 + 68, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for level, count in enumerate(blocks):
            layer = []
            for i in range(count):
                layer.append(Bottleneck(channels, width * 2**level, 2 if i == 0 and level else 1))
                channels = 4 * width * 2**level
            self.add_module(f"layer{level + 1}", nn.Sequential(*layer))
        self.levels = len(blocks)
        self.fc = nn.Linear(channels, 68)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 71, R, R) to (B, 68). The published pooling sees 7 x 7 of the 8 x 8 places that 256 pixels leave."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for level in range(self.levels):
            x = self.get_submodule(f"layer{level + 1}")(x)
        depth: Tensor = self.fc(x[:, :, : self.POOL, : self.POOL].mean(dim=(2, 3)))
        return depth


class FAN3D(nn.Module):
    """FAN, and the depth network on its last heat maps.

    Parameters
    ----------
    seed
        Of the initial values.
    stacks, features
        4 and 256 in the paper.
    depth_blocks
        Bottlenecks at each size of the depth network; (3, 8, 36, 3) in the paper.
    """

    def __init__(
        self,
        seed: int = 0,
        stacks: int = STACKS,
        features: int = FEATURES,
        depth_blocks: tuple[int, ...] | list[int] = DEPTH_BLOCKS,
    ):
        super().__init__()
        self.fan = FAN(stacks, features)
        self.depth = DepthNetwork(tuple(depth_blocks), features // 4)
        _initialise(self, seed)

    def forward(self, image_B3RR: Tensor) -> Landmarks3D:
        """Images (B, 3, R, R) in 0..1 to heat maps and depth; the depth network teaches the heat maps nothing."""
        heat_maps = self.fan(image_B3RR)
        points = to_crop(peaks(heat_maps[:, -1].detach().float()))
        drawn = gaussians(points, image_B3RR.shape[-1], DRAWN_SIGMA).to(image_B3RR.dtype)
        return Landmarks3D(heat_maps, self.depth(torch.cat([image_B3RR, drawn], dim=1)))


def _initialise(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 1e-2, generator=generator)
            nn.init.zeros_(module.bias)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and name.rpartition(".")[2][:2] in {f"l{i}" for i in range(9)}:
            nn.init.normal_(module.weight, 0, 1e-2, generator=generator)


def network(seed: int = 0, **options: Any) -> FAN3D:
    """The network to train; see :class:`FAN3D`."""
    return FAN3D(seed, **options)


# -- heat maps


def peaks(heat_maps_BLMM: Tensor) -> Tensor:
    """Places (B, 68, 2) of the maxima, x and y in heat-map pixels, between pixels by a parabola through the logarithms.

    That is exact for a Gaussian; the public code moves a quarter of a pixel towards the larger neighbour instead.
    Values below 1 % of the maximum count as 1 %, and no peak moves by more than half a pixel.
    """
    side = heat_maps_BLMM.shape[-1]
    flat = heat_maps_BLMM.flatten(2)
    place = flat.argmax(dim=2, keepdim=True)
    column, row = place % side, place // side
    top = flat.gather(2, place)

    def log_at(dx: int, dy: int) -> Tensor:
        near = (row + dy).clamp(0, side - 1) * side + (column + dx).clamp(0, side - 1)
        return torch.log(torch.maximum(flat.gather(2, near), 0.01 * top).clamp(min=1e-12))

    middle = log_at(0, 0)
    offsets = []
    for dx, dy in ((1, 0), (0, 1)):
        before, after = log_at(-dx, -dy), log_at(dx, dy)
        bend = (2 * middle - before - after).clamp(min=1e-6)
        offsets.append(((after - before) / (2 * bend)).clamp(-0.5, 0.5))
    return torch.cat([column + offsets[0], row + offsets[1]], dim=2)


def to_crop(points_BN2: Tensor) -> Tensor:
    """Heat-map pixels to crop pixels: heat-map pixel j is the mean place of crop pixels 4j .. 4j + 3."""
    return points_BN2 * 4 + 1.5


def gaussians(points_BN2: Tensor, side: int, sigma: float) -> Tensor:
    """Gaussians of height 1 at points (B, N, 2) in pixels: (B, N, side, side)."""
    axis = torch.arange(side, device=points_BN2.device)
    across = torch.exp(-((axis - points_BN2[..., :1]) ** 2) / (2 * sigma**2))
    down = torch.exp(-((axis - points_BN2[..., 1:]) ** 2) / (2 * sigma**2))
    return down[..., :, None] * across[..., None, :]


# -- what it learns


class FanObjective:
    """Squared error of the heat maps after every stack, and of the depth.

    Parameters
    ----------
    face_model
        Not used: FAN knows landmarks only.
    depth
        Weight of the depth's mean squared error (in crop sides) against the heat maps' (summed over a map's pixels).
    """

    def __init__(self, face_model: MorphableModel, depth: float = 10.0):
        self.depth = depth

    def loss(self, raw: Landmarks3D, batch: FaceBatch) -> dict[str, Tensor]:
        """``loss`` and its terms; landmarks that are unknown do not count."""
        side = batch.image_BRR3.shape[1]
        truth = moved_to_crop(batch.landmarks_B683, batch.crop_B23)
        known = truth[..., :2].isfinite().all(dim=-1)
        target = gaussians((torch.nan_to_num(truth[..., :2]) - 1.5) / 4, raw.heat_maps.shape[-1], TARGET_SIGMA)
        wrong = (raw.heat_maps - target[:, None]).square().sum(dim=(3, 4)).mean(dim=1)
        maps = (wrong * known).sum() / known.sum().clamp(min=1)
        depth = truth[..., 2] - truth[..., 2].mean(dim=1, keepdim=True)
        off = torch.where(depth.isfinite(), (raw.depth_px - torch.nan_to_num(depth)) / side, 0)
        terms = {"heat_maps": maps, "depth": off.square().mean()}
        return {"loss": maps + self.depth * terms["depth"], **terms}

    def landmarks(self, raw: Landmarks3D, batch: FaceBatch) -> Tensor:
        """Predicted landmarks (B, 68, 3) in original pixels, z from their centroid."""
        points = torch.cat([to_crop(peaks(raw.heat_maps[:, -1])), raw.depth_px[..., None]], dim=2)
        return moved_to_original(points, batch.crop_B23)


def objective(face_model: MorphableModel, **options: float) -> FanObjective:
    """What training asks of the network; see :class:`FanObjective`."""
    return FanObjective(face_model, **options)


# -- prediction


def _decoded(raw: Landmarks3D, affine: NDArray[np.float64], dims: int = 3) -> Prediction:
    xy = to_crop(peaks(torch.from_numpy(raw.heat_maps[None, -1])))[0].numpy()
    points = np.concatenate([xy, raw.depth_px[:, None]], axis=1)
    found = transform_points(points, invert_affine(affine)).astype(np.float32)
    return Prediction(landmarks_px=found[:, :dims], crop=affine)


def _decoded_flat(raw: Landmarks3D, affine: NDArray[np.float64]) -> Prediction:
    return _decoded(raw, affine, dims=2)


def build(
    weights: Path | None = None,
    device: str = "cpu",
    face_model: str | Path | None = None,
    depth_weights: Path | None = None,
) -> NetworkPredictor:
    """Build 3D-FAN from a weights file, the shipped weights, or (untrained) seeded initial values.

    Parameters
    ----------
    weights
        ``.safetensors`` or ``.ckpt`` of prnbench, or face-alignment's public 3DFAN state dict (``.tar``, ``.pth``).
    device
        ``cpu``, ``cuda``, ``cuda:1``.
    face_model
        Accepted for uniformity: FAN knows landmarks only.
    depth_weights
        face-alignment's public state dict of the depth network; without it public weights give landmarks without z.
    """
    flat = False
    net: nn.Module
    loaded: _weights.Weights | None
    if weights is not None and weights.suffix in (".tar", ".pth", ".pt"):
        net, loaded = read_public(weights, depth_weights)
        flat = depth_weights is None
    else:
        net, loaded = load_network("fan3d", network, weights)
    side = _weights.trained_resolution(loaded, RESOLUTION)
    card = network_card(
        net,
        side,
        loaded,
        name="fan3d",
        title="3D-FAN",
        paper=PAPER,
        offers=("landmarks",),
        notes=(
            "no dense map or mesh; z is relative to the landmarks' centroid" + (" (no depth weights given)" * flat),
            "the paper states 24 M parameters for four stacks; the count here adds the depth network (ResNet-152)",
            "the depth network learns on heat maps drawn at the found landmarks, in the paper at the true ones; heat "
            "maps are read between pixels by a parabola, in the public code by a quarter of a pixel",
        ),
    )
    return NetworkPredictor(net, card, crop, side, _decoded_flat if flat else _decoded, None, device)


def read_public(path: Path, depth_path: Path | None) -> tuple[FAN3D, _weights.Weights]:
    """Read face-alignment's public state dicts: FAN (``conv1.weight``, ``m0.b1_4.conv1.weight`` ...) and its depth.

    Raises
    ------
    WeightsError
        Not such files.
    """
    tensors = {f"fan.{name}": tensor for name, tensor in _public_tensors(path).items()}
    stacks = sum(name.startswith("fan.conv_last") and name.endswith(".weight") for name in tensors)
    if "fan.conv4.conv1.weight" not in tensors or not stacks:
        raise WeightsError("no FAN of face-alignment", file=path, remedy="give 3DFAN4-7835d9f11d.pth.tar")
    features = tensors["fan.conv4.conv1.weight"].shape[0] * 2
    blocks, depth = DEPTH_BLOCKS, {}
    if depth_path is not None:
        depth = _public_tensors(depth_path)
        levels = [{n.split(".")[1] for n in depth if n.startswith(f"layer{level}.")} for level in range(1, 5)]
        blocks = cast(Any, tuple(map(len, levels)))
    net = FAN3D(stacks=stacks, features=features, depth_blocks=blocks if depth else (1,)).eval()
    own = {name: tensor for name, tensor in net.state_dict().items() if name.startswith("depth.")}
    tensors |= {f"depth.{name}": tensor for name, tensor in depth.items()} or own
    digest = sha256_of(path) if depth_path is None else digest_of(sha256_of(path), sha256_of(depth_path))
    about = {
        "model": "fan3d",
        "trained_on": "300W-LP-3D, by the authors of face-alignment",
        "licence": "see face-alignment",
    }
    public = _weights.Weights(tensors, about, digest)
    _weights.assign_weights(net, public, path)
    return net, public


def _public_tensors(path: Path) -> dict[str, Tensor]:
    content = _weights.read_torch(path)
    state = content.get("state_dict", content)
    named = {name.removeprefix("module."): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    return {name: tensor for name, tensor in named.items() if not name.endswith("num_batches_tracked")}
