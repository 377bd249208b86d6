"""VRN: voxelisation, marching cubes, landmarks from a surface without correspondence, guided variant, training."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from prnbench.data.datamodule import Draw, Faces
from prnbench.facemodel import load_face_model
from prnbench.metrics.nme import box_size, nme
from prnbench.models import _runtime, _weights, fan3d, load_model, predict, vrn
from prnbench.models._network import network_card
from prnbench.training.export import export
from tests.rendered_faces import rendered_faces
from tests.small_runs import first_and_last_loss, overfits

BOX = (40, 30, 110, 120)
SMALL = {"features": 16, "slices": 68}


@pytest.fixture(scope="module")
def batch():
    return Faces(rendered_faces(3), {0: 128}, crop=vrn.crop).batch([Draw(i) for i in range(3)])


@pytest.fixture(scope="module")
def objective():
    return vrn.objective(load_face_model())


@pytest.fixture(scope="module")
def volumes(batch, objective):
    return objective.volumes(batch, 134)


# --- volumes


def sphere(radius=20.0, centre=(32.0, 30.0, 5.0)):
    """Upper half (z towards the camera) of a sphere as a mesh."""
    u, v = np.meshgrid(np.linspace(0, np.pi, 80), np.linspace(0, np.pi, 80), indexing="ij")
    points = np.stack([np.cos(u), np.sin(u) * np.cos(v), np.sin(u) * np.sin(v)], axis=-1).reshape(-1, 3) * radius
    index = np.arange(6400).reshape(80, 80)
    a, b, c, d = index[:-1, :-1].ravel(), index[:-1, 1:].ravel(), index[1:, :-1].ravel(), index[1:, 1:].ravel()
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)]).astype(np.int32)
    return points + centre, triangles


def test_a_half_sphere_is_filled_and_its_surface_comes_back():
    """Closed form: the volume of a half ball, and marching cubes at its radius."""
    points, triangles = sphere()
    volume = vrn.voxelised(points, triangles, 64, 60)
    assert volume.shape == (60, 64, 64) and set(np.unique(volume)) == {0, 1}
    assert volume.sum() == pytest.approx(2 / 3 * np.pi * 20**3, rel=0.08)
    surface, faces = vrn.surface_of(volume.astype(np.float32), 0.5)
    assert faces.max() < len(surface)
    # The depth range's middle is the origin: the ball's centre is 10 below it.
    front = surface[surface[:, 2] > -7]
    radius = np.linalg.norm(front - [32, 30, -10], axis=1)
    assert abs(radius.mean() - 20) < 0.6 and radius.std() < 0.6


def test_an_empty_volume_has_no_surface():
    assert vrn.surface_of(np.full((8, 8, 8), -1, np.float32)) is None
    raw = vrn.Volume(np.full((8, 8, 8), -1, np.float32), np.zeros((0, 0, 0), np.float32))
    assert vrn.landmarks_of(raw, load_face_model()) is None


def test_true_volumes_hold_the_face(batch, volumes):
    """Each landmark seen from the front lies at the surface of its volume."""
    assert volumes.shape == (3, 134, 128, 128) and volumes.dtype == torch.uint8
    assert 0.02 < volumes.float().mean() < 0.3
    model = load_face_model()
    crop = batch.crop_B23.numpy()
    for volume, sample, affine in zip(volumes.numpy(), rendered_faces(3), crop, strict=True):
        from prnbench.geometry import transform_points

        texels, _ = vrn.objective(model)._grid(256, 128)
        z = transform_points(sample.position_map_px, affine).reshape(-1, 3)[texels, 2]
        nose = transform_points(sample.landmarks_px[30:31], affine)[0]
        column, row = np.rint(nose[:2]).astype(int)
        filled = np.flatnonzero(volume[:, row, column]) - 66.5
        assert abs(filled.max() - (nose[2] - (z.min() + z.max()) / 2)) < 3


# --- landmarks


def true_output(volumes, maps=None):
    logits = volumes.float() * 8 - 4
    return vrn.Volume(logits, logits.new_zeros(len(logits), 0, 0, 0) if maps is None else maps)


def test_landmarks_come_from_the_surface_alone(batch, objective, volumes):
    """The mean face fitted to a true volume lies near the true landmarks; a person is not the mean, so not on them."""
    found = objective.landmarks(true_output(volumes), batch)[..., :2].double().numpy()
    truth = batch.landmarks_B683[..., :2].double().numpy()
    error = nme(found, truth, box_size(truth))
    assert error.max() < 9 and np.median(error) < 6


def test_guided_landmarks_are_the_heat_maps_with_the_depth_in_front(batch, objective, volumes):
    from prnbench.data.transforms import moved_to_crop

    points = moved_to_crop(batch.landmarks_B683, batch.crop_B23)
    maps = fan3d.gaussians((points[..., :2] - 1.5) / 4, 32, 1.0)
    found = objective.landmarks(true_output(volumes, maps), batch)
    assert (found[..., :2] - batch.landmarks_B683[..., :2]).abs().max() < 0.3
    inner, scale = slice(27, 36), torch.linalg.det(batch.crop_B23[:, :, :2]).sqrt()
    off = (found[:, inner, 2] - batch.landmarks_B683[:, inner, 2]) * scale[:, None]
    assert (off - off.median(dim=1, keepdim=True).values).abs().median() < 2


def test_loss_is_the_cross_entropy(batch, objective, volumes):
    right = objective.loss(true_output(volumes), batch)["loss"].item()
    assert right == pytest.approx(np.log1p(np.exp(-4)), rel=1e-3)
    half = true_output(volumes)._replace(logits=torch.zeros(3, 134, 128, 128))
    assert objective.loss(half, batch)["loss"].item() == pytest.approx(np.log(2), rel=1e-4)
    guided = objective.loss(true_output(volumes, torch.zeros(3, 68, 32, 32)), batch)
    assert guided["guide"] > 1 and guided["loss"] > guided["volume"]


# --- the network, prediction, export


@pytest.mark.parametrize("guided", [False, True])
def test_published_sizes(guided):
    with torch.device("meta"):
        raw = vrn.VRN(guided=guided)(torch.zeros(2, 3, 192, 192))
    assert raw.logits.shape == (2, 200, 192, 192)
    assert raw.heat_maps.shape == ((2, 68, 48, 48) if guided else (2, 0, 0, 0))
    assert raw.logits[0].numel() * 4 == 29_491_200  # what the head of the file says


def some_weights(path, guided):
    net = vrn.VRN(seed=1, guided=guided, **SMALL)
    torch.nn.init.normal_(net.leave.weight, 0, 0.3, generator=torch.Generator().manual_seed(0))
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    about = {"model": "vrn", "network": json.dumps({**SMALL, "guided": guided})}
    _weights.save_weights(path, _weights.Weights(state, about), torch.float32)
    return path


def test_batch_equals_single(tmp_path):
    net = vrn.VRN(seed=1, guided=True, **SMALL).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together, alone = net(images), net(images[1:])
    torch.testing.assert_close(together.logits[1:], alone.logits, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(together.heat_maps[1:], alone.heat_maps, atol=2e-4, rtol=1e-4)


def test_untrained_it_fails_face_by_face():
    net = vrn.VRN(**SMALL)
    card = network_card(net, 64, None, name="vrn", title="VRN", paper=vrn.PAPER, offers=("landmarks",), notes=("",))
    assert not card.trained and card.macs > 0
    predictor = load_model("vrn")
    predictor.network, predictor.resolution = net.eval(), 64
    picture = np.zeros((150, 150, 3), np.uint8)
    assert predict(predictor, [picture], [BOX])[0].failed == "the volume is empty"


@pytest.mark.slow
@pytest.mark.parametrize("guided", [False, True])
def test_onnx_export_equals_the_network(tmp_path, guided):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = some_weights(tmp_path / "vrn.safetensors", guided)
    out = export(path, tmp_path / "vrn.onnx", resolution=64)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    image = _runtime.check_image(64).repeat(2, 1, 1, 1)
    with torch.inference_mode():
        expected = load_model(path).network(image)
    found = session.run(["logits"], {"image": image.numpy()})[0]
    np.testing.assert_allclose(found, expected.logits, atol=1e-4 * float(expected.logits.abs().max()))


# --- training


def test_loss_falls(tmp_path):
    more = ["--model.network", "{features: 16, slices: 68, guided: true}"]
    first, last = first_and_last_loss(tmp_path, "vrn", side=64, steps=20, rate=1e-2, more=more)
    assert last < 0.8 * first


@pytest.mark.training
def test_guided_it_overfits_eight_faces():
    network = {"features": 64, "slices": 134, "guided": True}
    assert overfits("vrn", side=128, steps=300, rate=2e-3, network=network, objective={"guide": 1.0}) < 1
