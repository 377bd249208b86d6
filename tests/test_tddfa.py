"""3DDFA: published size, crop rule, whitening, losses against their definitions, PNCC, public weights, training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prnbench import geometry
from prnbench.data.datamodule import Draw, FaceData, Faces
from prnbench.data.transforms import Augmentation
from prnbench.errors import InputError, UsageError, WeightsError
from prnbench.facemodel import load_face_model
from prnbench.models import _runtime, _weights, load_model, predict, tddfa
from prnbench.models._coefficients import frame_of, modes_of
from prnbench.models._network import macs
from prnbench.training.export import export
from tests.rendered_faces import rendered_faces, write_faces
from tests.small_runs import first_and_last_loss, overfits

BOX = (40, 30, 110, 120)


@pytest.fixture(scope="module")
def faces():
    return rendered_faces(3)


def batch_of(faces, **augmentation):
    augment = Augmentation(**augmentation) if augmentation else None
    return Faces(faces, {0: 120}, augment, crop=tddfa.crop).batch([Draw(i) for i in range(len(faces))])


def true_parameters(modes, batch):
    frame = frame_of(modes, batch.camera_B34, batch.crop_B23, 120)
    return torch.cat([frame.flatten(1), modes.coefficients(batch.shape_BN, batch.expression_BE)], dim=1)


def some_weights(path, **options):
    """A file of weights whose last layer says something of the image."""
    net = tddfa.Cascade(seed=1, **options)
    for number, stage in enumerate(net.stages):
        torch.nn.init.normal_(stage.fc.weight, 0, 0.3, generator=torch.Generator().manual_seed(number))
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    import json

    about = {"model": "tddfa", "face_model": load_face_model().fingerprint, "network": json.dumps(options)}
    _weights.save_weights(path, _weights.Weights(state, about), torch.float32)
    return path


# --- the published network


@pytest.mark.parametrize(("width", "millions", "mmac"), [(1.0, 3.27, 183.5), (0.5, 0.85, 49.5)])
def test_published_size(width, millions, mmac):
    """The authors' counter takes 4 operations for each number that batch norm sees, and the last mean's additions."""
    net, seen = tddfa.Cascade(width=width).eval(), []
    counted = macs(net, 120)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == millions
    for norm in (module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.register_forward_hook(lambda module, inputs, output: seen.append(output[0].numel()))
    net(torch.rand(1, 3, 120, 120))
    assert round((counted + 4 * sum(seen) + seen[-1]) / 1e6, 1) == mmac
    assert net(torch.rand(2, 3, 120, 120)).shape == (2, 1, 62)


def test_crop_is_3ddfas():
    """Side sqrt(2) times the longer side of the box, centred on it, its corner at crop pixel 0, its end at 120."""
    side = np.sqrt(2) * 90
    corners = np.array([[75 - side / 2, 75 - side / 2], [75 + side / 2, 75 + side / 2]])
    np.testing.assert_allclose(
        geometry.transform_points(corners, tddfa.crop(BOX, 120)), [[0, 0], [120, 120]], atol=1e-9
    )


# --- parameters


def test_true_parameters_give_the_true_face(faces):
    model = load_face_model()
    modes, batch = modes_of(model), batch_of(faces, flip=0)
    points = tddfa.posed(modes, true_parameters(modes, batch), torch.from_numpy(model.landmarks).long()) * 120
    expected = np.stack(
        [
            geometry.transform_points(f.landmarks_px[:, :2], c)
            for f, c in zip(faces, batch.crop_B23.numpy(), strict=True)
        ]
    )
    np.testing.assert_allclose(points[..., :2], expected, atol=2e-3)
    relative = points[..., 2] - points[:, :1, 2]
    scale = torch.linalg.det(batch.crop_B23[:, :, :2]).sqrt()[:, None]
    truth = torch.stack([torch.from_numpy(f.landmarks_px[:, 2] - f.landmarks_px[0, 2]) for f in faces]) * scale
    torch.testing.assert_close(relative, truth, atol=5e-3, rtol=0)


def test_any_face_models_unit_and_sizes(faces):
    """A model in millimetres with five modes gives the same frames."""
    model = load_face_model()
    small = replace(
        model,
        unit="mm",
        mean=model.mean / 1000,
        identity=model.identity[:, :5] / 1000,
        identity_std=model.identity_std[:5],
    )
    modes, batch = modes_of(small, 40, 10), batch_of(faces)
    assert (modes.shape_count, modes.expression_count) == (40, 10)
    assert not modes.basis_KV3[5:40].any() and all(mode.any() for mode in modes.basis_KV3[:5])
    in_mm = batch._replace(camera_B34=batch.camera_B34 * torch.tensor([1000, 1000, 1000, 1.0]))
    frames = frame_of(modes, in_mm.camera_B34, batch.crop_B23, 120)
    torch.testing.assert_close(frames, frame_of(modes_of(model), batch.camera_B34, batch.crop_B23, 120))


def test_whitening_is_that_of_real_frames():
    drawn = rendered_faces(24, seed=3)
    frames = true_parameters(modes_of(load_face_model()), batch_of(drawn, rotation_deg=20))[:, :12]
    mean, std = tddfa.whitening()
    white = (frames - mean) / std
    seen = [i for i in range(12) if i != 11]
    assert white[:, seen].abs().max() < 4 and white[:, seen].std(dim=0).max() < 2


def test_mirrored_faces_have_no_camera(faces):
    batch = batch_of(faces, flip=1.0)
    assert batch.flipped_B.all() and batch.camera_B34.isnan().all()


# --- losses


def test_no_loss_without_error(faces):
    model, batch = load_face_model(), batch_of(faces)
    full = {"shape": 199, "expression": 29}
    raw = true_parameters(modes_of(model, **full), batch)[:, None]
    terms = tddfa.objective(model, vdc=1, wpdc=1, fwpdc=1, **full).loss(raw, batch)
    assert set(terms) == {"loss", "vdc", "wpdc", "fwpdc"} and terms["loss"] < 1e-9
    # 40 and 10 modes are not enough for these faces, and only the vertices tell.
    few = true_parameters(modes_of(model, 40, 10), batch)[:, None]
    terms = tddfa.objective(model, vdc=1, wpdc=1).loss(few, batch)
    assert terms["vdc"] > 1e-6 > terms["wpdc"]
    found = tddfa.objective(model).landmarks(few, batch)[..., :2]
    assert (found - batch.landmarks_B683[..., :2]).norm(dim=-1).mean() < 1.5


def test_vdc_is_the_mean_squared_distance(faces):
    model, batch = load_face_model(), batch_of(faces)
    raw = true_parameters(modes_of(model, 199, 29), batch)
    raw[:, 3] += 0.02  # a shift in x by 2 % of the crop
    objective = tddfa.objective(model, shape=199, expression=29)
    assert objective.loss(raw[:, None], batch)["vdc"].item() == pytest.approx(0.02**2, rel=1e-3)
    depth = true_parameters(modes_of(model, 199, 29), batch)
    depth[:, 11] += 5
    assert objective.loss(depth[:, None], batch)["vdc"] < 1e-9  # the depth of the camera means nothing


def test_parameter_weights_are_their_definition(faces):
    """WPDC: reconstruct the true face with one parameter wrong, for each parameter in turn (CVPR 2016)."""
    modes, batch = modes_of(load_face_model(), 4, 3), batch_of(faces)
    true, ids = true_parameters(modes, batch).double(), torch.arange(0, 30000, 100)
    modes_double = replace(
        modes, mean_V3=modes.mean_V3.astype(np.float64), basis_KV3=modes.basis_KV3.astype(np.float64)
    )
    moves = tddfa.moves(modes_double, true, ids)
    reference = tddfa.posed(modes_double, true, ids)
    for i in range(true.shape[1]):
        wrong = true.clone()
        wrong[:, i] += 0.37
        brute = (tddfa.posed(modes_double, wrong, ids) - reference).flatten(1).norm(dim=1)
        torch.testing.assert_close(0.37 * moves[:, i], brute, rtol=1e-5, atol=1e-8)


def test_data_without_what_it_needs_is_refused(faces, tmp_path):
    with pytest.raises(UsageError, match="no loss has a weight"):
        tddfa.objective(load_face_model(), vdc=0)
    bare = write_faces(tmp_path / "bare", [replace(f, pose_params=None) for f in faces])
    whole = write_faces(tmp_path / "whole", faces)
    still = Augmentation(flip=0)
    with pytest.raises(InputError, match="hold no pose_params"):
        FaceData(bare, face_model=bare / "face_model.npz", model="tddfa", augmentation=still).setup()
    with pytest.raises(UsageError, match="cannot be mirrored"):
        FaceData(whole, face_model=whole / "face_model.npz", model="tddfa", augmentation=Augmentation(flip=0.5)).setup()
    assert FaceData(whole, model="tddfa").resolution == {0: 120}


# --- the cascade


def test_pncc_shows_each_place_of_the_face(faces):
    """At a landmark that is seen, the picture has the colour of that landmark's place on the mean face."""
    model, batch = load_face_model(), batch_of(faces)
    modes = modes_of(model)
    parameters = true_parameters(modes, batch)
    pictures = tddfa.pncc(modes, parameters, 120)
    assert pictures.shape == (3, 3, 120, 120) and pictures.min() >= -1 and pictures.max() <= 1
    assert (pictures == 0).all(dim=1).float().mean() > 0.1
    nose = model.landmarks[30]
    low, high = modes.mean_V3.min(axis=0), modes.mean_V3.max(axis=0)
    colour = 2 * (modes.mean_V3[nose] - low) / (high - low) - 1
    points = tddfa.posed(modes, parameters, torch.tensor([int(nose)]))[:, 0] * 120
    for picture, (x, y, _) in zip(pictures, points.round().long().tolist(), strict=True):
        np.testing.assert_allclose(picture[:, y, x], colour, atol=0.05)


def test_cascade_starts_where_the_last_stage_ended():
    net = tddfa.Cascade(width=0.25, stages=2).eval()
    torch.nn.init.zeros_(net.stages[1].fc.weight)
    with torch.inference_mode():
        raw = net(torch.rand(2, 3, 120, 120))
    assert raw.shape == (2, 2, 62) and net.stages[1].conv1.in_channels == 6
    torch.testing.assert_close(raw[:, 0], raw[:, 1])


# --- prediction, weights, export


@pytest.mark.parametrize("stages", [1, 2])
def test_batch_equals_single(tmp_path, stages):
    path = some_weights(tmp_path / "w.safetensors", width=0.25, stages=stages)
    predictor = load_model(path)
    images = np.random.default_rng(0).integers(0, 256, (3, 150, 150, 3), dtype=np.uint8)
    together = predict(predictor, list(images), [BOX] * 3)
    for image, expected in zip(images, together, strict=True):
        alone = predict(predictor, [image], [BOX])[0]
        np.testing.assert_allclose(alone.vertices_px, expected.vertices_px, atol=2e-2)
    assert expected.landmarks_px.shape == (68, 3) and expected.position_map_px is None
    assert np.abs(together[0].vertices_px - together[1].vertices_px).max() > 1
    assert predictor.card.trained and predictor.card.offers == ("landmarks", "vertices", "pose")


def test_untrained_it_shows_a_face_in_the_box(monkeypatch):
    monkeypatch.setattr(_weights, "shipped_weights", lambda model: None)
    predictor = load_model("tddfa")
    assert not predictor.card.trained and "no trained weights" in predictor.card.notes[0]
    face = predict(predictor, [np.zeros((150, 150, 3), np.uint8)], [BOX])[0].landmarks_px
    assert (face[:, :2].min(axis=0) > [20, 10]).all() and (face[:, :2].max(axis=0) < [130, 140]).all()
    assert face[30, 2] > face[[0, 16], 2].max()  # nose nearer than the ends of the jaw


@pytest.mark.slow
def test_onnx_export_equals_the_network(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = some_weights(tmp_path / "w.safetensors", width=0.5)
    session = onnxruntime.InferenceSession(export(path, tmp_path / "tddfa.onnx"), providers=["CPUExecutionProvider"])
    image = _runtime.check_image(120).repeat(2, 1, 1, 1)
    with torch.inference_mode():
        expected = load_model(path).network(image)
    np.testing.assert_allclose(session.run(["output"], {"image": image.numpy()})[0], expected, atol=1e-4)


@pytest.mark.slow
def test_a_cascade_has_no_onnx_form(tmp_path):
    pytest.importorskip("onnxscript")
    path = some_weights(tmp_path / "w.safetensors", width=0.25, stages=2)
    with pytest.raises(WeightsError, match="cannot be written as ONNX"):
        export(path, tmp_path / "cascade.onnx")


def test_weights_of_another_face_model_are_refused(tmp_path, faces):
    model = load_face_model()
    replace(model, mean=model.mean * 1.01, version="").save(tmp_path / "other.npz")
    path = some_weights(tmp_path / "w.safetensors", width=0.25)
    with pytest.raises(WeightsError, match="the weights follow another face model"):
        load_model(path, face_model=tmp_path / "other.npz")


def public_file(path, seed=0):
    """Made-up weights in the layout of 3DDFA_V2's mb05_120x120.pth, and their whitening."""
    net = tddfa.MobileNet(3, 62, 0.5)
    generator = torch.Generator().manual_seed(seed)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.2)
    torch.save({"epoch": 50, "state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, path)
    rng = np.random.default_rng(seed)
    mean = np.concatenate([[3e-4, 0, 0, 60, 0, 3e-4, 0, 60, 0, 0, 3e-4, -60], np.zeros(50)])
    std = np.concatenate([np.full(12, 1e-4), rng.uniform(1e4, 1e5, 40), rng.uniform(0.5, 1, 10)])
    np.savez(path.with_suffix(".npz"), mean=mean, std=std)
    return net.eval(), mean, std


def test_public_weights_load(tmp_path):
    """Against 3DDFA_V2's own arithmetic: BGR in, de-whitened parameters, vertices, 120 - y, 1-based."""
    model = load_face_model()
    model = replace(model, expression_names=None)  # principal components, as the BFM's are
    model.save(tmp_path / "model.npz")
    net, mean, std = public_file(tmp_path / "mb05.pth")
    predictor = load_model("tddfa", weights=tmp_path / "mb05.pth", face_model=tmp_path / "model.npz")
    assert predictor.card.trained and "3DDFA_V2" in predictor.card.trained_on
    image = np.random.default_rng(1).integers(0, 256, (150, 150, 3), dtype=np.uint8)
    inputs, affine = predictor.preprocess(image, BOX)
    bgr = (torch.from_numpy(inputs).flip(0)[None] * 255 - 127.5) / 128
    with torch.inference_mode():
        p = net(bgr)[0].double().numpy() * std + mean
    pose = p[:12].reshape(3, 4)
    vertices = model.mean + (model.identity[:, :40] @ p[12:52] + model.expression[:, :10] @ p[52:]).reshape(-1, 3)
    x, y, z = pose[:, :3] @ vertices.T + pose[:, 3:]
    expected = geometry.transform_points(np.stack([x - 1, 120 - y, z], axis=1), geometry.invert_affine(affine))
    found = predict(predictor, [image], [BOX])[0].vertices_px
    size = np.ptp(expected, axis=0).max()
    np.testing.assert_allclose(found[:, :2], expected[:, :2], atol=1e-4 * size)
    np.testing.assert_allclose(found[:, 2] - found[0, 2], expected[:, 2] - expected[0, 2], atol=1e-4 * size)


def test_wrong_public_files_are_told(tmp_path):
    public_file(tmp_path / "mb05.pth")
    (tmp_path / "mb05.npz").rename(tmp_path / "elsewhere.npz")
    with pytest.raises(WeightsError, match="need their whitening"):
        load_model("tddfa", weights=tmp_path / "mb05.pth")
    (tmp_path / "evil.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(WeightsError, match="not a readable PyTorch file"):
        load_model("tddfa", weights=tmp_path / "evil.pth")
    (tmp_path / "elsewhere.npz").rename(tmp_path / "mb05.npz")
    with pytest.raises(WeightsError, match="those of builtin are blend shapes"):
        load_model("tddfa", weights=tmp_path / "mb05.pth")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="no MobileNet"):
        load_model("tddfa", weights=tmp_path / "other.pth")


# --- training


def test_loss_falls(tmp_path):
    more = ["--model.network", "{width: 0.25}", "--model.objective", "{vdc: 100, fwpdc: 0.1}"]
    first, last = first_and_last_loss(tmp_path, "tddfa", side=64, steps=8, rate=2e-3, more=more)
    assert last < 0.7 * first


@pytest.mark.training
def test_it_overfits_eight_faces():
    modes = {"shape": 104, "expression": 0}
    assert overfits("tddfa", side=96, steps=300, rate=3e-3, network=modes | {"width": 0.5}, objective=modes) < 1
