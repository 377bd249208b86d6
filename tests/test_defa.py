"""DeFA: parameters, contour and pairs against their definitions; prediction, export, training."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from prnbench.data.datamodule import Draw, Faces
from prnbench.data.transforms import Augmentation
from prnbench.facemodel import load_face_model
from prnbench.models import _runtime, _weights, defa, load_model, predict
from prnbench.models._coefficients import frame_of, modes_of
from prnbench.models.tddfa import posed
from prnbench.training.export import export
from tests.rendered_faces import rendered_faces
from tests.small_runs import first_and_last_loss, overfits

BOX = (40, 30, 110, 120)
SMALL = {"width": 0.25, "shape": 20, "expression": 5}


@pytest.fixture(scope="module")
def views():
    """Two differently augmented views of each of two faces."""
    data = Faces(rendered_faces(2), {0: 96}, Augmentation(), seed=5, crop=defa.crop)
    return data.batch([Draw(i, 0, view) for i in range(2) for view in (0, 1)])


@pytest.fixture(scope="module")
def objective():
    return defa.objective(load_face_model())


def true_raw(batch):
    modes = modes_of(load_face_model(), 199, 29)
    frame = frame_of(modes, batch.camera_B34, batch.crop_B23, 96)
    coefficients = modes.coefficients(batch.shape_BN, batch.expression_BE)
    return torch.cat([frame[:, :2].flatten(1), coefficients], dim=1), frame


def test_third_row_is_the_true_one(views):
    raw, frame = true_raw(views)
    found = defa.with_depth(raw)[:, 8:12]
    torch.testing.assert_close(found, frame[:, 2] * torch.tensor([1, 1, 1, 0.0]), atol=1e-5, rtol=1e-4)


def test_no_loss_without_error(views, objective):
    raw, _ = true_raw(views)
    terms = objective.loss(raw, views)
    assert set(terms) == {"loss", "parameters", "landmarks", "contour", "pairing"} and terms["loss"] < 1e-5
    off = objective.landmarks(raw, views)[..., :2] - views.landmarks_B683[..., :2]
    assert off.abs().max() < 5e-3


def test_each_constraint_sees_its_error(views, objective):
    raw, _ = true_raw(views)
    moved = raw.clone()
    moved[:, 3] += 0.05
    terms = objective.loss(moved, views)
    assert terms["landmarks"].item() == pytest.approx(0.05**2, rel=1e-3)
    assert 0 < terms["contour"] < 0.05**2  # points may slide along the outline, so its error is smaller
    assert terms["pairing"] > 1e-4  # the views are turned differently, so the shifts part them
    assert terms["parameters"].item() == pytest.approx((0.05 / objective.std[3].item()) ** 2, rel=1e-3)
    one = moved.clone()
    one[1::2] = raw[1::2]
    scale = torch.linalg.det(views.crop_B23[:, :, :2]).abs().sqrt()
    assert objective.loss(one, views)["pairing"].item() == pytest.approx(0.05**2, rel=1e-3), scale


def test_contour_is_the_outline_of_the_projected_face(views, objective):
    """Its points are corners of the convex hull that SciPy finds of all face vertices."""
    from scipy.spatial import ConvexHull

    raw, _ = true_raw(views)
    parameters = defa.with_depth(raw)
    found = objective.contour(parameters)
    points = posed(objective.modes, parameters, objective.face_ids)[..., :2].numpy()
    for face, contour in zip(points, found.numpy(), strict=True):
        corners = face[ConvexHull(face).vertices]
        distance = np.linalg.norm(contour[:, None] - corners[None], axis=2).min(axis=1)
        assert distance.max() < 1e-6 and len(np.unique(contour, axis=0)) > 15


def test_unpaired_faces_have_no_pairing(objective):
    batch = Faces(rendered_faces(3), {0: 96}, crop=defa.crop).batch([Draw(i) for i in range(3)])
    assert "pairing" not in objective.loss(true_raw(batch)[0], batch)


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "defa.safetensors"
    net = defa.DefaNetwork(seed=1, **SMALL)
    torch.nn.init.normal_(net.fc.weight, 0, 0.3, generator=torch.Generator().manual_seed(0))
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    about = {"model": "defa", "face_model": load_face_model().fingerprint, "network": json.dumps(SMALL)}
    _weights.save_weights(path, _weights.Weights(state, about), torch.float32)
    return path


def test_batch_equals_single(weights_file):
    predictor = load_model(weights_file)
    images = np.random.default_rng(0).integers(0, 256, (3, 150, 150, 3), dtype=np.uint8)
    together = predict(predictor, list(images), [BOX] * 3)
    for image, expected in zip(images, together, strict=True):
        alone = predict(predictor, [image], [BOX])[0]
        np.testing.assert_allclose(alone.vertices_px, expected.vertices_px, atol=2e-2)
    assert np.abs(together[0].vertices_px - together[1].vertices_px).max() > 1
    assert predictor.card.offers == ("landmarks", "vertices", "pose") and "left out" in " ".join(predictor.card.notes)


def test_untrained_it_shows_an_upright_face(monkeypatch):
    monkeypatch.setattr(_weights, "shipped_weights", lambda model: None)
    predictor = load_model("defa")
    assert not predictor.card.trained and predictor.card.parameters > 1.5e6
    face = predict(predictor, [np.zeros((150, 150, 3), np.uint8)], [BOX])[0].landmarks_px
    assert face[8, 1] > face[27, 1] + 20 and face[45, 0] > face[36, 0] + 10
    assert face[30, 2] > face[[0, 16], 2].max()


@pytest.mark.slow
def test_onnx_export_equals_the_network(weights_file, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = export(weights_file, tmp_path / "defa.onnx")
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    image = _runtime.check_image(96).repeat(2, 1, 1, 1)
    with torch.inference_mode():
        expected = load_model(weights_file).network(image)
    np.testing.assert_allclose(session.run(["output"], {"image": image.numpy()})[0], expected, atol=1e-4)


def test_loss_falls(tmp_path):
    more = ["--model.network", "{width: 0.25}", "--data.views", "2"]
    first, last = first_and_last_loss(tmp_path, "defa", side=64, steps=10, rate=3e-3, more=more)
    assert last < 0.8 * first


@pytest.mark.training
def test_it_overfits_eight_faces():
    assert overfits("defa", side=64, steps=300, rate=3e-3, network={"width": 0.5}) < 1
