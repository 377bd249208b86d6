"""tddfa: 3DDFA with a MobileNet: pose and coefficients of a face model from a 120-pixel crop, optionally cascaded.

Zhu, Lei, Liu, Shi, Li: Face Alignment Across Large Poses: A 3D Solution (CVPR 2016; PAMI 2019): parameters, VDC, WPDC,
PNCC and the cascade. Guo, Zhu, Yang, Yang, Lei, Li: Towards Fast, Accurate and Stable 3D Dense Face Alignment (ECCV
2020): MobileNet, 62 parameters, fWPDC.

Shapes: B batch, S stages of the cascade, K coefficients, P = 12 + K parameters (frame row by row, then coefficients,
see :mod:`prnbench.models._coefficients`), N vertices that a loss looks at.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- its usual name

from prnbench.data.transforms import FaceBatch, moved_to_original
from prnbench.errors import UsageError, WeightsError
from prnbench.files import sha256_of
from prnbench.geometry import box_of, head_pose_deg, invert_affine, rotation_from_euler, transform_points
from prnbench.models import _weights
from prnbench.models._coefficients import Modes, frame_of, modes_of, placed
from prnbench.models._network import NetworkPredictor, check_face_model, load_network, network_card
from prnbench.morphable import MorphableModel
from prnbench.sample import Prediction

PAPER = (
    "Guo, Zhu, Yang, Yang, Lei, Li: Towards Fast, Accurate and Stable 3D Dense Face Alignment, ECCV 2020 (MobileNet, "
    "62 parameters, fWPDC); Zhu, Lei, Liu, Shi, Li: Face Alignment Across Large Poses: A 3D Solution, CVPR 2016 (VDC, "
    "WPDC, PNCC and the cascade)"
)
NEEDS, RESOLUTION, STEP = ("pose_params",), 120, 8
POSE = 12
SHAPE, EXPRESSION = 40, 10
BLOCKS = (
    ("dw2_1", 64, 1), ("dw2_2", 128, 2), ("dw3_1", 128, 1), ("dw3_2", 256, 2), ("dw4_1", 256, 1), ("dw4_2", 512, 2),
    ("dw5_1", 512, 1), ("dw5_2", 512, 1), ("dw5_3", 512, 1), ("dw5_4", 512, 1), ("dw5_5", 512, 1), ("dw5_6", 1024, 2),
    ("dw6", 1024, 1),
)  # fmt: skip
"""Name (of the public weights), channels and stride of each depth-wise separable block of MobileNet-V1."""
EVEN, DRAWN = 2048, 132
"""Vertices that VDC and WPDC look at beside the landmarks, evenly spread; and those that fWPDC draws anew each step."""


def crop(box_px: ArrayLike, resolution: int = RESOLUTION) -> NDArray[np.float64]:
    """3DDFA's crop of a landmark box: square about its centre, the side sqrt(2) times the longer side.

    Crop pixel = (pixel - corner) * resolution / side, as 3DDFA maps its results back; PRNet's crop has resolution - 1.
    """
    left, top, right, bottom = np.asarray(box_px, np.float64)
    side = np.sqrt(2) * max(right - left, bottom - top, 1e-6)
    k = resolution / side
    return np.array(
        [[k, 0, k * (side / 2 - (left + right) / 2)], [0, k, k * (side / 2 - (top + bottom) / 2)]], np.float64
    )


# -- the network


class SeparableBlock(nn.Module):
    """Depth-wise 3x3 and point-wise convolution, each with batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv_dw = nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False)
        self.bn_dw = nn.BatchNorm2d(in_channels)
        self.conv_sep = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn_sep = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) to (B, out, h / stride, w / stride)."""
        x = F.relu(self.bn_dw(self.conv_dw(x)))
        return F.relu(self.bn_sep(self.conv_sep(x)))


class MobileNet(nn.Module):
    """MobileNet-V1 with the tensor names of 3DDFA_V2's public weights.

    Parameters
    ----------
    channels
        Of the input: 3, or 6 with PNCC.
    outputs
        Numbers it gives.
    width
        Factor of all channels.
    """

    def __init__(self, channels: int, outputs: int, width: float):
        super().__init__()
        widths = [int(32 * width), *(int(wide * width) for _, wide, _ in BLOCKS)]
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        for (name, _, stride), narrow, wide in zip(BLOCKS, widths, widths[1:], strict=False):
            self.add_module(name, SeparableBlock(narrow, wide, stride))
        self.fc = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, R, R) to (B, outputs)."""
        x = F.relu(self.bn1(self.conv1(x)))
        for name, _, _ in BLOCKS:
            x = self.get_submodule(name)(x)
        output: Tensor = self.fc(x.mean(dim=(2, 3)))
        return output


class Cascade(nn.Module):
    """One MobileNet, or several that each correct the last one's parameters, seeing what those look like (PNCC).

    A stage gives whitened numbers; those of the frame have the mean and the standard deviation of posed faces drawn
    once, those of the coefficients are standard deviations already.

    Parameters
    ----------
    seed
        Of the initial values.
    width
        1 or 0.5 in the paper.
    stages
        1 (2020), or more (2016).
    shape, expression
        Coefficients to give.
    face_model
        What the PNCC of a cascade is drawn of; None is the built-in head. One stage draws nothing.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        seed: int = 0,
        width: float = 1.0,
        stages: int = 1,
        shape: int = SHAPE,
        expression: int = EXPRESSION,
        face_model: str | None = None,
    ):
        super().__init__()
        outputs = POSE + shape + expression
        self.stages = nn.ModuleList(MobileNet(6 if stage else 3, outputs, width) for stage in range(stages))
        self.sizes, self.face_model = (shape, expression), face_model
        mean, std = whitening()
        self.register_buffer("mean", F.pad(mean, (0, outputs - POSE)))
        self.register_buffer("std", F.pad(std, (0, outputs - POSE), value=1.0))
        _initialise(self, seed)

    def forward(self, image_B3RR: Tensor) -> Tensor:
        """Images (B, 3, R, R) in 0..1 to the parameters after each stage (B, S, P)."""
        image = (image_B3RR * 255 - 127.5) / 128
        found = [self.stages[0](image)]
        for stage in self.stages[1:]:
            drawn = self._pncc((found[-1].detach() * self.std + self.mean).float(), image_B3RR)
            found.append(found[-1].detach() + stage(torch.cat([image, drawn], dim=1)))
        return torch.stack(found, dim=1).float() * self.std + self.mean

    def _pncc(self, parameters_BP: Tensor, image_B3RR: Tensor) -> Tensor:
        if image_B3RR.is_meta:
            return torch.zeros_like(image_B3RR)
        from prnbench.facemodel import load_face_model

        modes = modes_of(load_face_model(self.face_model), *self.sizes)
        return pncc(modes, parameters_BP, image_B3RR.shape[-1]).to(image_B3RR)


def pncc(modes: Modes, parameters_BP: Tensor, resolution: int) -> Tensor:
    """Projected normalised coordinate code (PNCC, CVPR 2016): (B, 3, R, R) float32.

    The z-buffered face, each vertex coloured with its place on the mean face, scaled to -1..1; 0 where there is none.
    """
    from prnbench.render import interpolate, rasterise

    colours = modes.mean_V3 - modes.mean_V3.min(axis=0)
    colours = 2 * colours / colours.max(axis=0) - 1
    points = posed(modes, parameters_BP.detach().cpu()).numpy() * resolution
    triangles, pictures = modes.model.triangles, []
    for vertices in points:
        seen = rasterise(vertices, triangles, resolution, resolution)
        pictures.append(interpolate(seen, triangles, colours).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(pictures))


def posed(modes: Modes, parameters_BP: Tensor, ids: Tensor | None = None) -> Tensor:
    """Vertices (B, V or N, 3) of parameters, in crop sides; z from the centroid of the landmarks.

    The frame's depth has no meaning under a camera without perspective, and is not used.
    """
    frame = parameters_BP[:, :POSE].reshape(-1, 3, 4)
    flat = torch.cat([frame[:, :2], F.pad(frame[:, 2:, :3], (0, 1))], dim=1)
    return placed(modes.vertices(parameters_BP[:, POSE:], ids), flat)


@lru_cache(maxsize=1)
def whitening() -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (12,) of the frames of 4,000 mean faces, posed and cropped.

    Yaw is uniform in +-90 degrees, pitch and roll are normal with 15 and 20 degrees; the crop varies in place (10 %)
    and size (0.9..1.2) as in training. The faces are the built-in head's landmarks; others differ little in their unit.
    """
    from prnbench.facemodel import load_face_model

    modes, rng = modes_of(load_face_model(), 0, 0), np.random.default_rng(0)
    face, count = modes.mean_V3[modes.model.landmarks].astype(np.float64), 4000
    angles = np.stack([rng.normal(0, 15, count), rng.uniform(-90, 90, count), rng.normal(0, 20, count)], axis=1)
    turned = rotation_from_euler(np.radians(angles)) * np.array([1, -1, 1])[:, None]
    frames = np.concatenate([turned, np.zeros((count, 3, 1))], axis=2)
    for frame in frames:
        unvaried, scale = crop(box_of(face @ frame[:, :3].T), 1), rng.uniform(0.9, 1.2)
        frame[:, :3] *= scale * unvaried[0, 0]
        frame[:2, 3] = 0.5 + scale * (unvaried[:, 2] - 0.5) + rng.uniform(-0.1, 0.1, 2)
    flat = frames.reshape(count, POSE)
    mean, std = flat.mean(axis=0), np.maximum(flat.std(axis=0), 1e-2)
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(std.astype(np.float32))


def _initialise(network: nn.Module, seed: int) -> None:
    """He's normal values for convolutions, small ones for the last layer, so that training starts at the mean."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1] // module.groups
            nn.init.normal_(module.weight, 0, (2 / fan_out) ** 0.5, generator=generator)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 1e-3, generator=generator)
            nn.init.zeros_(module.bias)


def network(seed: int = 0, **options: int | float | str | None) -> Cascade:
    """The network to train; see :class:`Cascade`."""
    return Cascade(seed, **options)  # type: ignore[arg-type]


# -- what it learns


class TddfaObjective:
    """Vertex and parameter distances of 3DDFA, in crop sides, averaged over the stages of a cascade.

    Parameters
    ----------
    face_model
        The data's face model.
    vdc
        Weight of the vertex distance cost: mean squared distance of the vertices (CVPR 2016).
    wpdc
        Weight of the weighted parameter distance cost (CVPR 2016): each parameter's squared distance counts by how far
        the true face moves if that parameter alone is wrong. The moves have a closed form, see :func:`moves`.
    fwpdc
        The same over the landmarks and 132 vertices drawn anew each step (ECCV 2020, the fast form).
    shape, expression
        Coefficients that the network gives.
    """

    def __init__(
        self,
        face_model: MorphableModel,
        vdc: float = 1.0,
        wpdc: float = 0.0,
        fwpdc: float = 0.0,
        shape: int = SHAPE,
        expression: int = EXPRESSION,
    ):
        self.modes, self.truth = modes_of(face_model, shape, expression), modes_of(face_model)
        self.weights = {"vdc": vdc, "wpdc": wpdc, "fwpdc": fwpdc}
        self.landmark_ids = torch.from_numpy(face_model.landmarks.astype(np.int64))
        even = torch.linspace(0, face_model.vertex_count - 1, min(EVEN, face_model.vertex_count)).long()
        self.ids = torch.cat([self.landmark_ids, even])
        self.std = F.pad(whitening()[1], (0, self.modes.count), value=1.0)
        if not any(self.weights.values()):
            raise UsageError("no loss has a weight", remedy="give vdc, wpdc or fwpdc one")

    def loss(self, raw_BSP: Tensor, batch: FaceBatch) -> dict[str, Tensor]:
        """``loss`` and its terms."""
        frame = frame_of(self.truth, batch.camera_B34, batch.crop_B23, batch.image_BRR3.shape[1])
        full = self.truth.coefficients(batch.shape_BN, batch.expression_BE)
        few = self.modes.coefficients(batch.shape_BN, batch.expression_BE)
        true_BP, device = torch.cat([frame.flatten(1), few], dim=1), raw_BSP.device
        terms: dict[str, Tensor] = {}
        if self.weights["vdc"]:
            ids = self.ids.to(device)
            truth = placed(self.truth.vertices(full, ids), frame)
            terms["vdc"] = _mean(
                [(posed(self.modes, p, ids) - truth).square().sum(-1).mean() for p in _stages(raw_BSP)]
            )
        if self.weights["wpdc"]:
            terms["wpdc"] = _mean([self._wpdc(p, true_BP, self.ids) for p in _stages(raw_BSP)])
        if self.weights["fwpdc"]:
            drawn = torch.randint(len(self.modes.mean_V3), (DRAWN,))
            ids = torch.cat([self.landmark_ids, drawn])
            terms["fwpdc"] = _mean([self._wpdc(p, true_BP, ids) for p in _stages(raw_BSP)])
        total = sum((self.weights[name] * value for name, value in terms.items()), raw_BSP.new_zeros(()))
        return {"loss": total, **terms}

    def landmarks(self, raw_BSP: Tensor, batch: FaceBatch) -> Tensor:
        """Predicted landmarks (B, 68, 3) in original pixels, z from their centroid."""
        points = posed(self.modes, raw_BSP[:, -1], self.landmark_ids.to(raw_BSP.device))
        return moved_to_original(points * batch.image_BRR3.shape[1], batch.crop_B23)

    def _wpdc(self, parameters_BP: Tensor, true_BP: Tensor, ids: Tensor) -> Tensor:
        wrong = parameters_BP - true_BP
        move = wrong.detach().abs() * moves(self.modes, true_BP, ids.to(true_BP.device))
        weight = move / move.amax(dim=1, keepdim=True).clamp(min=1e-12)
        return (weight * (wrong / self.std.to(wrong)).square()).sum(dim=1).mean()


def moves(modes: Modes, parameters_BP: Tensor, ids: Tensor) -> Tensor:
    """How far the vertices move (root of the summed squares) if one parameter changes by 1: (B, P).

    WPDC asks for the reconstruction with each parameter in turn replaced. Vertices are linear in the frame for given
    coefficients and in the coefficients for a given frame, whose linear part is a rotation times a scale f, so: the
    length of the face's x, y or z for an entry of that part, sqrt(N) for a shift, f times the mode's length for a
    coefficient; 0 for the depth, which moves nothing that is seen.
    """
    faces = modes.vertices(parameters_BP[:, POSE:], ids)
    frame = parameters_BP[:, :POSE].reshape(-1, 3, 4)
    lengths = F.pad(faces.norm(dim=1), (0, 1), value=len(ids) ** 0.5)[:, None].repeat(1, 3, 1)
    lengths[:, 2, 3] = 0
    scale = torch.linalg.det(frame[:, :, :3]).abs().pow(1 / 3)
    return torch.cat([lengths.flatten(1), scale[:, None] * modes.norms(faces, ids)], dim=1)


def _stages(raw_BSP: Tensor) -> tuple[Tensor, ...]:
    return raw_BSP.unbind(1)


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def objective(face_model: MorphableModel, **options: float) -> TddfaObjective:
    """What training asks of the network; see :class:`TddfaObjective`."""
    return TddfaObjective(face_model, **options)  # type: ignore[arg-type]


# -- prediction


class Decoder:
    """Parameters to vertices and landmarks in original pixels, and head pose."""

    def __init__(self, modes: Modes, resolution: int):
        self.modes, self.resolution = modes, resolution

    def __call__(self, raw_SP: NDArray[np.float32], affine: NDArray[np.float64]) -> Prediction:
        """The last stage's face."""
        points = posed(self.modes, torch.from_numpy(raw_SP[-1:]))[0].numpy() * self.resolution
        vertices = transform_points(points, invert_affine(affine)).astype(np.float32)
        landmarks = vertices[self.modes.model.landmarks]
        pose = head_pose_deg(landmarks, self.modes.model.mean[self.modes.model.landmarks])
        return Prediction(landmarks_px=landmarks, vertices_px=vertices, pose_deg=pose, crop=affine)


def build(
    weights: Path | None = None,
    device: str = "cpu",
    face_model: str | Path | None = None,
    whitening: Path | None = None,
) -> NetworkPredictor:
    """Build 3DDFA from a weights file, the shipped weights, or (untrained) seeded initial values.

    Parameters
    ----------
    weights
        ``.safetensors`` or ``.ckpt`` of prnbench, or 3DDFA_V2's public ``.pth``.
    device
        ``cpu``, ``cuda``, ``cuda:1``.
    face_model
        The face model that decodes the coefficients; None is the built-in head.
    whitening
        For public weights: ``.npz`` with their ``mean`` and ``std`` (62,), which 3DDFA_V2 keeps as a pickle; None is
        the ``.npz`` of the same name beside them.

    Raises
    ------
    WeightsError
        The weights do not fit the network, or belong to another face model.
    """
    from prnbench.facemodel import load_face_model

    model = load_face_model(face_model)
    loaded: _weights.Weights | None
    if weights is not None and weights.suffix in (".pth", ".tar", ".pt"):
        net, loaded = read_public(weights, model, whitening)
    else:
        found, loaded = load_network("tddfa", network, weights)
        assert isinstance(found, Cascade)
        net = found
        check_face_model(model, loaded)
    modes, side = modes_of(model, *net.sizes), _weights.trained_resolution(loaded, RESOLUTION)
    card = network_card(
        net,
        side,
        loaded,
        name="tddfa",
        title="3DDFA (MobileNet)",
        paper=PAPER,
        offers=("landmarks", "vertices", "pose"),
        notes=(
            "published sizes: 3.27 M parameters and 183.5 MMAC at width 1, 0.85 M and 49.5 MMAC at width 0.5; the same "
            "network: here batch norm's statistics count as parameters, there batch norm as 4 operations a number",
            "z is known up to a shift (here from the centroid of the landmarks), as in the published method",
            "trained here without the papers' meta-joint optimisation, landmark regulariser, short-video synthesis and "
            "in-the-box 3D rotation of training faces; VDC looks at the landmarks and 2,048 evenly spread vertices",
        ),
    )
    return NetworkPredictor(net, card, crop, side, Decoder(modes, side), model, device)


# -- public weights


def read_public(path: Path, model: MorphableModel, whitening: Path | None) -> tuple[Cascade, _weights.Weights]:
    """Read 3DDFA_V2's public MobileNet weights (``.pth``: ``state_dict`` with names ``module.conv1.weight`` ...).

    Its conventions are folded into the first and the last layer: BGR images; parameters in the face model's own units
    with pixels of the 120-pixel crop, y up and 1-based, whitened with ``mean`` and ``std``.

    Raises
    ------
    WeightsError
        Not such a file, or its whitening is missing.
    """
    tensors = _public_tensors(path)
    whitening = whitening or path.with_suffix(".npz")
    if not whitening.is_file():
        remedy = "convert 3DDFA_V2's param_mean_std_62d_120x120.pkl to this .npz with mean and std"
        raise WeightsError("the public weights need their whitening", file=whitening, remedy=remedy)
    try:
        with np.load(whitening, allow_pickle=False) as stored:
            mean, std = (torch.from_numpy(np.asarray(stored[name], np.float32).ravel()) for name in ("mean", "std"))
    except (OSError, ValueError, KeyError, EOFError) as error:
        remedy = "give an .npz with mean and std (62,)"
        raise WeightsError(f"not a whitening file ({error})", file=whitening, remedy=remedy) from None
    width = tensors["conv1.weight"].shape[0] / 32
    net = Cascade(width=width).eval()
    modes = modes_of(model, SHAPE, EXPRESSION)
    if model.identity_names or model.expression_names:
        cause = f"their coefficients are principal components, those of {model.name} are blend shapes"
        raise WeightsError(cause, file=path, remedy="give the BFM of 3DDFA (199 and 29 modes) as --face-model")
    if not len(mean) == len(std) == POSE + modes.count:
        cause = f"the whitening is of {len(mean)} and {len(std)} numbers, not {POSE + modes.count}"
        raise WeightsError(cause, file=whitening, remedy="give that of the 62 parameters")
    matrix, shift = _from_public_units(modes)
    tensors["conv1.weight"] = tensors["conv1.weight"].flip(1)
    scaled = matrix * std
    tensors["fc.weight"], tensors["fc.bias"] = (
        scaled @ tensors["fc.weight"],
        scaled @ tensors["fc.bias"] + matrix @ mean + shift,
    )
    named = {f"stages.0.{name}": tensor for name, tensor in tensors.items()}
    named |= {"mean": torch.zeros_like(net.mean), "std": torch.ones_like(net.std)}
    about = {"model": "tddfa", "trained_on": "300W-LP, by the authors of 3DDFA_V2", "licence": "see 3DDFA_V2"}
    public = _weights.Weights(named, about, sha256_of(path))
    _weights.assign_weights(net, public, path)
    return net, public


def _public_tensors(path: Path) -> dict[str, Tensor]:
    content = _weights.read_torch(path)
    state = content.get("state_dict", content)
    names = {name: name.removeprefix("module.").replace("fc_param.", "fc.") for name in state}
    tensors = {names[name]: t for name, t in state.items() if isinstance(t, Tensor)}
    tensors = {name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")}
    if not {"conv1.weight", "fc.weight", "fc.bias"} <= tensors.keys():
        raise WeightsError("no MobileNet of 3DDFA_V2", file=path, remedy="give mb1_120x120.pth or mb05_120x120.pth")
    return tensors


def _from_public_units(modes: Modes) -> tuple[Tensor, Tensor]:
    """Matrix (62, 62) and shift (62,) from 3DDFA_V2's parameters to ours.

    Theirs is P (3, 4) with vertices in model units to x, 120 - y, z in 1-based crop pixels, and plain coefficients.
    """
    centre, size, side = modes.centre, modes.size, RESOLUTION
    to_pose, shift = np.zeros((POSE, POSE)), np.zeros(POSE + modes.count)
    for row, sign in enumerate((1.0, -1.0, 1.0)):
        for column in range(3):
            to_pose[4 * row + column, 4 * row + column] = sign * size / side
            to_pose[4 * row + 3, 4 * row + column] = sign * centre[column] / side
        to_pose[4 * row + 3, 4 * row + 3] = sign / side
    shift[3], shift[7] = -1 / side, 1.0
    matrix = np.zeros((POSE + modes.count,) * 2)
    matrix[:POSE, :POSE] = to_pose
    matrix[POSE:, POSE:] = np.diag(
        np.concatenate([np.diagonal(modes.whitening_shape), np.diagonal(modes.whitening_expression)])
    )
    return torch.from_numpy(matrix.astype(np.float32)), torch.from_numpy(shift.astype(np.float32))
