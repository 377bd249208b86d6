"""3D-FAN: published size, crop rule, sub-pixel peaks, losses, public weight layout, training."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from prnbench import geometry
from prnbench.data.datamodule import Draw, FaceData, Faces
from prnbench.data.transforms import Augmentation, moved_to_crop
from prnbench.errors import WeightsError
from prnbench.facemodel import load_face_model
from prnbench.models import _runtime, _weights, fan3d, load_model, predict
from prnbench.models._network import parameters
from prnbench.training.export import export
from tests.rendered_faces import rendered_faces, write_faces
from tests.small_runs import first_and_last_loss, overfits

BOX = (40, 30, 110, 120)
SMALL = {"stacks": 2, "features": 32, "depth_blocks": [1, 1]}


@pytest.fixture(scope="module")
def batch():
    return Faces(rendered_faces(3), {0: 256}, crop=fan3d.crop).batch([Draw(i) for i in range(3)])


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "fan3d.safetensors"
    net = fan3d.FAN3D(seed=1, **SMALL)
    for name, tensor in net.state_dict().items():
        if name.endswith("l1.weight") or "fc" in name:
            torch.nn.init.normal_(tensor, 0, 0.3, generator=torch.Generator().manual_seed(0))
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    _weights.save_weights(
        path, _weights.Weights(state, {"model": "fan3d", "network": json.dumps(SMALL)}), torch.float32
    )
    return path


# --- the published network


def test_published_size_and_shapes():
    with torch.device("meta"):
        fan = fan3d.FAN(4, 256)
        depth = fan3d.DepthNetwork(fan3d.DEPTH_BLOCKS, 64)
        out = fan(torch.zeros(2, 3, 256, 256))
    learnt = sum(p.numel() for p in fan.parameters())
    assert out.shape == (2, 4, 68, 64, 64) and round(learnt / 1e6) == 24  # the paper: 24 M
    # ResNet-152 learns 60.19 M for 1000 classes from 3 channels.
    resnet = 60_192_808 - 2049 * 1000 + 2049 * 68 + 49 * 64 * 68
    assert sum(p.numel() for p in depth.parameters()) == resnet
    assert parameters(fan) > learnt


def test_crop_is_that_of_centre_and_scale():
    """face-alignment: side 200 (w + h) / 195, centre 0.12 h above the box's; the middle of 256 pixels is at 127.5."""
    side = 200 * (70 + 90) / 195
    corners = np.array([[75, 75 - 0.12 * 90], [75 + side / 2, 75 - 0.12 * 90 + side / 2]])
    found = geometry.transform_points(corners, fan3d.crop(BOX, 256))
    np.testing.assert_allclose(found, [[127.5, 127.5], [255.5, 255.5]])


# --- heat maps


def test_peaks_of_gaussians_are_exact_between_pixels():
    points = torch.rand(2, 68, 2, generator=torch.Generator().manual_seed(0)) * 55 + 4
    for sigma in (1.0, 2.0):
        maps = 0.7 * fan3d.gaussians(points, 64, sigma)
        torch.testing.assert_close(fan3d.peaks(maps), points, atol=1e-3, rtol=0)
    assert torch.isfinite(fan3d.peaks(torch.zeros(1, 68, 64, 64))).all()
    assert torch.isfinite(fan3d.peaks(-torch.rand(1, 68, 64, 64))).all()


def test_heat_map_pixels_lie_over_their_crop_pixels():
    crop_pixels = torch.arange(256.0).reshape(64, 4).mean(dim=1)
    points = torch.stack([torch.arange(64.0)] * 2, dim=1)[None]
    torch.testing.assert_close(fan3d.to_crop(points)[0, :, 0], crop_pixels)


def true_output(batch, stacks=2):
    points = moved_to_crop(batch.landmarks_B683, batch.crop_B23)
    maps = fan3d.gaussians((points[..., :2] - 1.5) / 4, 64, fan3d.TARGET_SIGMA)
    depth = points[..., 2] - points[..., 2].mean(dim=1, keepdim=True)
    return fan3d.Landmarks3D(maps[:, None].repeat(1, stacks, 1, 1, 1), depth)


def test_true_maps_give_no_loss_and_the_true_landmarks(batch):
    raw, objective = true_output(batch), fan3d.objective(load_face_model())
    assert objective.loss(raw, batch)["loss"] < 1e-9
    truth = batch.landmarks_B683
    inside = (raw.heat_maps[:, 0].amax(dim=(2, 3)) > 0.7)[..., None]
    off = (objective.landmarks(raw, batch)[..., :2] - truth[..., :2]) * inside
    assert off.abs().max() < 1e-2 and inside.float().mean() > 0.95
    z = truth[..., 2] - truth[..., 2].mean(dim=1, keepdim=True)
    torch.testing.assert_close(objective.landmarks(raw, batch)[..., 2], z, atol=1e-3, rtol=0)


def test_every_stack_and_known_landmark_counts(batch):
    objective, raw = fan3d.objective(load_face_model(), depth=0.0), true_output(batch)
    wrong = raw._replace(heat_maps=raw.heat_maps.clone())
    wrong.heat_maps[0, 0, 5, 10, 10] += 3.0
    expected = 9 / 2 / (3 * 68)
    assert objective.loss(wrong, batch)["loss"].item() == pytest.approx(expected, rel=1e-4)
    landmarks = batch.landmarks_B683.clone()
    landmarks[0, 5] = float("nan")
    assert objective.loss(wrong, batch._replace(landmarks_B683=landmarks))["heat_maps"] < 1e-9
    deeper = fan3d.objective(load_face_model(), depth=2.0)
    moved = raw._replace(depth_px=raw.depth_px + 25.6)
    assert deeper.loss(moved, batch)["loss"].item() == pytest.approx(2 * 0.01, rel=1e-3)


def test_it_needs_no_position_maps(tmp_path):
    from dataclasses import replace

    bare = [replace(f, position_map_px=None, pose_params=None) for f in rendered_faces(3)]
    data = FaceData(write_faces(tmp_path, bare), model="fan3d", augmentation=Augmentation(flip=0.5))
    data.setup()
    assert len(data.train_faces) == 2


# --- prediction, weights, export


def test_batch_equals_single(weights_file):
    predictor = load_model(weights_file)
    images = np.random.default_rng(0).integers(0, 256, (2, 150, 150, 3), dtype=np.uint8)
    together = predict(predictor, list(images), [BOX] * 2)
    for image, expected in zip(images, together, strict=True):
        alone = predict(predictor, [image], [BOX])[0]
        np.testing.assert_allclose(alone.landmarks_px, expected.landmarks_px, atol=2e-2)
    first, second = (p.landmarks_px for p in together)
    assert first.shape == (68, 3) and np.abs(first - second).max() > 1
    assert together[0].vertices_px is None and together[0].position_map_px is None
    assert predictor.card.offers == ("landmarks",)


@pytest.mark.slow
def test_onnx_export_equals_the_network(weights_file, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = export(weights_file, tmp_path / "fan3d.onnx")
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    image = _runtime.check_image(256).repeat(2, 1, 1, 1)
    with torch.inference_mode():
        expected = load_model(weights_file).network(image)
    found = session.run(["heat_maps", "depth_px"], {"image": image.numpy()})
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(b.abs().max()))


def public_files(folder):
    """Made-up weights in face-alignment's layout: a bare state dict, and one with ``module.`` under ``state_dict``."""
    generator = torch.Generator().manual_seed(0)
    fan, depth = fan3d.FAN(2, 32), fan3d.DepthNetwork((1, 2), 8)
    for tensor in (*fan.state_dict().values(), *depth.state_dict().values()):
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.1)
    torch.save(fan.state_dict(), folder / "3DFAN4.pth.tar")
    torch.save({"state_dict": {f"module.{k}": v for k, v in depth.state_dict().items()}}, folder / "depth.pth.tar")
    return fan.eval(), depth.eval()


def test_public_weights_load(tmp_path):
    fan, depth = public_files(tmp_path)
    names = set(torch.load(tmp_path / "3DFAN4.pth.tar", weights_only=True))
    public = {"conv1.bias", "conv2.downsample.2.weight", "m0.b1_4.conv1.weight", "m1.b2_plus_1.bn3.running_var"}
    public |= {"top_m_0.conv2.weight", "conv_last1.bias", "bn_end0.weight", "l1.weight", "bl0.weight", "al0.bias"}
    assert public <= names and "bl1.weight" not in names
    whole, _ = fan3d.read_public(tmp_path / "3DFAN4.pth.tar", tmp_path / "depth.pth.tar")
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        raw, expected = whole(image), fan(image)
        drawn = fan3d.gaussians(fan3d.to_crop(fan3d.peaks(expected[:, -1])), 128, 2.0)
        torch.testing.assert_close(raw.heat_maps, expected)
        torch.testing.assert_close(raw.depth_px, depth(torch.cat([image, drawn], dim=1)))
    flat = load_model("fan3d", weights=tmp_path / "3DFAN4.pth.tar")
    picture = np.random.default_rng(0).integers(0, 256, (150, 150, 3), dtype=np.uint8)
    assert predict(flat, [picture], [BOX])[0].landmarks_px.shape == (68, 2)
    assert flat.card.trained and "no depth weights" in flat.card.notes[0]


def test_wrong_public_files_are_told(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="no FAN of face-alignment"):
        load_model("fan3d", weights=tmp_path / "other.pth")


# --- training


def test_loss_falls(tmp_path):
    more = ["--model.network", "{stacks: 1, features: 16, depth_blocks: [1]}"]
    first, last = first_and_last_loss(tmp_path, "fan3d", side=64, steps=10, rate=3e-3, more=more)
    assert last < 0.8 * first


@pytest.mark.training
def test_it_overfits_eight_faces():
    network = {"stacks": 1, "features": 64, "depth_blocks": [1, 1]}
    assert overfits("fan3d", side=128, steps=300, rate=4e-3, network=network) < 1
