"""Models: the published network, its decoding, weights files, the mean face, and loading by name."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate2d
from torch.utils.flop_counter import FlopCounterMode

from prnbench import geometry, models
from prnbench.data.transforms import warp
from prnbench.errors import InputError, UsageError, WeightsError
from prnbench.models import _weights, mean_face, prn
from prnbench.sample import Sample
from tests.rendered_faces import rendered_faces

GRID = np.stack(np.meshgrid(np.linspace(0.1, 0.9, 12), np.linspace(0.1, 0.9, 12)), axis=-1).reshape(-1, 2)


class GridChart:
    """Reads a map at fixed texels: landmarks are the first 68 of a grid, vertices all of it."""

    landmark_uv = GRID[:68]
    landmarks = np.arange(68)
    mean = np.random.default_rng(7).normal(size=(len(GRID), 3))

    def raster(self, resolution):
        return self

    def sample(self, position_map, uv):
        last = position_map.shape[0] - 1
        column, row = np.rint(uv[:, 0] * last).astype(int), np.rint((1 - uv[:, 1]) * last).astype(int)
        return position_map[row, column]

    def vertices(self, position_map):
        return self.sample(position_map, GRID)


@pytest.fixture(scope="module")
def network():
    """The seeded network with batch-norm statistics of random images, so that its output is not flat."""
    net = prn.PRN()
    for norm in net.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = None
    with torch.no_grad():
        net(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    return net.eval()


@pytest.fixture(scope="module")
def two_faces():
    return rendered_faces(2)


def predictor_of(run, resolution=64):
    return prn.PrnPredictor(run, models.ModelCard("prn", "PRN", prn.PAPER), GridChart, resolution)


def random_image(height=120, width=150, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- the published network


def test_published_size():
    state = {k: v for k, v in prn.PRN().state_dict().items() if "num_batches" not in k}
    assert len(state) == 245
    assert sum(v.numel() for v in state.values()) == prn.PARAMETERS == 13_365_508
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        out = prn.PRN().eval()(torch.zeros(1, 3, 256, 256))
    assert out.shape == (1, 3, 256, 256)
    assert counter.get_total_flops() / 2 == prn.MACS_256
    assert round(prn.MACS_256 / 1e9, 2) == 4.13


def test_layer_counts():
    net = prn.PRN()
    transposed = [m for m in net.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(net.encoder) == 10 and len(transposed) == 17
    assert all(m.kernel_size == (4, 4) for m in transposed)
    assert {m.eps for m in norms} == {1e-3}


@pytest.mark.parametrize(("kernel", "stride"), [(4, 1), (4, 2), (1, 1), (1, 2)])
def test_convolution_has_same_padding(kernel, stride):
    """TensorFlow: output ceil(n / s), padding max((out - 1) s + k - n, 0), its smaller half first."""
    size, rng = 12, np.random.default_rng(0)
    layer = prn.SameConv2d(2, 3, kernel, stride).double()
    x = rng.standard_normal((2, size, size))
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    padded = np.pad(x, ((0, 0), *[(total // 2, total - total // 2)] * 2))
    weight = layer.weight.detach().numpy()
    full = [sum(correlate2d(padded[i], weight[o, i], "valid") for i in range(2)) for o in range(3)]
    expected = np.stack(full)[:, ::stride, ::stride]
    actual = layer(torch.from_numpy(x)[None])[0].detach().numpy()
    np.testing.assert_allclose(actual, expected[:, : actual.shape[1], : actual.shape[2]], atol=1e-12)
    assert actual.shape == (3, -(-size // stride), -(-size // stride))


@pytest.mark.parametrize("stride", [1, 2])
def test_transposed_convolution_is_the_adjoint_of_same_convolution(stride):
    """TensorFlow defines it so: <conv(x), y> = <x, transposed(y)> with one kernel."""
    generator = torch.Generator().manual_seed(0)
    conv, transposed = (
        prn.SameConv2d(3, 5, 4, stride).double(),
        prn.SameConvTranspose2d(5, 3, stride).double(),
    )
    with torch.no_grad():
        transposed.weight.copy_(conv.weight)
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64, generator=generator)
    y = torch.randn(1, 5, 16 // stride, 16 // stride, dtype=torch.float64, generator=generator)
    torch.testing.assert_close((conv(x) * y).sum(), (x * transposed(y)).sum())


def test_batch_equals_single_and_sizes_are_free(network):
    images = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    assert together.shape == (3, 3, 64, 96)
    assert together.std() > 0.01
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=0)  # processors sum batches in other orders


def test_seed_decides_the_weights():
    first, same, other = (prn.PRN(seed).stem.conv.weight for seed in (3, 3, 4))
    assert torch.equal(first, same) and not torch.equal(first, other)


# --- crop and decoding


def test_preprocess_puts_the_box_where_the_rule_says():
    """A linear image stays linear under a bilinear warp: the crop's pixels give their source coordinates."""
    rows, columns = np.mgrid[0:200, 0:240]
    image = np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8)
    inputs, crop = predictor_of(None, 256).preprocess(image, (80, 60, 140, 130))
    side = int(1.6 * (60 + 70) / 2)
    assert inputs.shape == (3, 256, 256) and inputs.dtype == np.float32
    left, right = 110 - side / 2, 110 + side / 2
    np.testing.assert_allclose(
        geometry.transform_points([[left, 95 - side / 2], [right, 95 + side / 2]], crop), [[0, 0], [255, 255]]
    )
    np.testing.assert_allclose(
        inputs[0, 128, [10, 128, 250]] * 255, left + np.array([10, 128, 250]) * side / 255, atol=0.6
    )
    np.testing.assert_allclose(
        inputs[1, [10, 250], 128] * 255, 95 - side / 2 + np.array([10, 250]) * side / 255, atol=0.6
    )


@given(
    st.floats(0, 300),
    st.floats(0, 300),
    st.floats(20, 400),
    st.floats(20, 400),
    st.sampled_from([32, 64, 128]),
)
@settings(max_examples=30, deadline=None)
def test_decoding_inverts_the_crop(left, top, width, height, resolution):
    box = (left, top, left + width, top + height)
    crop = geometry.prn_crop(box, factor=1.6, resolution=resolution)
    truth = np.random.default_rng(0).uniform(0, 300, (resolution, resolution, 3))
    network_map = geometry.transform_points(truth, crop) / prn.map_scale(resolution)
    raw = torch.from_numpy(network_map.transpose(2, 0, 1)[None].astype(np.float32))
    decoded = predictor_of(None, resolution).postprocess(raw, [crop])[0]
    np.testing.assert_allclose(decoded.position_map_px, truth, atol=2e-3)
    expected = GridChart().sample(truth, GRID)
    np.testing.assert_allclose(decoded.landmarks_px, expected[:68], atol=2e-3)
    np.testing.assert_allclose(decoded.vertices_px, expected, atol=2e-3)
    assert decoded.pixel_convention == "exact" and decoded.failed is None


def test_output_scale_is_the_published_one():
    assert prn.map_scale(256) == pytest.approx(281.6)
    # One length in the crop, whatever the resolution.
    assert prn.map_scale(128) / 127 == pytest.approx(prn.map_scale(256) / 255)


def test_predict_batch_equals_single(network):
    predictor, images = predictor_of(network), [random_image(seed=i) for i in range(2)]
    boxes = [(20, 20, 90, 100), (40, 10, 120, 90)]
    together = models.predict(predictor, images, boxes)
    alone = [models.predict(predictor, [image], [box])[0] for image, box in zip(images, boxes, strict=True)]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a.position_map_px, b.position_map_px, atol=0.02)
    assert np.ptp(together[0].position_map_px) > 1


def test_warp_does_not_alias_when_shrinking():
    """A one-pixel checkerboard shrunk 8 times is grey; bilinear sampling alone would keep black and white."""
    board = np.indices((512, 512)).sum(axis=0) % 2 * 255
    image = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    small = warp(image, geometry.square_crop((255.5, 255.5), 512, 64), 64)
    assert np.abs(small[2:-2, 2:-2].astype(int) - 127).max() <= 2


@pytest.mark.parametrize("scale", [0.11, 0.2, 0.4])
def test_shrinking_warp_keeps_its_place(scale):
    rows, columns = np.mgrid[0:900, 0:900]
    image = np.stack([columns * 255 / 899, rows * 255 / 899, 0 * rows], axis=-1)
    affine = np.array([[scale, 0, 7.0], [0, scale, -3.0]])
    small = warp(np.rint(image).astype(np.uint8), affine, 64).astype(float)
    x, y = (geometry.transform_points([[20.0, 30.0]], geometry.invert_affine(affine))[0] * 255 / 899).tolist()
    np.testing.assert_allclose(small[30, 20, :2], [x, y], atol=1.0)
    if scale == 0.4:
        exact = cv2.warpAffine(np.rint(image).astype(np.uint8), affine, (64, 64))
        assert np.array_equal(small, exact)


# --- weights files


def test_weights_round_trip(tmp_path, network):
    state = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    path = tmp_path / "prn.safetensors"
    _weights.save_weights(path, _weights.Weights(state, {"model": "prn", "trained_on": "test"}), torch.float32)
    predictor = models.load_model(path, resolution=64)
    assert predictor.card.trained and predictor.card.trained_on == "test"
    assert len(predictor.card.weights_digest) == 64
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(predictor.forward(images), network(images), atol=5e-4, rtol=0)


def test_float16_weights_are_27_mb(tmp_path, network):
    state = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    _weights.save_weights(tmp_path / "half.safetensors", _weights.Weights(state, {"model": "prn"}))
    assert (tmp_path / "half.safetensors").stat().st_size < 27.5e6
    for name, stored in _weights.read_weights(tmp_path / "half.safetensors").tensors.items():
        torch.testing.assert_close(stored.float(), state[name], rtol=5e-4, atol=1e-7)


def test_wrong_weights_are_named(tmp_path, network):
    state = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    path = tmp_path / "w.safetensors"
    changes = {
        "missing stem.conv.weight": {k: v for k, v in state.items() if k != "stem.conv.weight"},
        "unknown extra": {**state, "extra": torch.zeros(1)},
        r"stem.norm.weight is \(17,\), expected \(16,\)": {**state, "stem.norm.weight": torch.zeros(17)},
    }
    for message, tensors in changes.items():
        _weights.save_weights(path, _weights.Weights(tensors, {"model": "prn"}))
        with pytest.raises(WeightsError, match=message):
            models.load_model("prn", weights=path)


def test_damaged_weights_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    _weights.save_weights(path, _weights.Weights({"a": torch.zeros(1000)}, {"model": "prn"}))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a readable safetensors"):
        models.load_model("prn", weights=path)
    with pytest.raises(WeightsError, match="no such weights file"):
        models.load_model("prn", weights=tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="float32"):
        _weights.save_weights(path, _weights.Weights({"a": torch.full((3,), 1e6)}))


# --- loading by name


def test_names_are_files():
    assert {"prn", "mean_face"} <= set(models.model_names())
    folder = Path(models.__file__).parent
    assert all((folder / f"{name}.py").is_file() for name in models.model_names())


@pytest.mark.parametrize("name", [name for name in models.model_names() if not name.startswith("oracle")])
def test_every_model_gives_what_its_card_offers(name, two_faces):
    """In original pixels, and the same for a face alone as in a batch."""
    build = import_module(f"prnbench.models.{name}").build
    predictor = models.load_model(name, **({"runtime": "eager"} if "runtime" in signature(build).parameters else {}))
    images, boxes = [face.image_rgb() for face in two_faces], [face.box_px for face in two_faces]
    together = models.predict(predictor, images, boxes)
    for image, box, found in zip(images, boxes, together, strict=True):
        assert found.failed is None and found.landmarks_px.shape == (68, 3)
        left, top, right, bottom = box
        centre = found.landmarks_px[:, :2].mean(axis=0)
        assert left < centre[0] < right and top < centre[1] < bottom
        assert (found.vertices_px is not None) == ("vertices" in predictor.card.offers)
        assert (found.position_map_px is not None) == ("position_map" in predictor.card.offers)
        assert (found.pose_deg is not None) == ("pose" in predictor.card.offers)
        alone = models.predict(predictor, [image], [box])[0]
        np.testing.assert_allclose(alone.landmarks_px, found.landmarks_px, atol=0.05)


def test_unknown_names_are_helped():
    with pytest.raises(UsageError, match="Did you mean 'mean_face'"):
        models.load_model("meanface")
    with pytest.raises(UsageError, match="Did you mean 'resolution'"):
        models.load_model("prn", resolutoin=128)
    with pytest.raises(UsageError, match="multiple of 32"):
        models.load_model("prn", resolution=100)
    with pytest.raises(UsageError, match="cannot load the model"):
        models.load_model("no_such_package:build")
    with pytest.raises(InputError, match="no such weights file"):
        models.load_model("nothing.safetensors")


def test_users_own_model(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def build(weights=None, device='cpu'):\n    return ('mine', device)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert models.load_model("mine:build", device="cuda") == ("mine", "cuda")


# --- the mean face


def faces(count=5, with_maps=True):
    """One face at many places and sizes: each a stretch of the same points, z offset included."""
    rng = np.random.default_rng(0)
    points, texels = rng.uniform(0, 1, (68, 3)), rng.uniform(0, 1, (8, 8, 3))
    for i in range(count):
        size, place = rng.uniform(50, 200, 2), rng.uniform(0, 300, 3)
        stretch = np.array([*size, np.sqrt(size.prod())])
        position_map = (texels * stretch + place).astype(np.float32) if with_maps else None
        landmarks = (points * stretch + place).astype(np.float32)
        yield Sample(id=f"{i}", landmarks_px=landmarks, position_map_px=position_map)


def test_mean_face_of_one_face_is_that_face(tmp_path):
    """Faces that differ by box only have no spread, so the mean predicts each exactly (z from its mean)."""
    samples = list(faces())
    mean_face.fit(samples, tmp_path / "mean.npz", "five faces")
    predictor = models.load_model("mean_face", weights=tmp_path / "mean.npz")
    assert predictor.card.offers == ("landmarks", "position_map")
    predictions = models.predict(predictor, [None] * len(samples), [s.box_px for s in samples])
    for sample, prediction in zip(samples, predictions, strict=True):
        shift = np.array([0, 0, sample.landmarks_px[:, 2].mean()])
        # The box comes from the landmarks, which span nearly the unit square.
        np.testing.assert_allclose(prediction.landmarks_px + shift, sample.landmarks_px, atol=1e-2)
        np.testing.assert_allclose(prediction.position_map_px + shift, sample.position_map_px, atol=1e-2)


def test_mean_face_without_maps_or_boxes(tmp_path):
    mean_face.fit(list(faces(with_maps=False)), tmp_path / "mean.npz", "five faces")
    predictor = models.load_model("mean_face", weights=tmp_path / "mean.npz")
    good, bad = models.predict(predictor, [None, None], [(0, 0, 10, 10), (5, 5, 5, 9)])
    assert good.position_map_px is None and good.failed is None
    assert bad.failed == "the face box is empty"
    with pytest.raises(InputError, match="no face with landmarks"):
        mean_face.fit([], tmp_path / "none.npz", "an empty set")


def test_damaged_mean_face(tmp_path):
    path = tmp_path / "mean.npz"
    path.write_bytes(b"PK not really")
    with pytest.raises(WeightsError, match="not a mean face"):
        models.load_model("mean_face", weights=path)
    np.savez(path, landmarks=np.zeros((5, 3)), faces=1, source="x")
    with pytest.raises(WeightsError, match=r"expected finite \(68, 3\)"):
        models.load_model("mean_face", weights=path)


def test_the_built_in_mean_face_looks_straight_ahead():
    """Its training distribution is as wide to the left as to the right, so the mean is nearly its own mirror image."""
    from prnbench.landmarks import MIRROR_68
    from prnbench.models.mean_face import built_in_mean, read_mean

    x, y, _ = read_mean(built_in_mean()).landmarks.T
    np.testing.assert_allclose(x, 1 - x[list(MIRROR_68)], atol=0.05)
    np.testing.assert_allclose(y, y[list(MIRROR_68)], atol=0.05)
    assert x[45] - x[36] > 0.3
